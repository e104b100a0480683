"""Start-up, memory and idling of the service."""

import asyncio
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from app.domain.clock import SystemClock
from bench.client import Connection, connected, get, submit_all
from bench.noise import Spread
from bench.process import ROOT, ChildFailedError, cpu_s, rss_bytes
from bench.service import SUBMITTERS, Service, serving
from bench.workload import submission

FIRST = 100
"""Tasks in flight before the memory of more is measured: what is allocated once is there by then."""
_SETTLE_S = 1.0
_WAIT_LIMIT_S = 300.0
_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Startups:
    """From exec to the first 200 of /readyz."""

    cold_s: Spread
    cold_cpu_s: Spread
    warm_s: Spread
    warm_cpu_s: Spread


@dataclass(frozen=True, slots=True)
class InFlight:
    """The memory of a service with so many tasks in flight, their model calls open."""

    tasks: int
    rss_mb: float
    kb_per_task: float
    """Of one more task than the first hundred."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """What a running service takes."""

    idle_rss_mb: float
    idle_cpu_ms_per_s: float
    in_flight: tuple[InFlight, ...]


async def startups(url: str, cold: int, warm: int) -> Startups:
    """Cold: the files of Python and its packages are dropped from the page cache before each start."""
    cold_found = []
    for _ in range(cold):
        await asyncio.to_thread(_drop_page_cache)
        cold_found.append(await _start(url))
    warm_found = [await _start(url) for _ in range(warm)]
    return Startups(
        Spread.of(wall_s for wall_s, _ in cold_found),
        Spread.of(cpu for _, cpu in cold_found),
        Spread.of(wall_s for wall_s, _ in warm_found),
        Spread.of(cpu for _, cpu in warm_found),
    )


async def _start(url: str) -> tuple[float, float]:
    async with serving(url) as service:
        return service.started_s, service.started_cpu_s


async def footprint(url: str, crowds: tuple[int, ...], idle_s: float) -> Footprint:
    """Idle first, then with each of `crowds` tasks in flight whose model never answers."""
    async with serving(url) as service:
        await service.settle()
        idle_rss = rss_bytes(service.pid)
        used_s, began_s = cpu_s(service.pid), monotonic()
        await _CLOCK.sleep(idle_s)
        idle_cpu = (cpu_s(service.pid) - used_s) / (monotonic() - began_s)
    found = [await _crowded(url, tasks) for tasks in crowds]
    return Footprint(idle_rss / 2**20, idle_cpu * 1e3, tuple(found))


async def _crowded(url: str, tasks: int) -> InFlight:
    """In a fresh process, that may have all of them in flight at once: no answer will show that more is possible."""
    port = int(url.rpartition(":")[2])
    at_once: dict[str, Any] = {"BURSAR_CALL_CONCURRENCY_START": str(tasks)}
    async with (
        connected(port) as upstream,
        serving(f"{url}/hang", workers=tasks, **at_once) as service,
    ):
        before = await _pending(upstream)
        first = await _in_flight(service, upstream, FIRST, before + FIRST)
        rss = await _in_flight(service, upstream, tasks - FIRST, before + tasks)
    return InFlight(tasks, rss / 2**20, (rss - first) / (tasks - FIRST) / 1024)


async def _in_flight(service: Service, upstream: Connection, count: int, total: int) -> int:
    """Submit `count` tasks and wait until `total` model calls hang; resident bytes then.

    Raises:
        ChildFailedError: they never do.
    """
    await submit_all(service.port, submission("w1"), count, SUBMITTERS)
    limit_s = monotonic() + _WAIT_LIMIT_S
    while await _pending(upstream) < total:
        if monotonic() > limit_s:
            message = f"only {await _pending(upstream)} of {total} calls are in flight"
            raise ChildFailedError(message)
        await _CLOCK.sleep(_SETTLE_S / 10)
    await _CLOCK.sleep(_SETTLE_S)
    return rss_bytes(service.pid)


async def _pending(upstream: Connection) -> int:
    _, text = await upstream.ask(get("/pending"))
    return int(text)


def _drop_page_cache() -> None:
    """Ask the kernel to forget the files a start reads; needs no privilege, and is a wish."""
    os.sync()
    for folder in {sys.prefix, sys.base_prefix, str(ROOT / "app")}:
        for path in Path(folder).rglob("*"):
            if path.suffix in {".py", ".pyc", ".so", ".json", ".pem"} and path.is_file():
                _forget(path)


def _forget(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(file)
