"""Time is an argument: everything that waits or stamps asks a `Clock`, so that tests can own time."""

import asyncio
import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

US_PER_S = 1_000_000


class Clock(Protocol):
    """Instants for records, a monotonic reading for durations, and a way to wait."""

    def now_us(self) -> int:
        """Instant, in microseconds since the Unix epoch, UTC."""
        ...

    def monotonic_s(self) -> float:
        """A reading that never goes backwards, in seconds; only differences mean anything."""
        ...

    async def sleep(self, duration_s: float) -> None:
        """Wait `duration_s` seconds."""
        ...


class SystemClock:
    """The machine's clock."""

    def now_us(self) -> int:
        return time.time_ns() // 1_000

    def monotonic_s(self) -> float:
        return time.monotonic()

    async def sleep(self, duration_s: float) -> None:
        await asyncio.sleep(duration_s)


class DatabaseClock(SystemClock):
    """The clock of a database that others share, as this process knows it: each transaction says what time it is there.

    Durations are the machine's; so is the instant as long as the two are next to the same.
    """

    _APART_US = 100_000
    """Less than this is the way there and back."""
    _PROMPT_S = 0.1
    """What took longer says little of the present, but more than nothing at first."""

    def __init__(self) -> None:
        self._ahead_us: int | None = None

    def now_us(self) -> int:
        return super().now_us() + (self._ahead_us or 0)

    def told(self, instant_us: int, asked_s: float) -> int:
        """The database's answer to a question of `asked_s`, by the monotonic clock; returns it. From any thread."""
        if self._ahead_us is None or self.monotonic_s() - asked_s < self._PROMPT_S:
            ahead_us = instant_us - super().now_us()
            if abs(ahead_us - (self._ahead_us or 0)) > self._APART_US:
                self._ahead_us = ahead_us
            self._ahead_us = self._ahead_us or 0
        return instant_us


class Wall:
    """Notices when the wall clock is set back, by comparing it with the monotonic one."""

    _STEP_S = 1.0
    """Less than this is the clock being disciplined, not set."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._offset_s = self._offset()

    def was_set_back(self) -> bool:
        """Whether it was set back since the last time of asking."""
        before_s, self._offset_s = self._offset_s, self._offset()
        return self._offset_s < before_s - self._STEP_S

    def _offset(self) -> float:
        return self._clock.now_us() / US_PER_S - self._clock.monotonic_s()


def rfc3339(instant_us: int) -> str:
    """An instant as RFC 3339 text in UTC, with microseconds."""
    seconds, micros = divmod(instant_us, US_PER_S)
    return f"{_second(seconds)}.{micros:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"
