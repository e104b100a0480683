"""What a long past costs: the same requests to a store with N finished tasks and to one with next to none.

    python -m bench.history --tasks 1000000

Both services run at the same time and are asked in turn, each request of the one next to the same request
of the other: what slows the machine slows both. "Next to none" is what fills one page of a list.
"""

import argparse
import asyncio
import base64
import json
import random
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from app.domain.clock import SystemClock
from bench.client import Connection, connected, get, post
from bench.noise import quantile_ms
from bench.past import BIG_SESSION, Copy, copies, fill_sqlite
from bench.process import child, cpu_s, line, rss_bytes
from bench.service import Service, serving
from bench.workload import submission

BASE_TASKS = 200
"""Tasks in the store that counts as empty: four pages."""
TARGET = 1.5
"""How much worse a request may be with a long past."""
_WAIT = "prefer: wait=60"
_DOCTOR_LIMIT_S = 600.0
_SAMPLE = 20_000
_CLOCK = SystemClock()

Ask = Callable[["Side"], bytes]
"""A request, for a store with this past."""


@dataclass(slots=True)
class Side:
    """A store with a past, and the service on it."""

    name: str
    home: Path
    past: list[Copy]
    """Some of its tasks, oldest first."""
    service: Service | None = None
    connection: Connection | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311

    def some(self) -> Copy:
        """Any task of the past that the API shows."""
        while (found := self.chance.choice(self.past)).owner != "local":
            pass
        return found

    async def ask(self, request: bytes) -> float:
        """Milliseconds until the answer.

        Raises:
            ConnectionError: it was an error.
        """
        assert self.connection is not None  # noqa: S101
        began_s = monotonic()
        status, body = await self.connection.ask(request)
        took_ms = (monotonic() - began_s) * 1e3
        if status >= 400:
            message = f"{request[:60]!r} answered {status}: {body[:300]!r}"
            raise ConnectionError(message)
        return took_ms


@dataclass(frozen=True, slots=True)
class Compared:
    """One kind of request: milliseconds on both sides."""

    empty_ms: list[float]
    full_ms: list[float]
    empty_cpu_ms: float
    """CPU milliseconds of the service for each request."""
    full_cpu_ms: float

    @property
    def ratio(self) -> float:
        """Of the medians."""
        return quantile_ms(self.full_ms, 0.5) / quantile_ms(self.empty_ms, 0.5)


def _listing(query: str = "") -> Ask:
    return lambda _: get(f"/tasks?{query}")


def _deep(query: str = "", session: bool = False) -> Ask:  # noqa: FBT001, FBT002
    """The page after a task in the middle of the past."""

    def ask(side: Side) -> bytes:
        known = [c for c in side.past[len(side.past) // 2 :] if c.owner == "local"]
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
    "a whole task (POST to its end)": lambda _: post("/tasks", submission("w1"), _WAIT),
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
    "GET /sessions/{id}/usage, big": lambda _: get(f"/sessions/{BIG_SESSION}/usage"),
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


async def _patterns(url: str, home: Path) -> list[str]:
    """Let the service run the tasks that the past is copied from."""
    once: dict[str, object] = {**_TASK, "session_id": "patterns"}
    tools = {**once, "tools": ["calculator"]}
    found = []
    async with serving(url, home=home) as service, connected(service.port) as connection:
        for body in (once, tools, {**tools, "max_steps": 1}):
            _, answer = await connection.ask(post("/tasks", json.dumps(body).encode(), _WAIT))
            found.append(json.loads(answer)["id"])
    return found


async def _filled(url: str, home: Path, count: int) -> Side:
    await asyncio.to_thread(home.mkdir)
    patterns = await _patterns(url, home)
    began_s = monotonic()
    path = home / "data" / "bursar.db"
    past = (count, _CLOCK.now_us(), patterns)
    await asyncio.to_thread(fill_sqlite, path, copies(*past))
    _say(f"{count} tasks in {monotonic() - began_s:.0f} s: {path.stat().st_size / 2**20:.0f} MB")
    return Side(home.name, home, list(islice(copies(*past), 0, None, max(count // _SAMPLE, 1))))


@asynccontextmanager
async def _serving(side: Side, url: str) -> AsyncIterator[None]:
    async with serving(url, home=side.home) as service, connected(service.port) as connection:
        _say(
            f"{side.name}: ready after {service.started_s:.2f} s, CPU {service.started_cpu_s:.2f} s"
        )
        side.service, side.connection = service, connection
        yield


async def _compare(ask: Ask, empty: Side, full: Side, rounds: int) -> Compared:
    taken: dict[str, list[float]] = {empty.name: [], full.name: []}
    used_s = {empty.name: 0.0, full.name: 0.0}
    for number in range(rounds + 2):
        for side in (empty, full) if number % 2 else (full, empty):
            assert side.service is not None  # noqa: S101
            before_s = cpu_s(side.service.pid)
            took_ms = await side.ask(ask(side))
            if number > 1:  # the first are the warm-up
                taken[side.name].append(took_ms)
                used_s[side.name] += cpu_s(side.service.pid) - before_s
    cpu_ms = [used_s[side.name] / rounds * 1e3 for side in (empty, full)]
    return Compared(taken[empty.name], taken[full.name], *cpu_ms)


async def _doctor(side: Side) -> None:
    """How long it takes to examine the store; the books must be in order."""
    began_s = monotonic()
    async with child("-m", "app", "doctor", folder=side.home) as process:
        said = await asyncio.wait_for(line(process), _DOCTOR_LIMIT_S)
        peak_mb = rss_bytes(process.pid) / 2**20
    took_s = monotonic() - began_s
    _say(f"{side.name}: doctor: {said.decode().strip()}; {took_s:.1f} s, {peak_mb:.0f} MB")


def _shown(name: str, found: Compared) -> str:
    sides = "".join(
        f"{quantile_ms(ms, 0.5):9.2f} {quantile_ms(ms, 0.99):9.2f} {cpu_ms:8.2f}  "
        for ms, cpu_ms in ((found.empty_ms, found.empty_cpu_ms), (found.full_ms, found.full_cpu_ms))
    )
    verdict = "" if found.ratio <= TARGET else "  WORSE"
    return f"{name:34}{sides}{found.ratio:8.2f}{verdict}\n"


async def _measure(count: int, rounds: int, folder: Path) -> None:
    async with child("-m", "bench.upstream", folder=folder) as upstream:
        url = f"http://127.0.0.1:{int(await line(upstream))}"
        empty = await _filled(url, folder / "empty", BASE_TASKS)
        full = await _filled(url, folder / "full", count)
        async with _serving(empty, url), _serving(full, url):
            sys.stdout.write(
                f"{'':34}{'empty: ms':>9} {'p99':>9} {'CPU':>8}  {'full: ms':>9} {'p99':>9} {'CPU':>8}  {'ratio':>8}\n"
            )
            for name, ask in REQUESTS.items():
                found = await _compare(ask, empty, full, 5 if name in SLOW else rounds)
                sys.stdout.write(_shown(name, found))
                sys.stdout.flush()
        for side in (empty, full):
            await _doctor(side)


def _say(what: str) -> None:
    sys.stderr.write(what + "\n")
    sys.stderr.flush()


def main() -> int:
    """Fill, measure, print, delete."""
    parser = argparse.ArgumentParser(prog="python -m bench.history", description=__doc__)
    parser.add_argument("--tasks", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--folder", type=Path, help="keep the stores here, and use what is there")
    chosen = parser.parse_args()
    with TemporaryDirectory(prefix="bursar-history-", dir=chosen.folder) as name:
        asyncio.run(_measure(chosen.tasks, chosen.rounds, Path(name)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
