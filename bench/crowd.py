"""W3: a crowd of five-step tasks in flight at once over a model that takes its time. Wall time and memory count."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import monotonic

from bench.contenders import contender, in_turn
from bench.process import cpu_s, peak_rss_bytes
from bench.workload import CROWD

_WARM_UP = 20


@dataclass(frozen=True, slots=True)
class Crowd:
    """One contender's round."""

    name: str
    failed: int
    """Tasks that ended without their answer: time saved."""
    wall_s: float
    cpu_ms: float
    """Per task."""
    peak_mb: float
    """The most resident memory of the process, its start included."""


async def measure(
    rounds: int, url: str, folder: Path, say: Callable[[str], None], count: int = CROWD
) -> list[Crowd]:
    """`count` tasks at once, each contender in turn and in a fresh process."""
    found = []
    for number in range(rounds):
        for name in in_turn(number):
            say(f"crowd, round {number + 1}/{rounds}: {name}")
            async with contender(name, f"{url}/slow", folder, count) as (pid, run):
                await run("w2", _WARM_UP)
                used_s, began_s = cpu_s(pid), monotonic()
                failed = await run("w2", count)
                wall_s, used_s = monotonic() - began_s, cpu_s(pid) - used_s
                peak_mb = peak_rss_bytes(pid) / 2**20
                found.append(Crowd(name, failed, wall_s, used_s / count * 1e3, peak_mb))
    return found
