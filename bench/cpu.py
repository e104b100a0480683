"""CPU per task of every contender: in turn within each round, each in a fresh process.

Figures are compared by their ratio to the baseline of the same round, and the median of the rounds counts.
(Scaling each by the machine's speed just before and after it was tried, and made them less steady.)
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic

from bench.contenders import Run, contender, in_turn
from bench.noise import spin_s
from bench.process import ChildFailedError, cpu_s
from bench.workload import CONCURRENCY, STEPS, WORKLOADS


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to run."""

    rounds: int
    tasks: dict[str, int]
    """Tasks measured, by workload."""
    warm_up: int
    """Tasks run before the measured ones."""


@dataclass(slots=True)
class Samples:
    """What was measured, one value a round, by contender and workload."""

    cpu_ms: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """CPU milliseconds per task."""
    per_s: dict[tuple[str, str], list[float]] = field(default_factory=dict)
    """Tasks per second of wall time, with the upstream and the client on the same machine."""
    spins_s: list[float] = field(default_factory=list)
    upstream_us: list[float] = field(default_factory=list)
    """CPU microseconds of the fake upstream per model call: it must not be what limits."""


async def measure(
    plan: Plan,
    url: str,
    upstream: asyncio.subprocess.Process,
    folder: Path,
    say: Callable[[str], None],
) -> Samples:
    """All rounds. `upstream` is the process behind `url`."""
    samples, readings = Samples(), []
    for number in range(plan.rounds):
        for name in in_turn(number):
            say(f"round {number + 1}/{plan.rounds}: {name}")
            async with contender(name, url, folder, CONCURRENCY) as (pid, run):
                for what in WORKLOADS:
                    await _all_of_them(run, what, plan.warm_up)
                for what, count in plan.tasks.items():
                    readings.append(await _reading(name, what, count, pid, run, upstream.pid))
    _collect(samples, readings)
    return samples


@dataclass(frozen=True, slots=True)
class _Reading:
    name: str
    what: str
    cpu_ms: float
    per_s: float
    spin_s: float
    upstream_us: float


async def _reading(
    name: str, what: str, count: int, pid: int, run: Run, upstream_pid: int
) -> _Reading:
    upstream_s, used_s, began_s = cpu_s(upstream_pid), cpu_s(pid), monotonic()
    await _all_of_them(run, what, count)
    wall_s, used_s = monotonic() - began_s, cpu_s(pid) - used_s
    upstream_s = cpu_s(upstream_pid) - upstream_s
    return _Reading(
        name,
        what,
        used_s / count * 1e3,
        count / wall_s,
        spin_s(),
        upstream_s / (count * STEPS[what]) * 1e6,
    )


async def _all_of_them(run: Run, what: str, count: int) -> None:
    if failed := await run(what, count):
        message = f"{failed} of {count} tasks failed"
        raise ChildFailedError(message)


def _collect(samples: Samples, readings: list[_Reading]) -> None:
    for reading in readings:
        key = (reading.name, reading.what)
        samples.cpu_ms.setdefault(key, []).append(reading.cpu_ms)
        samples.per_s.setdefault(key, []).append(reading.per_s)
        samples.spins_s.append(reading.spin_s)
        samples.upstream_us.append(reading.upstream_us)
