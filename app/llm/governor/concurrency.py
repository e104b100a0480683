"""How many calls may be in flight at once: more with every answer, half of it when the provider cannot keep up.

As TCP does it: from a small start the limit up to doubles with each round of answers until it meets trouble; from half
of that on it grows by one a round. It only grows while it is used. Source: RFC 5681; Messages API documentation, "Rate
limits": sharp growth of usage is refused, ramp up slowly.
"""

_IDLE_S = 60.0
_BRAKE_S = 1.0
FEWEST = 4.0
"""Calls in flight that no trouble takes away: one refusal of a single call must not make a queue of all that follow."""


class Concurrency:
    """Additive increase, multiplicative decrease. Calls carry the `epoch` in which they left."""

    __slots__ = (
        "_brake_limit",
        "_brake_s",
        "_steep_below",
        "epoch",
        "in_flight",
        "last_s",
        "limit",
        "most",
        "start",
    )

    def __init__(self, *, start: int, most: int) -> None:
        self.start = float(min(start, most))
        self.most = float(most)
        self.limit = self.start
        self.in_flight = 0
        self.epoch = 0
        """Grows with each decrease: trouble of calls that left before it is old news."""
        self._steep_below = self.most
        self.last_s = 0.0
        """When a call ended last."""
        self._brake_s: float | None = None
        """After an outage: when the limit may double again."""
        self._brake_limit = 0.0

    @property
    def free(self) -> int:
        """Calls that may leave now."""
        return int(self.limit) - self.in_flight

    def enter(self, now_s: float) -> int:
        """One more call is in flight; returns the epoch it leaves in."""
        if not self.in_flight and now_s - self.last_s > _IDLE_S:
            self.limit = min(self.limit, self.start)  # what was learned long ago may not hold
        self.in_flight += 1
        return self.epoch

    def leave(self, now_s: float) -> None:
        """A call has ended, or never left."""
        self.in_flight -= 1
        self.last_s = now_s

    def answered(self, now_s: float) -> None:
        """The provider kept up. Call it before `leave`."""
        if self.in_flight * 2 < self.limit or self._braked(now_s):
            return
        step = 1.0 if self.limit < self._steep_below else 1.0 / self.limit
        self.limit = min(self.limit + step, self.most)

    def overloaded(self, epoch: int) -> bool:
        """The provider did not keep up with calls of that epoch; returns whether that was news. Before `leave`."""
        if epoch != self.epoch:
            return False
        self.epoch += 1
        halved = max(min(self.limit, self.in_flight) / 2, min(FEWEST, self.most))
        self.limit = self._steep_below = min(self.limit, halved)  # it may begin smaller than that
        return True

    def restart(self, limit: float, now_s: float) -> None:
        """After an outage: begin small, and double up to half of what was, once a second at most."""
        self._brake_s, self._brake_limit = now_s + _BRAKE_S, 2 * limit
        self.epoch += 1
        self._steep_below = max(self.limit / 2, limit)
        self.limit = min(limit, self.most)

    def _braked(self, now_s: float) -> bool:
        """Short calls would double it many times a second, before a provider that comes back has said a word of it."""
        if self._brake_s is None or self.limit < self._brake_limit:
            return False
        if now_s < self._brake_s:
            return True
        self._brake_s = None if self.limit >= self._steep_below else now_s + _BRAKE_S
        self._brake_limit = 2 * self.limit
        return False
