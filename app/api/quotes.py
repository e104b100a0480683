"""/quotes: what a task would cost. Nothing is called, nothing is kept."""

from datetime import UTC, datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from app.agent.classify import cheapest
from app.agent.quote import classifier_worst_nano, likely_nano, worst_nano
from app.api import present
from app.api.bodies import TaskIn
from app.api.guarded import GuardedRoute
from app.api.problems import budget_members
from app.api.routing_out import RoutingOut
from app.api.schemas import Problem
from app.api.services import Services, principal
from app.api.submit import Submission, blocking, candidate_rows, first_call_nano, prepare
from app.budget.accounts import Balance, find_balance
from app.budget.scopes import session_scope
from app.domain.clock import US_PER_S
from app.domain.money import usd_from_nano
from app.domain.record import record
from app.domain.task import Complexity, TaskSpec, Urgency
from app.llm.pricing import PriceRow
from app.queue.spec import spec_of
from app.store.port import Tx

router = APIRouter(route_class=GuardedRoute, tags=["usage"])
HISTORY_LIMIT = 200
"""Latest ended tasks of the owner that are looked at for a likely cost."""
HISTORY_MINIMUM = 5
"""Fewer that are alike say too little."""


class BlockedOut(BaseModel):
    """The budget that would refuse the task now."""

    scope: str
    scope_id: str
    limit_usd: float
    spent_usd: float
    reserved_usd: float
    remaining_usd: float
    needed_usd: float
    resets_at: datetime | None


class QuoteOut(BaseModel):
    """What a task would cost."""

    complexity: Complexity
    model: str
    model_reason: str
    routing: RoutingOut | None = Field(
        description="How the router found the complexity, and what the others would cost; unset where it was named."
    )
    price_row: str
    budget_usd: float = Field(description="What the task may cost.")
    max_steps: int
    max_tokens: int
    worst_case_usd: float = Field(
        description="The most it can cost: every step at its bound, every attempt lost, or its budget."
    )
    uncapped_worst_case_usd: float = Field(description="The same if it had no budget.")
    first_call_worst_case_usd: float = Field(
        description="What its first call would reserve, if its budget pays that."
    )
    minimal_call_usd: float = Field(description="The smallest useful call: below it none is made.")
    likely_usd: float = Field(description="What such a task costs as a rule. Not a bound.")
    likely_from: Literal["history", "rule_of_thumb"] = Field(
        description="The mean of your latest tasks like it, or a rule of thumb when there are too few."
    )
    likely_tasks: int = Field(description="How many tasks like it the history has.")
    accepted: bool = Field(description="`POST /tasks` would take it now.")
    blocked_by: BlockedOut | None = Field(description="The budget that is spent, if not.")


@record(frozen=True, slots=True)
class _Seen:
    """What the store says of it."""

    blocked: Balance | None
    costs_nano: list[int]


@router.post(
    "/quotes",
    response_model=QuoteOut,
    responses={422: {"model": Problem, "description": "A field cannot be accepted."}},
    summary="What a task would cost",
)
async def create_quote(request: Request, body: TaskIn) -> Response:
    """The same body as `POST /tasks`: answers the worst case and a likely cost, and calls nothing."""
    services, who = await principal(request)
    submission = await prepare(services, who, body)

    def op(tx: Tx) -> _Seen:
        return _Seen(_blocked(tx, services, submission), _history(tx, submission))

    return present.json(_quote(services, submission, await services.store.read(op)))


def _blocked(tx: Tx, services: Services, submission: Submission) -> Balance | None:
    defaults, subject = services.defaults, submission.subject
    scope = session_scope(subject.owner, subject.session_id)
    session = find_balance(tx, scope) or Balance(scope, defaults.session_budget_nano, 0, 0)
    return blocking(tx, submission, session, defaults.service, opening=False)


def _history(tx: Tx, submission: Submission) -> list[int]:
    """What the latest ended tasks cost that had the same model, and tools or none as this one."""
    spec, costs = submission.spec, []
    for row in tx.all("ended_tasks", owner=submission.subject.owner, limit=HISTORY_LIMIT):
        past = spec_of(row["spec"])
        if _kind(past) == _kind(spec):
            costs.append(row["spent_nano"])
    return costs


def _kind(spec: TaskSpec) -> tuple[str, str | None, bool, Urgency]:
    return spec.model, spec.agent, bool(spec.tools), spec.urgency


def _quote(services: Services, submission: Submission, seen: _Seen) -> dict[str, Any]:
    spec, row = submission.spec, _row(services, submission)
    tools = services.tools.definitions(spec.tools)
    uncapped = _uncapped_nano(services, spec)
    known = len(seen.costs_nano) >= HISTORY_MINIMUM
    likely = -(-sum(seen.costs_nano) // len(seen.costs_nano)) if known else None
    likely = likely_nano(spec, row, tools) if likely is None else likely
    blocked = None
    if seen.blocked is not None:
        blocked = budget_members(seen.blocked.exhausted(submission.minimal_nano))
    return {
        "complexity": spec.complexity,
        "model": spec.model,
        "model_reason": spec.model_reason,
        "routing": present.routing(spec.routing),
        "price_row": row.row_id,
        "budget_usd": usd_from_nano(spec.budget_nano),
        "max_steps": spec.max_steps,
        "max_tokens": spec.max_tokens,
        "worst_case_usd": usd_from_nano(min(uncapped, spec.budget_nano)),
        "uncapped_worst_case_usd": usd_from_nano(uncapped),
        "first_call_worst_case_usd": usd_from_nano(
            first_call_nano(spec, row, tools, spec.max_tokens)
        ),
        "minimal_call_usd": usd_from_nano(submission.minimal_nano),
        "likely_usd": usd_from_nano(min(likely, uncapped, spec.budget_nano)),
        "likely_from": "history" if known else "rule_of_thumb",
        "likely_tasks": len(seen.costs_nano),
        "accepted": blocked is None,
        "blocked_by": blocked,
    }


def _uncapped_nano(services: Services, spec: TaskSpec) -> int:
    """The worst case of any model that may answer, and of the second opinion before it."""
    limits, tools = services.defaults.quote, services.tools.definitions(spec.tools)
    rows = candidate_rows(services, spec)
    worst = max(worst_nano(spec, row, tools, limits) for row in rows)
    if spec.classify and spec.routing is not None:
        (asked,) = (row for row in rows if row.model == cheapest(spec.routing).model)
        worst += classifier_worst_nano(spec, asked, limits)
    return worst


def _row(services: Services, submission: Submission) -> PriceRow:
    today = datetime.fromtimestamp(services.clock.now_us() // US_PER_S, UTC).date()
    return services.prices.row(submission.spec.model, today)
