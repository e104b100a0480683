"""How steady the machine is: a fixed piece of work between the measurements, and medians of what came out."""

import os
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

_SPINS = 20
_WORK = 20_000
_FSYNCS = 30


def spin_s() -> float:
    """CPU seconds of a fixed piece of Python, the best of a few: the machine's speed right now."""
    return min(_spin() for _ in range(_SPINS))


def _spin() -> float:
    began_s = time.process_time()
    found: dict[int, str] = {}
    for number in range(_WORK):
        found[number & 1023] = str(number)
    return time.process_time() - began_s


def fsync_ms() -> float:
    """Milliseconds of one write and fsync where the databases lie: 0.01 means that nothing reaches a disk."""
    taken = []
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        file = os.open(Path(name) / "probe", os.O_CREAT | os.O_WRONLY, 0o600)
        for _ in range(_FSYNCS):
            began_s = time.monotonic()
            os.write(file, bytes(4_096))
            os.fsync(file)
            taken.append(time.monotonic() - began_s)
        os.close(file)
    return statistics.median(taken) * 1_000


@dataclass(frozen=True, slots=True)
class Spread:
    """Several measurements of one thing."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """The spread of at least one value."""
        found = list(values)
        return cls(statistics.median(found), min(found), max(found), len(found))


def quantile(values: Sequence[float], share: float) -> float:
    """The value that this share of all values does not pass."""
    return sorted(values)[min(int(share * len(values)), len(values) - 1)]


def ratios(ours: Sequence[float], theirs: Sequence[float]) -> Spread:
    """Ours by theirs, round by round: what slowed the machine in one round slowed both."""
    return Spread.of(a / b for a, b in zip(ours, theirs, strict=True))
