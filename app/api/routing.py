"""Which model a submission goes to: as it says, or as the router finds; and what the other routes would cost."""

from dataclasses import replace
from datetime import UTC, datetime

from app.agent.classify import routed_event
from app.agent.quote import likely_nano, worst_nano
from app.api.bodies import TaskIn
from app.api.services import Defaults, Services
from app.domain.clock import US_PER_S
from app.domain.errors import SubmissionRefused
from app.domain.record import record
from app.domain.task import (
    Alternative,
    AskedComplexity,
    BudgetPolicy,
    Complexity,
    Routing,
    TaskSpec,
)
from app.journal.events import ModelRouted
from app.llm.router import route
from app.llm.routing.decide import Decision, decide
from app.llm.routing.evidence import Asked


@record(frozen=True, slots=True)
class Chosen:
    """The model, why, and the router's decision where it made one."""

    complexity: Complexity
    model: str
    reason: str
    decision: Decision | None = None


def choose(defaults: Defaults, body: TaskIn) -> Chosen:
    """A model that is named goes first; then the complexity that is named; then the service's default."""
    asked = body.complexity or defaults.complexity
    if asked is not AskedComplexity.AUTO or body.model is not None:
        auto = asked is AskedComplexity.AUTO
        complexity = Complexity.MEDIUM if auto else Complexity(asked)
        chosen = route(complexity, body.model, defaults.routes)
        return Chosen(complexity, chosen.model, chosen.reason)
    seen = Asked(body.task, body.system, len(body.tools), body.max_tokens)
    decision = decide(seen, defaults.weights, defaults.thresholds)
    model = defaults.routes[decision.complexity]
    return Chosen(decision.complexity, model, decision.reason, decision)


def may_escalate(body: TaskIn, chosen: Chosen) -> bool:
    """What the client says; else what goes with a complexity that the router found.

    Raises:
        SubmissionRefused: a model is named, and nothing else is to answer.
    """
    if body.escalate and body.model is not None:
        raise SubmissionRefused(
            "escalate",
            "A task that names its model is answered by it alone; leave one of them out.",
        )
    return chosen.decision is not None if body.escalate is None else body.escalate


def fallback_of(defaults: Defaults, body: TaskIn, chosen: Chosen) -> tuple[str, ...]:
    """Who goes on where the model cannot be had: those that follow it in the chain, or all of a chain that it is not in.

    Raises:
        SubmissionRefused: it is asked for, and there is nobody.
    """
    chain = defaults.fallback
    place = chain.index(chosen.model) + 1 if chosen.model in chain else 0
    if body.fallback and not chain[place:]:
        raise SubmissionRefused(
            "fallback", f"There is no model that follows {chosen.model!r} in the service's chain."
        )
    wanted = body.model is None if body.fallback is None else body.fallback
    return chain[place:] if wanted else ()


def to_classify(defaults: Defaults, body: TaskIn, chosen: Chosen) -> bool:
    """Whether a model is to be asked, too. Not where a closing turn's price is held back: that is all of the budget."""
    finalize = body.on_budget is BudgetPolicy.FINALIZE
    return defaults.classify and chosen.decision is not None and not finalize


def routing_of(services: Services, spec: TaskSpec, decision: Decision) -> Routing:
    """The decision as the task keeps it, with what each route would cost by today's prices."""
    today = datetime.fromtimestamp(services.clock.now_us() // US_PER_S, UTC).date()
    tools = services.tools.definitions(spec.tools)
    alone = replace(spec, downgrade=False, escalate=False, classify=False, fallback=())
    found = []
    for complexity, model in services.defaults.routes.items():
        row = services.prices.row(model, today)
        worst = worst_nano(alone, row, tools, services.defaults.quote)
        likely = min(likely_nano(alone, row, tools), worst)
        found.append(Alternative(complexity, model, likely, min(worst, spec.budget_nano)))
    return Routing(decision.score, decision.signals, tuple(found))


def routed(spec: TaskSpec, made: Routing) -> ModelRouted:
    """The event that tells of it."""
    return routed_event(made, spec.complexity, spec.model, by="router", reason=spec.model_reason)
