"""A clock that the test owns."""

import asyncio
import time
from datetime import UTC, date, datetime

from app.domain.clock import US_PER_S, SystemClock

START_US = 1_795_348_800_000_000
"""2026-11-22T12:00:00Z."""


class FakeClock:
    """Stands still until told to move. Waiting on it takes no time: it jumps, and lets others run."""

    def __init__(self, now_us: int = START_US) -> None:
        self._start_us = self._now_us = now_us
        self._set_us = 0
        self.slept: list[float] = []
        """What was waited for, in seconds, in order."""

    @staticmethod
    def today() -> date:
        """The day on which every test begins."""
        return datetime.fromtimestamp(START_US // US_PER_S, UTC).date()

    def now_us(self) -> int:
        return self._now_us + self._set_us

    def monotonic_s(self) -> float:
        return (self._now_us - self._start_us) / US_PER_S

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        self.move(duration_s)
        await yielded()

    def set_by(self, jump_s: float) -> None:
        """Set the wall clock forward or back; no time passes."""
        self._set_us += int(jump_s * US_PER_S)

    def move(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""
        self._now_us += int(duration_s * US_PER_S)


class StillClock(FakeClock):
    """For a whole service: what its loops wait for does not move it, and does not come."""

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        await asyncio.Event().wait()


class SteppedClock(FakeClock):
    """Whoever waits on it goes on when the test has moved it that far."""

    def __init__(self) -> None:
        super().__init__()
        self._sleeping: list[tuple[int, asyncio.Event]] = []

    async def sleep(self, duration_s: float) -> None:
        self.slept.append(duration_s)
        until = self._now_us + int(duration_s * US_PER_S), asyncio.Event()
        self._sleeping.append(until)
        try:
            await until[1].wait()
        finally:
            self._sleeping.remove(until)

    async def step(self, duration_s: float) -> None:
        """Let so much time pass, and those run who waited for it."""
        await yielded()
        self.move(duration_s)
        for until_us, over in self._sleeping:
            if until_us <= self._now_us:
                over.set()
        await yielded(5)


class ShiftedClock(SystemClock):
    """The machine's clock, as far ahead of it as the test says. For whole services, whose heartbeats never rest."""

    ahead_s = 0.0

    def move(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass at once."""
        self.ahead_s += duration_s

    def now_us(self) -> int:
        return super().now_us() + int(self.ahead_s * US_PER_S)

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self.ahead_s


async def yielded(times: int = 1) -> None:
    """Let everything that is ready run, `times` times over."""
    for _ in range(times):
        await SystemClock().sleep(0)
        _let_threads_run()


def _let_threads_run() -> None:
    """A loop that spins keeps the interpreter to itself: the store's threads would wait 5 ms for each of its words."""
    time.sleep(1e-6)  # noqa: TID251  (not a wait: the others may have the interpreter now)
