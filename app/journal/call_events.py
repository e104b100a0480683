"""The events of a model call: from its reservation to its settlement."""

from typing import ClassVar

from app.domain.record import record
from app.journal.event import ERROR, WARNING, Event


@record(frozen=True, slots=True)
class AttemptStarted(Event):
    """The worst case is reserved on every scope, and the request is about to leave."""

    name: ClassVar[str] = "attempt_started"
    step: int
    attempt: int
    model: str
    max_tokens: int
    prompt_bound_tokens: int
    reserved_nano: int
    price_row: str
    bound: str = "proved"
    """`estimate` when the prompt was counted by the provider's estimate."""
    cache: str | None = None
    """How long what it caches lives: `5m` or `1h`; unset: it asks for no caching."""
    cached_messages: int | None = None
    """Of the conversation so many messages, from the first on; 0: system prompt and tools only."""
    compact_above_tokens: int | None = None
    """Reserved for a summary of the conversation, too, which the provider makes above so many tokens."""
    tier: str | None = None
    """`batch`: at half price, to be answered in a batch."""


@record(frozen=True, slots=True)
class AttemptBatched(Event):
    """The question is in a batch of the provider's; its answer comes within a day."""

    name: ClassVar[str] = "attempt_batched"
    step: int
    attempt: int
    model: str
    batch_id: str
    items: int
    """Questions in the batch."""


@record(frozen=True, slots=True)
class AttemptReturned(Event):
    """The batch has ended, and what came of the question is stored; a worker takes it in."""

    name: ClassVar[str] = "attempt_returned"
    step: int
    attempt: int
    model: str
    batch_id: str
    result: str
    """`succeeded`, `errored`, `canceled`, `expired`; `missing`: the batch said nothing of it."""
    waited_s: float


@record(frozen=True, slots=True)
class AttemptFailed(Event):
    """The attempt brought no answer. `charged_nano` is what the ledger books for it."""

    name: ClassVar[str] = "attempt_failed"
    level: ClassVar[int] = WARNING
    quoting: ClassVar[tuple[str, ...]] = ("error_message",)
    step: int
    attempt: int
    model: str
    error_type: str
    error_message: str
    http_status: int | None
    phase: str
    decision: str
    """`retry`, `wait` (until the upstream answers again), `interrupted`, or the outcome that the call ends with."""
    charged_nano: int
    kind: str | None
    task_spent_nano: int
    duration_s: float
    request_id: str | None


@record(frozen=True, slots=True)
class RetryScheduled(Event):
    """Another attempt follows after `wait_s`."""

    name: ClassVar[str] = "retry_scheduled"
    level: ClassVar[int] = WARNING
    step: int
    attempt: int
    wait_s: float
    reason: str


@record(frozen=True, slots=True)
class ReservationWaited(Event):
    """Other calls' reservations stood in the way; the call waits its turn."""

    name: ClassVar[str] = "reservation_waited"
    step: int
    scope: str
    needed_nano: int
    free_nano: int


@record(frozen=True, slots=True)
class ModelAnswered(Event):
    """The answer is recorded and paid, in one transaction. Its bytes are the entry's body."""

    name: ClassVar[str] = "model_answered"
    step: int
    attempt: int
    model: str
    stop_reason: str | None
    move: str
    """What follows: `finish`, `run_tools`, `continue`, `nudge`, `enlarge`, `escalate` or `classify`."""
    input_tokens: int
    output_tokens: int
    cache_read_tokens: int
    cache_write_5m_tokens: int
    cache_write_1h_tokens: int
    web_searches: int
    cost_nano: int
    kind: str
    """`confirmed`, or `estimated` when the answer carried no usable usage."""
    price_row: str
    task_spent_nano: int
    duration_s: float
    request_id: str | None


@record(frozen=True, slots=True)
class ReservationExceeded(Event):
    """The upstream reported more than was reserved: an alarm. The truth is booked, the task stops."""

    name: ClassVar[str] = "reservation_exceeded"
    level: ClassVar[int] = ERROR
    step: int
    attempt: int
    model: str
    reserved_nano: int
    actual_nano: int
    surplus_nano: int


@record(frozen=True, slots=True)
class AttemptPresumed(Event):
    """A crash or an interruption lost the answer of an attempt: its reservation counts as spent."""

    name: ClassVar[str] = "attempt_presumed"
    level: ClassVar[int] = WARNING
    step: int
    attempt: int
    model: str
    charged_nano: int
    task_spent_nano: int
    reason: str
