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
