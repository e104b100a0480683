"""Stop asking a provider that is down, and find out with one call at a time when it is back."""

from collections.abc import Callable
from enum import StrEnum

WINDOW = 20
"""Outcomes looked at."""
OPENS_AT = 10
"""Failures among them that open the breaker."""
FORGET_S = 60.0
"""Outcomes are forgotten after so long a silence; so is an outage that nobody has looked at since it might end.

Not as long as somebody waits for its end: they would all leave at once, and nobody has asked.
"""
FIRST_WAIT_S = 2.0
LONGEST_WAIT_S = 60.0
PROBE_PATIENCE_S = 60.0
"""A probe that is out longer may be a long answer: then one more may go."""
_MASK = (1 << WINDOW) - 1


class BreakerState(StrEnum):
    """Whether calls may leave."""

    CLOSED = "closed"
    HALF_OPEN = "half_open"
    OPEN = "open"


class Breaker:
    """Closed, calls leave. Open, none does until `until_s`; then half open: exactly one, whose end decides."""

    __slots__ = (
        "_failures",
        "_heard_s",
        "_probe_left_s",
        "_tried_s",
        "_wait_s",
        "awaited",
        "opened_count",
        "opened_s",
        "until_s",
    )

    def __init__(self) -> None:
        self._failures = 0
        """The last outcomes, one bit each."""
        self._heard_s = 0.0
        self._wait_s = FIRST_WAIT_S
        self._probe_left_s: float | None = None
        self._tried_s = 0.0
        """When the last probe left, or was to leave."""
        self.awaited: Callable[[], int] = lambda: 0
        """How many wait for its end."""
        self.opened_s: float | None = None
        """When this outage was noticed; None: closed."""
        self.until_s = 0.0
        self.opened_count = 0

    def state(self, now_s: float) -> BreakerState:
        """How it stands."""
        if self.outage_s(now_s) is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now_s < self.until_s else BreakerState.HALF_OPEN

    def outage_s(self, now_s: float) -> float | None:
        """For how long there has been an outage; None: there is none, as far as is known."""
        if self.opened_s is None or self._is_stale(now_s):
            return None
        return now_s - self.opened_s

    def wait_s(self, now_s: float) -> float:
        """Seconds until a call may leave, if nothing is heard before."""
        if self.opened_s is None:
            return 0.0
        left_s = self.until_s - now_s
        if self._probe_left_s is not None:
            left_s = max(left_s, self._probe_left_s + PROBE_PATIENCE_S - now_s)
        return max(left_s, 0.0)

    def leaves(self, now_s: float) -> bool:
        """A call leaves, `wait_s` being zero; returns whether it is the probe."""
        self._forget(now_s)
        if self.opened_s is None:
            return False
        self._probe_left_s = self._tried_s = now_s
        return True

    def succeeded(self, now_s: float, *, probe: bool) -> bool:
        """A call came through; returns whether that ended an outage. An old call's answer ends none."""
        self._forget(now_s)
        if self.opened_s is not None:
            if not probe:
                return False
            self._close()
            return True
        if self._failures:
            self._note(now_s, 0)
        return False

    def failed(self, now_s: float, retry_after_s: float, *, probe: bool) -> bool:
        """The provider was down for a call; returns whether that opened the breaker."""
        self._forget(now_s)
        if self.opened_s is not None:
            if probe:
                self._probe_left_s = None
                self._wait_s = min(self._wait_s * 2, LONGEST_WAIT_S)
                self.until_s = now_s + max(self._wait_s, retry_after_s)
            return False
        self._note(now_s, 1)
        if self._failures.bit_count() < OPENS_AT:
            return False
        self.open(now_s, max(self._wait_s, retry_after_s))
        return True

    def open(self, now_s: float, wait_s: float) -> None:
        """No call leaves for so long."""
        self._forget(now_s)
        if self.opened_s is None:
            self.opened_s = now_s
            self.opened_count += 1
            self._probe_left_s = None
        self.until_s = max(self.until_s, now_s + wait_s)

    def undecided(self) -> None:
        """The probe did not leave, or was given up: the next call is the probe."""
        self._probe_left_s = None

    def _is_stale(self, now_s: float) -> bool:
        """Long after a probe might have left none has, nor was one about to: nobody knows whether it is still down."""
        if self._probe_left_s is not None or self.awaited():
            return False
        return now_s > max(self.until_s, self._tried_s) + FORGET_S

    def _forget(self, now_s: float) -> None:
        if self.opened_s is not None and self._is_stale(now_s):
            self._close()

    def _close(self) -> None:
        self.opened_s = self._probe_left_s = None
        self._wait_s = FIRST_WAIT_S
        self._failures = 0

    def _note(self, now_s: float, failed: int) -> None:
        if now_s - self._heard_s > FORGET_S:
            self._failures = 0
        self._heard_s = now_s
        self._failures = (self._failures << 1 | failed) & _MASK
