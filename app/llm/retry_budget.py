"""How many retries a process may send to a model: a bucket of tokens, so that an outage is not hammered.

A retry costs tokens, and each answer brings one back. In an outage no answers come: the bucket is soon empty, and
a retry that it does not pay waits, without a worker. Time brings the price of one retry back every `probe_s`
seconds, which is how the end of an outage is noticed. Each answer then lets two of those that wait go on, for
nothing: as many as got through come back twofold, so that an upstream that has just recovered is not overrun.

Source of the figures: the AWS SDKs' standard retry mode.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import backoff

from app.domain.clock import Clock
from app.domain.record import record

CALLED_PER_ANSWER = 2
EVERYBODY = 3
"""So many tasks that a model fails, and none that it answers: then it is not their own fault."""
BUCKETS_LIMIT = 256
"""Beyond it full buckets that nobody waits at are forgotten: clients choose the names of models."""
_CROWD = 50
"""So many that wait look again half as often as one alone: it is their process's time, not the upstream's."""
_SELDOM = 10
"""How much more seldom a crowd looks, at most."""
_GRACE_S = 60.0
"""Who was to look again, or was called, and has not come by then, has ended elsewhere."""


@record(frozen=True, slots=True)
class RetryTerms:
    """What a model's bucket holds, and what retries cost."""

    capacity: int = 500
    cost: int = 5
    timeout_cost: int = 10
    """For a retry after a timeout: those hurt an upstream most."""
    probe_s: float = 30.0
    """In so many seconds the price of one retry comes back by itself."""


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float
    waiting: dict[str, float] = field(default_factory=dict)
    """Tasks, those that lined up first before the others, and until when they are expected."""
    called: dict[str, float] = field(default_factory=dict)
    """Tasks that may go on for nothing, and until when."""
    drained_at_s: float | None = None
    """When it was first short of a retry's price since the model last answered, or the bucket was full."""
    struck: set[str] = field(default_factory=set)
    """Tasks, a few of them, that the model has failed since it last answered."""


class RetryBudget:
    """One a process. `on_turn` hears which task may go on, wherever it waits."""

    def __init__(
        self,
        clock: Clock,
        terms: RetryTerms | None = None,
        on_turn: Callable[[str], None] = lambda _task_id: None,
    ) -> None:
        self._clock = clock
        self._terms = terms or RetryTerms()
        self._buckets: dict[str, _Bucket] = {}
        self._on_turn = on_turn

    def pays(self, model: str, task_id: str, *, timed_out: bool) -> bool:
        """Take the price of a retry; False when there is not enough: then nothing is taken."""
        bucket, cost = self._filled(model), self._terms.cost
        if bucket.called.pop(task_id, 0.0) > self._clock.monotonic_s():
            return True
        if timed_out:
            cost = self._terms.timeout_cost
        if bucket.tokens < cost:
            return False
        bucket.tokens -= cost
        self._look(bucket)
        bucket.waiting.pop(task_id, None)
        return True

    def drained(self, model: str) -> bool:
        """There is not enough for another retry: the upstream fails nearly everybody."""
        return self._filled(model).tokens < self._terms.cost

    def outage_s(self, model: str) -> float | None:
        """For how long retries have been more than the bucket pays, and nobody answered; None: they are not."""
        drained_at_s = self._filled(model).drained_at_s
        return None if drained_at_s is None else self._clock.monotonic_s() - drained_at_s

    def failed(self, model: str, task_id: str) -> None:
        """The model has failed the task's call."""
        struck = self._filled(model).struck
        if len(struck) < EVERYBODY:
            struck.add(task_id)

    def fails_all(self, model: str) -> bool:
        """It has failed several tasks, and answered none in between: it is not one of them that is at fault."""
        return len(self._filled(model).struck) >= EVERYBODY

    def tokens(self, model: str) -> float:
        """What is left."""
        return self._filled(model).tokens

    def waiting(self, model: str) -> int:
        """How many tasks wait, about."""
        return len(self._filled(model).waiting)

    def pause_s(self, model: str) -> float:
        """How long a task should wait before it looks again by itself; longer, the more of them wait."""
        crowd = 1 + self.waiting(model) / _CROWD
        longest_s = self._terms.probe_s * min(crowd, _SELDOM)
        wait_s: float = longest_s / 2 + backoff.full_jitter(longest_s / 2)
        return wait_s

    def line_up(self, model: str, task_id: str, wait_s: float) -> None:
        """The task waits: for `wait_s`, or until it is called."""
        bucket, now_s = self._filled(model), self._clock.monotonic_s()
        bucket.waiting.pop(task_id, None)
        bucket.waiting[task_id] = now_s + wait_s + _GRACE_S
        self._first(bucket, now_s)

    def leave(self, task_id: str) -> None:
        """The task waits no more, for whatever model."""
        for bucket in self._buckets.values():
            bucket.waiting.pop(task_id, None)
            bucket.called.pop(task_id, None)

    def answered(self, model: str) -> None:
        """The model has answered somebody."""
        bucket = self._filled(model)
        bucket.tokens = min(bucket.tokens + 1, self._terms.capacity)
        bucket.struck.clear()
        bucket.drained_at_s = None
        if not bucket.waiting:
            return
        now_s = self._clock.monotonic_s()
        for _ in range(CALLED_PER_ANSWER):
            task_id = self._first(bucket, now_s)
            if task_id is None:
                return
            del bucket.waiting[task_id]
            bucket.called[task_id] = now_s + _GRACE_S
            self._on_turn(task_id)

    def _filled(self, model: str) -> _Bucket:
        """The model's bucket, with what time has brought back."""
        now_s, terms = self._clock.monotonic_s(), self._terms
        bucket = self._buckets.get(model)
        if bucket is None:
            if len(self._buckets) >= BUCKETS_LIMIT:
                self._forget(now_s)
            bucket = self._buckets[model] = _Bucket(terms.capacity, now_s)
        bucket.tokens = self._tokens(bucket, now_s)
        bucket.filled_at_s = now_s
        if bucket.tokens >= terms.capacity:  # nobody has tried for long: nobody knows
            bucket.drained_at_s = None
        self._look(bucket)
        return bucket

    def _tokens(self, bucket: _Bucket, now_s: float) -> float:
        terms = self._terms
        gained = (now_s - bucket.filled_at_s) * terms.cost / terms.probe_s
        return min(bucket.tokens + gained, terms.capacity)

    def _forget(self, now_s: float) -> None:
        """A new bucket is as good as one that is full."""
        for model, bucket in list(self._buckets.items()):
            self._first(bucket, now_s)
            full = self._tokens(bucket, now_s) >= self._terms.capacity
            if full and not bucket.waiting and not bucket.called:
                del self._buckets[model]

    def _look(self, bucket: _Bucket) -> None:
        if bucket.drained_at_s is None and bucket.tokens < self._terms.cost:
            bucket.drained_at_s = self._clock.monotonic_s()

    @staticmethod
    def _first(bucket: _Bucket, now_s: float) -> str | None:
        """Who lined up first of those that still wait; the others are struck off."""
        for line in (bucket.called, bucket.waiting):
            while line and (oldest := next(iter(line))) and line[oldest] < now_s:
                del line[oldest]
        return next(iter(bucket.waiting), None)
