"""A task: what a client submits, and how it can stand and end."""

from dataclasses import field
from enum import StrEnum

from app.domain.record import record

LOCAL_OWNER = "local"
"""The owner of every row while API keys are off."""


class Complexity(StrEnum):
    """How hard the client says a task is; each has a route of its own."""

    SIMPLE = "simple"
    MEDIUM = "medium"
    COMPLEX = "complex"


class AskedComplexity(StrEnum):
    """What a client may say of it; `auto` leaves it to the router."""

    SIMPLE = "simple"
    MEDIUM = "medium"
    COMPLEX = "complex"
    AUTO = "auto"


class Urgency(StrEnum):
    """How soon an answer is wanted."""

    NORMAL = "normal"
    ECONOMY = "economy"
    """At half price, in a batch: within hours."""


class TaskStatus(StrEnum):
    """Where a task is: queued → running → (paused | cancelling) → succeeded | failed | cancelled."""

    QUEUED = "queued"
    RUNNING = "running"
    PAUSED = "paused"
    CANCELLING = "cancelling"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def terminal(self) -> bool:
        """Nothing leaves a terminal status."""
        return self in _TERMINAL


_TERMINAL = frozenset({TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.CANCELLED})


class BudgetPolicy(StrEnum):
    """What a task does when spent money leaves less than its next call may cost."""

    FAIL = "fail"
    PAUSE = "pause"
    """Wait for a higher limit, or for the window to roll over; go on from the saved step."""
    FINALIZE = "finalize"
    """One closing turn without tools, its price held back from the start, hands back what there is."""


class Bound(StrEnum):
    """How a call's prompt is bounded before it is made."""

    PROVED = "proved"
    """By what was reported so far and the bytes that are new."""
    ESTIMATE = "estimate"
    """By the provider's own count, which is an estimate, where that is lower."""


class Outcome(StrEnum):
    """Why a task ended. Set exactly when its status is terminal."""

    ANSWERED = "answered"
    BUDGET_FINALIZED = "budget_finalized"
    BUDGET_EXHAUSTED = "budget_exhausted"
    MAX_STEPS = "max_steps"
    DEADLINE = "deadline"
    REFUSED = "refused"
    TRUNCATED = "truncated"
    EMPTY_ANSWER = "empty_answer"
    UPSTREAM_FAILED = "upstream_failed"
    UPSTREAM_REJECTED = "upstream_rejected"
    UPSTREAM_SPEND_CAP = "upstream_spend_cap"
    CRASHED_REPEATEDLY = "crashed_repeatedly"
    HISTORY_LIMIT = "history_limit"
    INTERNAL_ERROR = "internal_error"
    CANCELLED = "cancelled"

    @property
    def status(self) -> TaskStatus:
        """The terminal status that goes with this outcome."""
        if self in (Outcome.ANSWERED, Outcome.BUDGET_FINALIZED):
            return TaskStatus.SUCCEEDED
        if self is Outcome.CANCELLED:
            return TaskStatus.CANCELLED
        return TaskStatus.FAILED


@record(frozen=True, slots=True)
class Signal:
    """One reason of the router's, in words that never quote the task."""

    name: str
    effect: float
    """What it adds to the score."""


@record(frozen=True, slots=True)
class Alternative:
    """What the task would cost on one of the routes, as far as anybody knew when it was accepted."""

    complexity: Complexity
    model: str
    likely_nano: int
    """By a rule of thumb, if it had the money: not a bound, and what tells the cheapest route."""
    worst_nano: int
    """Every step at its bound, every attempt lost, or its budget."""

    @property
    def paid_nano(self) -> int:
        """What it will likely cost: it cannot spend more than its budget."""
        return min(self.likely_nano, self.worst_nano)


@record(frozen=True, slots=True)
class Routing:
    """How the router chose the complexity: made once, when the task is accepted."""

    score: float
    """How hard the task looks, from 0 to 1."""
    signals: tuple[Signal, ...]
    """What the score is made of, the strongest first."""
    alternatives: tuple[Alternative, ...] = ()
    """One for each complexity, the chosen one too."""


@record(frozen=True, slots=True)
class TaskSpec:
    """What was submitted, with the service's defaults filled in. Only a retry changes it, and only its bounds."""

    text: str
    complexity: Complexity
    model: str
    """The model that answers: the client's own choice, or its complexity's route."""
    model_reason: str
    """Why this model: `requested`, `complexity:<name>`, or `auto: …` with the score and its reasons."""
    max_steps: int
    max_tokens: int
    max_tokens_explicit: bool
    """The client named `max_tokens` itself: it is never enlarged."""
    deadline_s: float
    budget_nano: int
    system: str | None = None
    tools: tuple[str, ...] = ()
    metadata: dict[str, str] = field(default_factory=dict)
    on_budget: BudgetPolicy = BudgetPolicy.FAIL
    downgrade: bool = False
    """Before the policy applies, a cheaper route that fits is taken."""
    bound: Bound = Bound.PROVED
    agent: str | None = None
    """The client's name for what this task is part of; usage can be grouped by it."""
    key_id: str | None = None
    """The API key it was submitted with."""
    ancestors: tuple[str, ...] = ()
    """The tasks it is a sub-task of, nearest first."""
    run_at_us: int | None = None
    """Not to be started before."""
    routing: Routing | None = None
    """How its complexity was found; None where the client named it."""
    classify: bool = False
    """The cheapest route is asked for a second opinion before the task begins."""
    urgency: Urgency = Urgency.NORMAL
    compact_above_tokens: int | None = None
    """Where its conversation is longer, the provider summarizes it; None: never."""
    fallback: tuple[str, ...] = ()
    """Models that go on, the first of them that can be had, where the one that is asked is overloaded or down."""
    escalate: bool = False
    """The next dearer route goes on where the model refuses, is cut off, says nothing or goes in circles."""


@record(frozen=True, slots=True)
class TaskError:
    """What went wrong, in plain words. `type` is stable, `message` is for people."""

    type: str
    message: str


@record(frozen=True, slots=True)
class Conclusion:
    """How a task ended."""

    outcome: Outcome
    result: str | None = None
    partial: bool = False
    """The result is what there was when the task failed or its budget was spent, not a whole answer."""
    error: TaskError | None = None


@record(frozen=True, slots=True)
class Subject:
    """Whom a journal entry is about, and which run writes it."""

    task_id: str
    session_id: str
    owner: str = LOCAL_OWNER
    run: int = 0
    """0 when nobody runs the task: the API writes."""


@record(frozen=True, slots=True)
class Claim:
    """A task taken from the queue: this run holds it until it is finished or given back."""

    subject: Subject
    spec: TaskSpec
    priority: int
    created_at_us: int
    deadline_at_us: int
    step_count: int
    worker: str
    """Who claimed it; without that worker's lease the run is void."""
