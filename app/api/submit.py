"""From a body to a durable task: what is checked, and the one transaction that accepts it."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from app.agent.quote import at_tier, first_prompt_tokens
from app.api.bodies import TaskIn
from app.api.economy import is_economy
from app.api.parents import NO_PARENT, Parent, check_parent, parent_of
from app.api.routing import choose, fallback_of, may_escalate, routed, routing_of, to_classify
from app.api.services import Services
from app.budget.accounts import Balance, ServiceLimits, balance, open_account, shared_balances
from app.budget.keys import Principal
from app.budget.scopes import session_scope, task_scope
from app.domain.clock import US_PER_S
from app.domain.errors import SubmissionRefused
from app.domain.ids import new_id
from app.domain.money import nano_from_usd
from app.domain.record import record
from app.domain.task import Bound, BudgetPolicy, Subject, TaskSpec
from app.journal.events import TaskAccepted
from app.journal.journal import append
from app.llm.bound import worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceRow, UnknownModel
from app.llm.provider import JsonObject
from app.llm.router import token_price
from app.queue import verbs
from app.store.port import Tx

SERVER_TOOLS = ("web_search", "web_fetch", "code_execution", "tool_search", "advisor", "mcp_")
"""How the names of the provider's own tools begin. Source: Messages API documentation, tool use."""
RUN_AT_LIMIT_S = 30 * 86_400
"""How far ahead a task may be put off."""
_EPOCH = datetime.fromtimestamp(0, UTC)
_UNBOUNDED = (
    "{name!r} runs at the provider: what it reads and costs is not bounded by max_tokens, so that no budget "
    "could hold it. Bring a tool of your own for it."
)


@record(frozen=True, slots=True)
class Submission:
    """A task that can run, not yet accepted."""

    subject: Subject
    spec: TaskSpec
    priority: int
    minimal_nano: int
    """Price of the smallest useful call: a session that cannot pay it takes no task."""


async def prepare(services: Services, who: Principal, body: TaskIn) -> Submission:
    """Fill in the defaults and check what no schema can.

    Raises:
        SubmissionRefused: an unknown model or tool, or a parent that can have no such sub-task.
    """
    parent = NO_PARENT
    if body.parent_id is not None:
        parent = await services.store.read(parent_of(who, body.parent_id, body.session_id))
    return _submission(services, who, body, parent)


def _submission(services: Services, who: Principal, body: TaskIn, parent: Parent) -> Submission:
    defaults = services.defaults
    chosen = choose(defaults, body)
    check_tools(services, body.tools)
    economy = is_economy(services, body)
    now_us = services.clock.now_us()
    session_id = parent.session_id or body.session_id or new_id("sess", now_us)
    budget = body.budget_usd
    spec = TaskSpec(
        text=body.task,
        complexity=chosen.complexity,
        model=chosen.model,
        model_reason=chosen.reason,
        max_steps=1 if economy else body.max_steps or defaults.max_steps,
        max_tokens=min(
            body.max_tokens or defaults.max_tokens, facts_of(chosen.model).max_output_tokens
        ),
        max_tokens_explicit=body.max_tokens is not None,
        deadline_s=body.deadline_s
        or (defaults.economy_deadline_s if economy else defaults.deadline_s),
        budget_nano=defaults.task_budget_nano if budget is None else nano_from_usd(budget),
        system=body.system,
        tools=body.tools,
        metadata=body.metadata,
        on_budget=body.on_budget,
        downgrade=body.downgrade,
        bound=body.bound,
        agent=body.agent,
        key_id=who.key_id,
        ancestors=parent.ancestors,
        run_at_us=run_at_of(body.run_at, now_us),
        urgency=body.urgency,
        compact_above_tokens=compacts_above(body),
        escalate=not economy and may_escalate(body, chosen),
        classify=not economy and to_classify(defaults, body, chosen),
        fallback=() if economy else fallback_of(defaults, body, chosen),
    )
    subject = Subject(new_id("task", now_us), session_id, who.owner)
    least_nano = minimal_nano(services, spec)
    if chosen.decision is not None:
        spec = replace(spec, routing=routing_of(services, spec, chosen.decision))
    return Submission(subject, spec, body.priority, least_nano)


def compacts_above(body: TaskIn) -> int | None:
    """Above how many tokens the conversation is summarized.

    Raises:
        SubmissionRefused: together with a closing turn, whose price is held back by what is known of the prompt.
    """
    if body.compact_above_tokens is not None and body.on_budget is BudgetPolicy.FINALIZE:
        message = (
            "A summary's size is not known beforehand, so no closing turn can be held back for it."
        )
        raise SubmissionRefused("compact_above_tokens", message, "compaction-unbounded")
    return body.compact_above_tokens


def run_at_of(run_at: datetime | None, now_us: int) -> int | None:
    """The instant before which a task must not start; one in the past is as good as now.

    Raises:
        SubmissionRefused: it is too far ahead.
    """
    if run_at is None:
        return None
    at_us = (run_at - _EPOCH) // timedelta(microseconds=1)
    if at_us > now_us + RUN_AT_LIMIT_S * US_PER_S:
        days = RUN_AT_LIMIT_S // 86_400
        raise SubmissionRefused(
            "run_at", f"A task can be put off for {days} days, at most.", "run-at-too-late"
        )
    return at_us


def check_tools(services: Services, names: tuple[str, ...]) -> None:
    """Make sure that every tool is there.

    Raises:
        SubmissionRefused: one is not, or is named twice.
    """
    known = services.tools.names()
    for name in names:
        if name not in known and name.startswith(SERVER_TOOLS):
            raise SubmissionRefused("tools", _UNBOUNDED.format(name=name), "unbounded-tool")
        if name not in known:
            raise SubmissionRefused(
                "tools", f"There is no tool {name!r}. Known: {', '.join(known)}."
            )
    if len(set(names)) < len(names):
        raise SubmissionRefused("tools", "A tool is named twice.")


def minimal_nano(services: Services, spec: TaskSpec) -> int:
    """The price of the smallest useful call; of a task that may be downgraded, by the cheapest model it can get."""
    tools = services.tools.definitions(spec.tools)
    try:
        alone = replace(spec, escalate=False, classify=False, fallback=())
        rows = candidate_rows(services, alone)
    except UnknownModel as error:
        raise SubmissionRefused("model", str(error)) from error
    return min(first_call_nano(spec, row, tools) for row in rows)


def candidate_rows(services: Services, spec: TaskSpec) -> list[PriceRow]:
    """Today's prices of every model that may answer the task.

    Raises:
        UnknownModel: there is no price for one of them.
    """
    today = datetime.fromtimestamp(services.clock.now_us() // US_PER_S, UTC).date()
    own = services.prices.row(spec.model, today)
    routes = [services.prices.row(model, today) for model in services.defaults.routes.values()]
    found = {
        row.model: row
        for row in routes
        if spec.downgrade
        or spec.classify
        or (spec.escalate and token_price(row) > token_price(own))
    }
    found |= {model: services.prices.row(model, today) for model in spec.fallback}
    found[own.model] = own
    return [found[model] for model in sorted(found)]


def first_call_nano(
    spec: TaskSpec, row: PriceRow, tools: tuple[JsonObject, ...], max_tokens: int | None = None
) -> int:
    """The most that the task's first call can cost; unless `max_tokens` is given, the smallest useful one."""
    facts = facts_of(row.model)
    prompt_tokens = first_prompt_tokens(spec, row.model, tools)
    if max_tokens is None:
        max_tokens = min(facts.min_output_tokens, spec.max_tokens)
        if (
            spec.bound is Bound.ESTIMATE
        ):  # the prompt is counted when the task runs: nothing is known yet
            prompt_tokens = 0
    return at_tier(spec, worst_case_nano(row, facts, prompt_tokens, max_tokens))


def acceptance(services: Services, submission: Submission) -> Callable[[Tx], int]:
    """The transaction that makes the task durable; returns the instant of its acceptance.

    Raises (when run):
        BudgetExhausted: what the session or the service has spent leaves less than a minimal call.
    """
    subject, spec, defaults = submission.subject, submission.spec, services.defaults
    session = session_scope(subject.owner, subject.session_id)

    def op(tx: Tx) -> int:
        tx.later("open_session", owner=subject.owner, id=subject.session_id, now_us=tx.now_us)
        open_account(
            tx,
            session,
            subject.owner,
            defaults.session_budget_nano,
            defaults.service.warn_percent,
        )
        stands = balance(tx, session)
        spent = blocking(tx, submission, stands, defaults.service, opening=True)
        if spent is not None:
            raise spent.exhausted(submission.minimal_nano)
        if spec.ancestors:
            check_parent(tx, subject.owner, spec.ancestors[0])
        percent = defaults.service.warn_percent
        open_account(tx, task_scope(subject.task_id), subject.owner, spec.budget_nano, percent)
        verbs.enqueue(tx, subject, spec, submission.priority, ageing_us=defaults.ageing_us)
        append(
            tx,
            subject,
            TaskAccepted(
                complexity=spec.complexity,
                model=spec.model,
                reason=spec.model_reason,
                tools=spec.tools,
                budget_nano=spec.budget_nano,
                session_budget_nano=stands.limit_nano,
                max_steps=spec.max_steps,
                max_tokens=spec.max_tokens,
                priority=submission.priority,
                input_bytes=len(spec.text.encode()),
                run_at_us=spec.run_at_us,
            ),
        )
        if spec.routing is not None:
            append(tx, subject, routed(spec, spec.routing))
        return tx.now_us

    return op


def blocking(
    tx: Tx, submission: Submission, session: Balance, service: ServiceLimits, *, opening: bool
) -> Balance | None:
    """The first budget that cannot pay for a minimal call, if any.

    Judged by spent money: what other calls hold may come back.
    """
    spec = submission.spec
    envelopes = (balance(tx, task_scope(task_id)) for task_id in spec.ancestors)
    shared = shared_balances(tx, submission.subject.owner, spec.key_id, service, opening=opening)
    for budget in (*envelopes, session, *shared):
        if budget.unspent_nano < submission.minimal_nano:
            return budget
    return None
