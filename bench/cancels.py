"""How soon a cancel is carried out: from its acknowledgement to the task's end, at whatever moment it comes.

    python -m bench.cancels                        one process on SQLite; an API and two workers on PostgreSQL

A task has five steps, each model call takes 200 ms, or no call is ever answered. It is an error when anything begins
after the acknowledgement, or stays reserved at the end.
"""

import argparse
import asyncio
import json
import random
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from app.domain.clock import SystemClock
from bench.client import Connection, connected, get, post
from bench.noise import quantile
from bench.process import child, line
from bench.replicas import Town
from bench.sides import SERVER_OPTIONS
from bench.workload import submission
from tests.support.postgres import server

_CLIENTS = 8
_LONGEST_S = 1.2
"""So late comes a cancel, at most: the last steps of a task are among what it meets."""
_BEGUN = {"task_claimed", "attempt_started", "tool_started"}


@dataclass
class Cancels:
    """What has come of them."""

    waited_s: list[float] = field(default_factory=list)
    """From the 202 until the end was read, by the client's clock."""
    carried_out_s: list[float] = field(default_factory=list)
    """From the request's event to the end's, by the store's clock."""
    answered: int = 0
    at_once: int = 0
    too_late: int = 0

    def check(self, task: dict[str, Any], events: list[dict[str, Any]]) -> None:
        """It ended as it must, and note how soon: cancelled, or with the last answer that was on its way."""
        kinds = [event["type"] for event in events]
        asked = kinds.index("cancel_requested")
        ended_well = task["status"] in {"cancelled", "succeeded"}
        self.answered += task["status"] == "succeeded"
        if not ended_well or task["reserved_usd"] or _BEGUN & set(kinds[asked:]):
            message = f"{task['id']} is {task['status']}: {kinds[asked:]}"
            raise ValueError(message)
        ended = kinds.index("task_finished")
        at = [datetime.fromisoformat(events[place]["at"]) for place in (asked, ended)]
        self.carried_out_s.append((at[1] - at[0]).total_seconds())


async def _cancel(port: int, numbers: Iterator[int], chance: random.Random, found: Cancels) -> None:
    """One client: submit, wait a while, cancel, wait for the end."""
    async with connected(port) as connection:
        for _ in numbers:
            _, accepted = await connection.ask(post("/tasks", submission("w2")))
            links = json.loads(accepted)["links"]
            await SystemClock().sleep(chance.uniform(0, _LONGEST_S))
            status, answer = await connection.ask(post(links["self"] + "/cancel", b""))
            if status == 200:
                found.at_once += 1
            elif status == 202:
                began_s = monotonic()
                _, ended = await connection.ask(get(links["self"], "prefer: wait=60"))
                found.waited_s.append(monotonic() - began_s)
                found.check(json.loads(ended), await _events(connection, links["self"]))
            elif status == 409:
                found.too_late += 1
            else:
                message = f"the cancel was answered {status}: {answer[:300]!r}"
                raise ConnectionError(message)


async def _events(connection: Connection, path: str) -> list[dict[str, Any]]:
    _, page = await connection.ask(get(f"{path}/events?limit=1000"))
    events: list[dict[str, Any]] = json.loads(page)["events"]
    return events


async def _measure(what: str, port: int, count: int) -> None:
    found, chance = Cancels(), random.Random(1)  # noqa: S311  (of moments)
    numbers = iter(range(count))
    await asyncio.gather(*(_cancel(port, numbers, chance, found) for _ in range(_CLIENTS)))
    sys.stdout.write(
        f"{what}: {count} tasks, {len(found.waited_s)} were running ({found.answered} of them "
        f"had their answer on its way), {found.at_once} ended at once, {found.too_late} had ended\n"
    )
    for name, taken_s in (("client", found.waited_s), ("store", found.carried_out_s)):
        shares = (quantile(taken_s, 0.5), quantile(taken_s, 0.99), max(taken_s))
        p50, p99, most = (f"{1e3 * taken:.0f} ms" for taken in shares)
        sys.stdout.write(f"  by the {name}'s clock: p50 {p50}, p99 {p99}, max {most}\n")
    sys.stdout.flush()


async def _all(count: int, folder: Path) -> None:
    async with child("-m", "bench.upstream", folder=folder) as upstream:
        url = f"http://127.0.0.1:{int(await line(upstream))}"
        for shared in (False, True):
            for path in ("/slow", "/hang"):
                await _one(count, url + path, folder / f"{shared}{path}", shared=shared)


async def _one(count: int, url: str, home: Path, *, shared: bool) -> None:
    await asyncio.to_thread(home.mkdir, parents=True)
    what = "An API and two workers, PostgreSQL" if shared else "One process, SQLite"
    roles = ("api", "worker", "worker") if shared else ("serve",)
    with server(options=SERVER_OPTIONS) if shared else nullcontext() as database:
        async with AsyncExitStack() as stack:
            town = Town(stack, home, database)
            for number, role in enumerate(roles):
                await town.start(f"{role} {number}", url, role, _CLIENTS)
            await _measure(f"{what}, upstream {url[-5:]}", town.cluster.port, count)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.cancels", description=__doc__)
    parser.add_argument("--tasks", type=int, default=300)
    plan = parser.parse_args()
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        asyncio.run(_all(plan.tasks, Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
