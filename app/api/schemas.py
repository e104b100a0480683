"""The bodies of the API: what a client may send, and the shape of what it gets back."""

from datetime import datetime
from typing import Literal

from pydantic import BaseModel, Field

from app.api.routing_out import RoutingOut
from app.domain.task import Bound, BudgetPolicy, Complexity, Urgency


class Tokens(BaseModel):
    """Tokens by meter."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int


class Spend(BaseModel):
    """Money by how sure it is: usage reported, bounded, or the answer lost."""

    confirmed_usd: float
    estimated_usd: float
    presumed_usd: float


class CacheOut(BaseModel):
    """What prompt caching did."""

    read_share: float = Field(
        ge=0, le=1, description="Of all prompt tokens, how many were read from the cache."
    )
    saved_usd: float = Field(
        description="What the same tokens would have cost without caching, less what they cost; negative where more "
        "was written than read."
    )


class PausedOut(BaseModel):
    """What a paused task waits for."""

    reason: Literal["budget"]
    scope: str = Field(description="The budget that is spent.")
    scope_id: str = Field(description="Whose: the task, session or key; the window of the service.")
    limit_usd: float
    spent_usd: float
    reserved_usd: float
    needed_usd: float = Field(description="What must be left of it for the task to go on.")
    resets_at: datetime | None = Field(description="When its window rolls over, if it has one.")


class BatchOut(BaseModel):
    """Where the question of an economy task is."""

    state: Literal["waiting", "in_batch", "returned"] = Field(
        description="It waits for others to be sent with; is in a batch; has come back and waits for a worker."
    )
    batch_id: str | None = Field(description="The provider's name for the batch.")
    since: datetime = Field(description="When it was written down.")


class TaskErrorOut(BaseModel):
    """Why a task failed."""

    type: str
    message: str


class RetryOut(BaseModel):
    """What a retry of a failed task needs to get further than it did."""

    needs: list[str] = Field(
        description="`max_steps`: a higher one, or it is refused. `budget`: more money where it is spent."
    )
    advice: str = Field(description="The same in words.")


class TaskOut(BaseModel):
    """A task and how it stands."""

    id: str
    status: Literal["queued", "running", "paused", "cancelling", "succeeded", "failed", "cancelled"]
    outcome: str | None = Field(
        description="Why it ended; set exactly when the status is terminal."
    )
    result: str | None = Field(
        description="The answer's text; of a failed task what there was, if any."
    )
    partial: bool = Field(
        description="The result is what there was when the task failed, not an answer."
    )
    error: TaskErrorOut | None
    retry: RetryOut | None = Field(description="Set for a failed task that can be retried.")
    paused: PausedOut | None = Field(description="Set exactly when the status is `paused`.")
    urgency: Urgency
    batch: BatchOut | None = Field(
        description="Set while an economy task's question is on its way; its status is `queued` meanwhile."
    )
    task: str | None = Field(description="What was asked; unset once it is erased.")
    complexity: Complexity
    model: str
    model_reason: str
    routing: RoutingOut | None = Field(
        description="How the router found the complexity; unset where it was named."
    )
    system: str | None
    tools: list[str]
    session_id: str
    priority: int
    run_at: datetime | None = Field(description="It is not started before.")
    max_steps: int
    max_tokens: int
    on_budget: BudgetPolicy
    downgrade: bool
    escalate: bool
    compact_above_tokens: int | None
    fallback_models: list[str] = Field(description="Who goes on where the model is down.")
    bound: Bound
    parent_id: str | None
    agent: str | None
    metadata: dict[str, str]
    steps: int = Field(description="Model answers so far.")
    runs: int = Field(description="How often a worker took it up.")
    calls: int = Field(description="Model attempts that were paid or presumed paid.")
    tokens: Tokens
    cache: CacheOut
    budget_usd: float
    cost_usd: float = Field(description="What its own calls cost: the sum of its ledger's lines.")
    subtasks_cost_usd: float = Field(description="What its sub-tasks drew on its budget.")
    reserved_usd: float
    remaining_usd: float
    cost: Spend
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    deadline_at: datetime
    erased_at: datetime | None = Field(
        description="When its prompts, answers and tool data were erased."
    )
    simulated: bool = Field(description="Answered by the built-in simulator, not by a real model.")
    links: dict[str, str]


class TaskPage(BaseModel):
    """Tasks, newest first."""

    tasks: list[TaskOut]
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page.")


class SessionOut(BaseModel):
    """A session and its budget."""

    id: str
    created_at: datetime
    tasks: int
    budget_usd: float
    spent_usd: float
    reserved_usd: float
    remaining_usd: float
    links: dict[str, str]


class UsageOut(BaseModel):
    """What some calls used and cost."""

    calls: int
    spent_usd: float
    cost: Spend
    tokens: Tokens


class SessionUsageOut(UsageOut):
    """A session's usage: sums over its ledger's lines."""

    session_id: str
    cache: CacheOut
    budget_usd: float
    reserved_usd: float
    remaining_usd: float
    by_model: dict[str, UsageOut]
    by_task: dict[str, UsageOut] = Field(
        description="One page of its tasks, the newest first; those without a call are left out. "
        "Every other number is of the whole session."
    )
    next_cursor: str | None = Field(description="Pass it as `cursor` for older tasks.")


class Problem(BaseModel):
    """An error, as RFC 9457 describes it."""

    type: str = Field(description="Stable: branch on this.")
    title: str
    status: int
    detail: str
