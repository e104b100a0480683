"""The events: frozen facts in the past tense. A task's state and transcript follow from its events alone.

Field names end in their unit. Each event says at which level it is logged; `data` fields become the log
line, the stream's message and the journal row alike.
"""

from typing import ClassVar

from app.domain.record import record
from app.journal import call_events
from app.journal.event import WARNING, Event


@record(frozen=True, slots=True)
class TaskAccepted(Event):
    """The task is durable and waits its turn."""

    name: ClassVar[str] = "task_accepted"
    complexity: str
    model: str
    reason: str
    """Why this model: the route taken."""
    tools: tuple[str, ...]
    budget_nano: int
    session_budget_nano: int
    max_steps: int
    max_tokens: int
    priority: int
    input_bytes: int
    run_at_us: int | None = None
    """It is not started before."""


@record(frozen=True, slots=True)
class ModelRouted(Event):
    """The router chose the task's complexity, hence its model. What the others would have cost is told, too."""

    name: ClassVar[str] = "model_routed"
    by: str
    """`router`: the local one, when the task is accepted; `classifier`: a model's second opinion, which goes before
    it; `fallback`: there was none to be had, and the router's word stands."""
    complexity: str
    model: str
    reason: str
    score: float
    signals: tuple[str, ...]
    """What the score is made of, the strongest first. Never words of the task."""
    simple_model: str
    simple_likely_nano: int
    simple_worst_nano: int
    medium_model: str
    medium_likely_nano: int
    medium_worst_nano: int
    complex_model: str
    complex_likely_nano: int
    complex_worst_nano: int


@record(frozen=True, slots=True)
class TaskClaimed(Event):
    """A worker took the task; a run begins."""

    name: ClassVar[str] = "task_claimed"
    worker: str
    waited_s: float


@record(frozen=True, slots=True)
class TaskRequeued(Event):
    """The run gave the task back: it goes on later from its last finished step."""

    name: ClassVar[str] = "task_requeued"
    reason: str
    """`drain`, `retry_wait`, `upstream_outage`, `rate_limited`, `upstream_busy` (as many calls in flight as the
    provider bears), `batch` (until its answer is there), `budget_contention` or `store_failed`; `restart` and
    `lease_expired` for what a dead process left."""
    available_at_us: int


@record(frozen=True, slots=True)
class BudgetWarned(Event):
    """A good part of a budget is spent; told once, until its limit changes."""

    name: ClassVar[str] = "budget_warned"
    level: ClassVar[int] = WARNING
    scope: str
    scope_id: str
    limit_nano: int
    spent_nano: int


@record(frozen=True, slots=True)
class ModelDowngraded(Event):
    """The budget no longer pays for the model; a cheaper route goes on."""

    name: ClassVar[str] = "model_downgraded"
    level: ClassVar[int] = WARNING
    step: int
    from_model: str
    to_model: str
    scope: str
    needed_nano: int
    """What the smallest useful call to the model that is left may cost."""
    next_worst_nano: int | None = None
    """The most that the next call can cost, nothing of it cached."""
    score: float | None = None
    """The router's, where it chose the task's complexity."""
    alternatives: tuple[str, ...] = ()
    """Who else could have gone on: the model that is left, and the other cheaper routes."""
    alternatives_worst_nano: tuple[int, ...] = ()


@record(frozen=True, slots=True)
class ModelEscalated(Event):
    """The model did not get on; the next dearer route goes on from the same question. Its answer is left out."""

    name: ClassVar[str] = "model_escalated"
    level: ClassVar[int] = WARNING
    step: int
    from_model: str
    to_model: str
    why: str
    """`refused`, `truncated`, `empty_answer`, or `stuck`: the same calls with the same results on end."""
    number: int
    """1 for the task's first."""
    prompt_bound_tokens: int
    next_worst_nano: int
    """The most that the next call can cost, nothing of it cached."""
    score: float | None = None
    """The router's, where it chose the task's complexity."""
    alternatives: tuple[str, ...] = ()
    """Who could have gone on instead: the model that is left, and the dearer routes above the next one."""
    alternatives_worst_nano: tuple[int, ...] = ()
    """The most that the next call to each of them can cost, nothing of it cached."""


@record(frozen=True, slots=True)
class ModelFellBack(Event):
    """The model is overloaded or down; the next of the task's chain goes on from the same question."""

    name: ClassVar[str] = "model_fell_back"
    level: ClassVar[int] = WARNING
    step: int
    from_model: str
    to_model: str
    why: str
    """The type of the last attempt's error, or `outage` where none was made any more."""
    outage_s: float | None
    prompt_bound_tokens: int
    next_worst_nano: int
    score: float | None = None
    alternatives: tuple[str, ...] = ()
    """Who could have gone on instead: the model that is left, once it is back, and the others of the chain at hand."""
    alternatives_worst_nano: tuple[int, ...] = ()


@record(frozen=True, slots=True)
class BudgetFinalizing(Event):
    """The budget is spent but for what was held back: the closing turn comes next."""

    name: ClassVar[str] = "budget_finalizing"
    level: ClassVar[int] = WARNING
    step: int
    scope: str
    limit_nano: int
    spent_nano: int
    results_cut: bool
    """Tool results that the model has not seen yet are replaced by a short note."""


@record(frozen=True, slots=True)
class TaskPaused(Event):
    """The task waits for a higher limit, or for the window of its budget to roll over."""

    name: ClassVar[str] = "task_paused"
    level: ClassVar[int] = WARNING
    reason: str
    scope: str
    scope_id: str
    limit_nano: int
    spent_nano: int
    reserved_nano: int
    needed_nano: int
    resets_at_us: int | None


@record(frozen=True, slots=True)
class TaskResumed(Event):
    """What the task was paused for has passed; it waits its turn again."""

    name: ClassVar[str] = "task_resumed"
    paused_s: float


@record(frozen=True, slots=True)
class TaskRetried(Event):
    """Somebody asked for another run of a failed task; it waits its turn again, and goes on from its last good step."""

    name: ClassVar[str] = "task_retried"
    outcome: str
    """How it had failed."""
    steps: int
    max_steps: int
    deadline_at_us: int


@record(frozen=True, slots=True)
class ToolStarted(Event):
    """The model asked for a tool; written before it runs, so that a crash cannot hide that it ran."""

    name: ClassVar[str] = "tool_started"
    quoting: ClassVar[tuple[str, ...]] = ("tool", "input_keys")
    step: int
    call_id: str
    tool: str
    input_keys: tuple[str, ...]
    input_bytes: int


@record(frozen=True, slots=True)
class ToolFinished(Event):
    """The tool's outcome. What the model is told is the entry's body."""

    name: ClassVar[str] = "tool_finished"
    quoting: ClassVar[tuple[str, ...]] = ("tool", "error_message")
    step: int
    call_id: str
    tool: str
    outcome: str
    is_error: bool
    result_bytes: int
    duration_s: float
    error_type: str | None = None
    error_message: str | None = None


@record(frozen=True, slots=True)
class ToolResultKept(Event):
    """A result was shortened for the model; all of it, or its beginning, is the entry's body, for `read_result`."""

    name: ClassVar[str] = "tool_result_kept"
    quoting: ClassVar[tuple[str, ...]] = ("tool",)
    step: int
    call_id: str
    tool: str
    kept_bytes: int


@record(frozen=True, slots=True)
class CancelRequested(Event):
    """Somebody asked to cancel; the worker has still to stop."""

    name: ClassVar[str] = "cancel_requested"


@record(frozen=True, slots=True)
class TaskFinished(Event):
    """The task has ended; nothing follows but a retry of one that failed, and an erasure."""

    name: ClassVar[str] = "task_finished"
    quoting: ClassVar[tuple[str, ...]] = ("error_message",)
    status: str
    outcome: str
    steps: int
    cost_nano: int
    partial: bool
    result_bytes: int
    duration_s: float
    error_type: str | None = None
    error_message: str | None = None


@record(frozen=True, slots=True)
class TaskErased(Event):
    """Prompts, answers and tool data are gone, from this journal, too; money and skeleton stay."""

    name: ClassVar[str] = "task_erased"


@record(frozen=True, slots=True)
class TaskBudgetSet(Event):
    """The task's limit changed."""

    name: ClassVar[str] = "task_budget_set"
    budget_nano: int
    previous_nano: int


@record(frozen=True, slots=True)
class SessionBudgetSet(Event):
    """The session's limit changed (or the session was made with it)."""

    name: ClassVar[str] = "session_budget_set"
    budget_nano: int
    previous_nano: int | None


EVENTS: dict[str, type[Event]] = {
    kind.name: kind
    for kind in (*globals().values(), *vars(call_events).values())
    if isinstance(kind, type) and issubclass(kind, Event) and kind is not Event
}
"""Every event by its name, those of `call_events` too. The set is closed: a name that is not here was written by a newer version."""
