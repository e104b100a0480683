"""Token buckets as the provider keeps them, as far as its headers have told: refilled all the time.

Our copy is charged before a call leaves, by estimate, and put right by its answer. The provider's own word is
exact but late: calls that were on their way when it spoke are not in it. So our level is kept between what it said
and what it said less all that is in flight.
"""

_MINUTE_S = 60.0
_BURST_RECOVERY_S = 60.0


class Bucket:
    """One learned limit. Until a limit was told it holds nobody up."""

    __slots__ = ("_level", "_shown_at_s", "burst", "in_flight", "limit", "slack")

    def __init__(self, *, slack: int = 0) -> None:
        """`slack`: by how much the provider rounds what it says."""
        self.limit = 0
        """Per minute; 0: none known."""
        self.burst = 0.0
        """What may be taken at once: the limit, unless the provider turned out to count in shorter intervals."""
        self.in_flight = 0.0
        """Charged for calls that have not ended."""
        self.slack = slack
        self._level = 0.0
        self._shown_at_s = 0.0

    def level(self, now_s: float) -> float:
        """What is there now; below zero when answers were longer than thought."""
        gained = self.limit * (now_s - self._shown_at_s) / _MINUTE_S
        if gained > 0:
            self._level = min(self.burst, self._level + gained)
            self._shown_at_s = now_s
        return self._level

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` is there; more than fits is let through when the bucket is full."""
        if not self.limit:
            return 0.0
        lacking = min(amount, self.burst) - self.level(now_s)
        return lacking * _MINUTE_S / self.limit if lacking > 0 else 0.0

    def take(self, amount: float) -> None:
        """Charge a call that is about to leave."""
        self.in_flight += amount
        self._level -= amount

    def settle(self, charged: float, actual: float) -> None:
        """The call has ended: what it really took replaces the estimate."""
        self.in_flight -= charged
        self._level = min(self._level + charged - actual, self.burst)

    def told(self, limit: int, remaining: int, now_s: float) -> None:
        """The provider spoke."""
        if limit <= 0:
            return
        if limit != self.limit:
            first = not self.limit
            level = float(limit) if first else self.level(now_s)
            self.limit, self.burst = limit, float(limit)
            self._level, self._shown_at_s = min(level, self.burst), now_s
        if remaining >= 0:
            most = remaining + self.slack
            least = remaining - self.slack - self.in_flight
            self._level = min(max(self.level(now_s), least), most, self.burst)

    def emptied(self, amount: float, wait_s: float, now_s: float) -> None:
        """Refused for want of room: in `wait_s` there is room for `amount`, and for no more."""
        if self.limit:
            self._level = min(self.level(now_s), amount - self.limit * wait_s / _MINUTE_S)

    def overrun(self) -> None:
        """Refused although there should have been room: the provider counts in shorter intervals than a minute."""
        self.burst = max(self.burst / 2, self.limit / _MINUTE_S, 1.0)
        self._level = min(self._level, self.burst)

    def forgive(self) -> None:
        """A minute without a refusal: a larger burst may be tried again."""
        self.burst = min(self.burst * 2, float(self.limit))
