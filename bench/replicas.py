"""Thousands of tasks in flight, each model call 200 ms long.

    python -m bench.replicas                       one API, three workers of 1,000 slots, PostgreSQL
    python -m bench.replicas --alone               one process with as many slots, on each database

With two cores it is CPU that limits: read CPU a task first, and the rest as what this machine makes of it.
"""

import argparse
import asyncio
import json
import re
import sys
from collections import Counter
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic
from typing import Any

from app.domain.clock import SystemClock
from bench.__main__ import allow_many_files
from bench.client import Connection, connected, get, submit_all
from bench.noise import quantile
from bench.process import child, cpu_s, line, peak_rss_bytes, tree_cpu_s
from bench.service import Service, serving
from bench.sides import SERVER_OPTIONS
from bench.workload import submission
from tests.support.postgres import Server, server

SUBMITTERS = 64
_STEADY = 300
_LIMIT_S = 900.0
_READY_LIMIT_S = 300.0
_CLOCK = SystemClock()
_SETTINGS = {
    "BURSAR_QUEUE_LIMIT": "1000000",
    "BURSAR_LOG_LEVEL": "WARNING",
    "BURSAR_TASK_DEADLINE_S": "3600",
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Processes that share one store; the first one takes the tasks in."""

    services: dict[str, Service]
    database: Server | None

    @property
    def port(self) -> int:
        """Of the API."""
        return next(iter(self.services.values())).port

    def used_s(self) -> dict[str, float]:
        """CPU seconds so far, by process."""
        found = {name: cpu_s(service.pid) for name, service in self.services.items()}
        if self.database is not None:
            found["PostgreSQL"] = tree_cpu_s(self.database.pid)
        return found


class Town:
    """A store, its database server if it has one, and the processes on it that come and go."""

    def __init__(self, stack: AsyncExitStack, home: Path, database: Server | None) -> None:
        self._stack = stack
        self._home = home
        self._variables = dict(_SETTINGS)
        if database is not None:
            self._variables["BURSAR_DATABASE_URL"] = database.create()
        self.cluster = Cluster({}, database)

    def service(
        self, name: str, url: str, role: str, slots: int
    ) -> AbstractAsyncContextManager[Service]:
        """One process on the store."""
        home = self._home
        if self.cluster.database is not None:  # nothing but its log lies there
            home /= name
            home.mkdir(exist_ok=True)
        return serving(
            url,
            role=role,
            workers=slots,
            home=home,
            ready_limit_s=_READY_LIMIT_S,
            **self._variables,
        )

    async def start(self, name: str, url: str, role: str, slots: int) -> None:
        """One that stays."""
        service = await self._stack.enter_async_context(self.service(name, url, role, slots))
        self.cluster.services[name] = service


async def _accepted(cluster: Cluster, count: int) -> None:
    """Submit all; nobody works on them yet."""
    taken_s: list[float] = []
    used_s, began_s = cluster.used_s(), monotonic()
    await submit_all(cluster.port, submission("w1"), count, SUBMITTERS, taken_s)
    wall_s = monotonic() - began_s
    _say(f"accepting {count} tasks", f"{wall_s:.1f} s, {count / wall_s:.0f} a second")
    _latency("POST", taken_s)
    _costs(cluster, used_s, count)


async def _drained(cluster: Cluster, count: int, used_s: dict[str, float]) -> None:
    """Wait until what was accepted has ended."""
    began_s, most = monotonic(), 0
    while await _some_left(cluster.port):
        most = max(most, sum([await _running(one.port) for one in cluster.services.values()]))
        if monotonic() > began_s + _LIMIT_S:
            message = f"there are still tasks after {_LIMIT_S:g} s"
            raise TimeoutError(message)
        await _CLOCK.sleep(0.25)
    wall_s = monotonic() - began_s
    _say(f"running {count} tasks", f"{wall_s:.1f} s, {count / wall_s:.0f} a second")
    _say("tasks in flight", f"{most}, at most")
    _costs(cluster, used_s, count)
    for name, service in cluster.services.items():
        _say(name, f"{peak_rss_bytes(service.pid) / 2**20:.0f} MB, at most")


async def _steady(cluster: Cluster, count: int) -> None:
    """One task after the other, while every slot is free: how soon it starts, and what it takes."""
    taken_s: list[float] = []
    await submit_all(cluster.port, submission("w1"), count, 2, taken_s)
    while await _some_left(cluster.port):
        await _CLOCK.sleep(0.1)
    tasks = await _tasks(cluster.port, count)
    sys.stdout.write(f"  {count} tasks, two connections posting one after the other:\n")
    _latency("POST", taken_s)
    _latency("from acceptance to start", [_between(t, "created_at", "started_at") for t in tasks])
    _latency("from start to end", [_between(t, "started_at", "finished_at") for t in tasks])


def _costs(cluster: Cluster, before_s: dict[str, float], count: int) -> None:
    after_s = cluster.used_s()
    for name, used_s in after_s.items():
        cpu_ms = (used_s - before_s.get(name, 0.0)) / count * 1e3
        _say(f"  {name}", f"{cpu_ms:.2f} ms CPU a task")


def _check(tasks: list[dict[str, Any]], asked: int) -> None:
    """Every task ended well, every answer was asked for once and is on the books, within every budget.

    A call that hung when its process was killed is on the books, too: presumed spent.
    """
    outcomes = Counter(task["outcome"] for task in tasks)
    calls = sum(task["calls"] for task in tasks)
    over = [task["id"] for task in tasks if task["cost_usd"] > task["budget_usd"]]
    _say("outcomes", str(dict(outcomes)))
    _say("calls in the ledger, upstream", f"{calls}, {asked}")
    if set(outcomes) != {"answered"} or calls != asked or over:
        message = f"something is wrong: {outcomes}, {calls} calls, {asked} asked for, {over[:9]}"
        raise ValueError(message)


async def _some_left(port: int) -> bool:
    async with connected(port) as connection:
        for status in ("queued", "running", "queued"):
            if (await _listed(connection, f"status={status}&limit=1"))["tasks"]:
                return True
    return False


async def _running(port: int) -> int:
    async with connected(port) as connection:
        _, text = await connection.ask(get("/metrics"))
    found = re.search(rb"^bursar_tasks_running (\S+)$", text, re.MULTILINE)
    return int(float(found[1])) if found else 0


async def _tasks(port: int, count: int) -> list[dict[str, Any]]:
    """The latest `count` tasks."""
    found: list[dict[str, Any]] = []
    async with connected(port) as connection:
        query = "limit=200"
        while len(found) < count:
            page = await _listed(connection, query)
            found += page["tasks"]
            query = f"limit=200&cursor={page['next_cursor']}"
    return found[:count]


async def _listed(connection: Connection, query: str) -> dict[str, Any]:
    _, body = await connection.ask(get(f"/tasks?{query}"))
    page: dict[str, Any] = json.loads(body)
    return page


async def _asked(upstream: Connection) -> int:
    _, body = await upstream.ask(get("/counts"))
    counts = json.loads(body)
    return int(counts["answered"] + counts["hung"])


def _between(task: dict[str, Any], since: str, until: str) -> float:
    return (
        datetime.fromisoformat(task[until]) - datetime.fromisoformat(task[since])
    ).total_seconds()


def _latency(what: str, taken_s: list[float]) -> None:
    median, high = quantile(taken_s, 0.5) * 1e3, quantile(taken_s, 0.99) * 1e3
    _say(what, f"p50 {median:.0f} ms, p99 {high:.0f} ms")


def _say(what: str, value: str) -> None:
    sys.stdout.write(f"  {what:30}{value}\n")
    sys.stdout.flush()


async def _measure(plan: argparse.Namespace, folder: Path) -> None:
    async with child("-m", "bench.upstream", folder=folder) as upstream:
        port = int(await line(upstream))
        if not plan.alone:
            sys.stdout.write(
                f"PostgreSQL, an API and {plan.workers} workers of {plan.slots} slots\n"
            )
            await _one(plan, port, folder / "replicas", shared=True)
            return
        for what, shared in (("SQLite", False), ("PostgreSQL", True)):
            sys.stdout.write(f"{what}, one process of {plan.workers * plan.slots} slots\n")
            await _one(plan, port, folder / what, shared=shared)


async def _one(plan: argparse.Namespace, port: int, home: Path, *, shared: bool) -> None:
    url = f"http://127.0.0.1:{port}"
    await asyncio.to_thread(home.mkdir)
    with server(options=SERVER_OPTIONS) if shared else nullcontext() as database:
        async with AsyncExitStack() as stack, connected(port) as upstream:
            town = Town(stack, home, database)
            before = await _asked(upstream)
            if plan.alone:
                async with town.service("accepting", f"{url}/hang", "serve", 1) as service:
                    await _accepted(Cluster({"service": service}, database), plan.tasks)
            else:
                await town.start("api", url, "api", 1)
                await _accepted(town.cluster, plan.tasks)
            used_s = town.cluster.used_s()
            await _start_working(plan, town, f"{url}/slow")
            await _drained(town.cluster, plan.tasks, used_s)
            await _steady(town.cluster, _STEADY)
            tasks = await _tasks(town.cluster.port, plan.tasks + _STEADY)
            _check(tasks, await _asked(upstream) - before)


async def _start_working(plan: argparse.Namespace, town: Town, url: str) -> None:
    if plan.alone:
        await town.start("service", url, "serve", plan.workers * plan.slots)
        return
    names = [f"worker {number + 1}" for number in range(plan.workers)]
    await asyncio.gather(*(town.start(name, url, "worker", plan.slots) for name in names))


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.replicas", description=__doc__)
    parser.add_argument("--tasks", type=int, default=9_000)
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--slots", type=int, default=1_000, help="of each worker")
    parser.add_argument("--alone", action="store_true", help="one process with all the slots")
    plan = parser.parse_args()
    allow_many_files()
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        asyncio.run(_measure(plan, Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
