"""What a long past costs: the same requests to a store with N finished tasks and to one with next to none.

    python -m bench.history --tasks 1000000

Both services run at the same time and are asked in turn, each request of the one next to the same request
of the other: what slows the machine slows both. "Next to none" is what fills one page of a list.
"""

import argparse
import asyncio
import base64
import json
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, process_time
from typing import TypeVar

from app.domain.task import LOCAL_OWNER
from app.store.port import Store
from bench import verbs
from bench.client import get, post
from bench.noise import quantile
from bench.past import BIG_SESSION
from bench.process import child, cpu_s, line, rss_bytes
from bench.sides import SERVER_OPTIONS, WAIT, Embedded, Place, Shared, Side, filled, say
from bench.workload import submission
from tests.support.postgres import server

BASE_TASKS = 200
"""Tasks in the store that counts as empty: four pages."""
TARGET = 1.5
"""How much worse a request may be with a long past."""
_WARM_UP, _FEW = 3, 5
T = TypeVar("T")

Ask = Callable[[Side], bytes]
"""A request, for a store with this past."""


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind of request: milliseconds on both sides."""

    empty_ms: list[float]
    full_ms: list[float]
    empty_cpu_ms: float
    full_cpu_ms: float
    """CPU milliseconds for each request, of the service and its database."""

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return quantile(self.full_ms, 0.5) / quantile(self.empty_ms, 0.5)

    @property
    def cpu_ratio(self) -> float:
        """Of the CPU: on a machine with other work the steadier one."""
        return self.full_cpu_ms / self.empty_cpu_ms


def _listing(query: str = "") -> Ask:
    return lambda _: get(f"/tasks?{query}")


def _deep(query: str = "", *, session: bool = False) -> Ask:
    """The page after a task in the middle of the past."""

    def ask(side: Side) -> bytes:
        known = [c for c in side.past[len(side.past) // 2 :] if c.owner == LOCAL_OWNER]
        at = next(c for c in known if not session or c.session_id == BIG_SESSION)
        cursor = (
            base64.urlsafe_b64encode(f"{at.created_at_us}.{at.id}".encode()).decode().rstrip("=")
        )
        return get(f"/tasks?{query}&cursor={cursor}")

    return ask


def _of_session(rest: str = "") -> Ask:
    def ask(side: Side) -> bytes:
        while (one := side.some()).session_id == BIG_SESSION:
            pass
        return get(f"/sessions/{one.session_id}{rest}")

    return ask


_TASK = json.loads(submission("w1"))
_IN_BIG = f"session_id={BIG_SESSION}"
REQUESTS: dict[str, Ask] = {
    "POST /tasks": lambda _: post("/tasks", submission("w1")),
    "POST /tasks, big session": lambda _: post(
        "/tasks", json.dumps({**_TASK, "session_id": BIG_SESSION}).encode()
    ),
    "a whole task (POST to its end)": lambda _: post("/tasks", submission("w1"), WAIT),
    "GET /tasks/{id}": lambda side: get(f"/tasks/{side.some().id}"),
    "GET /tasks/{id}/ledger": lambda side: get(f"/tasks/{side.some().id}/ledger"),
    "list": _listing(),
    "list, deep cursor": _deep(),
    "list, status=succeeded": _listing("status=succeeded"),
    "list, status=failed": _listing("status=failed&limit=5"),
    "list, status=failed, deep": _deep("status=failed&limit=5"),
    "list, status=running (none)": _listing("status=running"),
    "list, big session": _listing(_IN_BIG + "&limit=10"),
    "list, big session, deep": _deep(_IN_BIG + "&limit=10", session=True),
    "list, big session + succeeded": _listing(_IN_BIG + "&status=succeeded&limit=10"),
    "list, big session + failed": _listing(_IN_BIG + "&status=failed&limit=1"),
    "list, big session + running": _listing(_IN_BIG + "&status=running"),
    "GET /sessions/{id}": _of_session(),
    "GET /sessions/{id}, big": lambda _: get(f"/sessions/{BIG_SESSION}"),
    "GET /sessions/{id}/usage": _of_session("/usage"),
    "GET /sessions/{id}/usage, big": lambda _: get(f"/sessions/{BIG_SESSION}/usage?limit=10"),
    "GET /sessions/{id}/ledger, big": lambda _: get(f"/sessions/{BIG_SESSION}/ledger?limit=10"),
    "GET /usage, 1 day": lambda _: get("/usage?from=2026-11-26"),
    "GET /usage, 30 days": lambda _: get("/usage"),
    "GET /usage, 90 days by day": lambda _: get("/usage?from=2026-01-01&group_by=day"),
    "GET /metrics": lambda _: get("/metrics"),
    "GET /readyz": lambda _: get("/readyz"),
}
SLOW = (
    "GET /sessions/{id}/usage, big",
    "GET /sessions/{id}/ledger, big",
    "GET /usage, 30 days",
    "GET /usage, 90 days by day",
)


async def _compare(ask: Ask, empty: Side, full: Side, rounds: int) -> Compared:
    taken: dict[str, list[float]] = {empty.name: [], full.name: []}
    before_s = list[float]()
    for number in range(_WARM_UP + rounds):
        if number == _WARM_UP:
            before_s = [_used_s(side) for side in (empty, full)]
        for side in (empty, full) if number % 2 else (full, empty):
            took_ms = await side.ask(ask(side))
            if number >= _WARM_UP:
                taken[side.name].append(took_ms)
    after_s = [_used_s(side) for side in (empty, full)]
    cpu_ms = [
        (after - before) / rounds * 1e3 for before, after in zip(before_s, after_s, strict=True)
    ]
    return Compared(taken[empty.name], taken[full.name], *cpu_ms)


def _used_s(side: Side) -> float:
    assert side.service is not None  # noqa: S101  (see `Side.serving`)
    return cpu_s(side.service.pid) + side.place.database_cpu_s()


async def _compare_verbs(empty: Side, full: Side, rounds: int) -> dict[str, Compared]:
    """The store's own operations, one at a time, in this process."""
    sides = {side.name: (side.place, side.place.open()) for side in (empty, full)}
    for _, store in sides.values():
        await verbs.begin(store)
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for number in range(_WARM_UP + rounds):
        for name, (place, store) in sides.items():
            for verb, took in (await _one_task(place, store, number)).items():
                if number >= _WARM_UP:
                    taken.setdefault(verb, {}).setdefault(name, []).append(took)
    for _, store in sides.values():
        await store.close()
    found = {}
    for verb, by_side in taken.items():
        empty_ms, full_ms = ([wall for wall, _ in by_side[s.name]] for s in (empty, full))
        cpu_ms = [sum(cpu for _, cpu in by_side[side.name]) / rounds for side in (empty, full)]
        found[f"store: {verb}"] = Compared(empty_ms, full_ms, *cpu_ms)
    return found


async def _one_task(place: Place, store: Store, number: int) -> dict[str, tuple[float, float]]:
    """Milliseconds of each verb of one task, and of CPU."""
    found: dict[str, tuple[float, float]] = {}

    async def timed(verb: str, work: Awaitable[T]) -> T:
        before_s, used_s, began_s = place.database_cpu_s(), process_time(), monotonic()
        value = await work
        took_s, used_s = monotonic() - began_s, process_time() - used_s
        used_s += place.database_cpu_s() - before_s
        found[verb] = took_s * 1e3, used_s * 1e3
        return value

    await timed("enqueue", verbs.enqueue(store, number))
    (claim,) = await timed("claim", verbs.claim(store, 1))
    await timed("reserve + settle", verbs.call(store, claim))
    await timed("finish", verbs.finish(store, claim))
    return found


async def _doctor(side: Side) -> None:
    """How long it takes to examine the store; the books must be in order."""
    began_s = monotonic()
    async with child("-m", "app", "doctor", folder=side.home, **side.place.variables) as process:
        waiting = asyncio.create_task(line(process))
        peak_mb = 0.0
        while not (await asyncio.wait({waiting}, timeout=0.2))[0]:
            peak_mb = max(peak_mb, rss_bytes(process.pid) / 2**20)
        said = (await waiting).decode().strip()
    say(f"{side.name}: doctor: {said}; {monotonic() - began_s:.1f} s, {peak_mb:.0f} MB")


def _shown(name: str, found: Compared) -> str:
    sides = "".join(
        f"{quantile(ms, 0.5):9.2f} {quantile(ms, 0.99):9.2f} {cpu_ms:8.2f}  "
        for ms, cpu_ms in ((found.empty_ms, found.empty_cpu_ms), (found.full_ms, found.full_cpu_ms))
    )
    ratios = "".join(
        f"{ratio:7.2f}{' ' if ratio <= TARGET else '*'}" for ratio in (found.ratio, found.cpu_ratio)
    )
    return f"{name:34}{sides}{ratios}\n"


async def _measure(plan: argparse.Namespace, places: dict[str, Place], folder: Path) -> None:
    async with child("-m", "bench.upstream", folder=folder) as upstream:
        url = f"http://127.0.0.1:{int(await line(upstream))}"
        empty = await filled("empty", folder / "empty", places["empty"], url, BASE_TASKS)
        full = await filled("full", folder / "full", places["full"], url, plan.tasks)
        sys.stdout.write(f"{'':34}{'empty: ms':>9} {'p99':>9} {'CPU':>8}  ")
        sys.stdout.write(f"{'full: ms':>9} {'p99':>9} {'CPU':>8}    ratio  of CPU\n")
        async with empty.serving(url), full.serving(url):
            for side in (empty, full):
                assert side.service is not None  # noqa: S101  (see `serving`)
                await side.service.settle()  # the SDK is loaded beside the first requests
            for name, ask in REQUESTS.items():
                rounds = _FEW if name in SLOW else plan.rounds
                async with empty.talking(), full.talking():
                    found = await _compare(ask, empty, full, rounds)
                sys.stdout.write(_shown(name, found))
                sys.stdout.flush()
    for name, found in (await _compare_verbs(empty, full, plan.rounds)).items():
        sys.stdout.write(_shown(name, found))
    for side in (empty, full):
        await _doctor(side)


@contextmanager
def _places(database: str, folder: Path) -> Iterator[dict[str, Place]]:
    if database == "sqlite":
        yield {name: Embedded(folder / name) for name in ("empty", "full")}
        return
    with server(options=SERVER_OPTIONS) as running:
        yield {name: Shared(running, running.create()) for name in ("empty", "full")}


def main() -> int:
    """Fill, measure, print, delete."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument(
        "--keep", type=Path, help="where the stores stay, and are used again (SQLite)"
    )
    plan = parser.parse_args()
    with (
        nullcontext(plan.keep) if plan.keep else TemporaryDirectory(prefix="bursar-bench-") as name,
        _places(plan.database, Path(name)) as places,
    ):
        asyncio.run(_measure(plan, places, Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
