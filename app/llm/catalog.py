"""The models the service knows: price, end date, and which routes lead to them. Pure."""

from collections.abc import Mapping
from datetime import date
from typing import Literal

from app.domain.record import record
from app.domain.task import Complexity
from app.llm.models import ModelFacts, facts_of
from app.llm.pricing import PriceBook, PriceRow
from app.llm.router import Routes

Status = Literal["current", "deprecated", "retired"]
RETIRING_WITHIN_DAYS = 30


@record(frozen=True, slots=True)
class ModelEntry:
    """One model as it stands on a day."""

    model: str
    status: Status
    retires_on: date | None
    """Announced last day, also when it has passed; None when none is announced."""
    row: PriceRow
    routed_to: tuple[Complexity, ...]
    """The complexities whose route leads to it."""


@record(frozen=True, slots=True)
class RetiringRoute:
    """A route whose model ends soon, or has ended."""

    complexity: Complexity
    model: str
    retires_on: date | None
    """None when it is gone and the day is not known."""


def describe(prices: PriceBook, routes: Routes, today: date) -> list[ModelEntry]:
    """Every model with a price on `today`, sorted by name.

    Those of the price list and of the operator's file, and those that only a route names, such as
    a dated variant. Names are compared without regard to case; a routed model is shown as its route spells it.
    """
    routed = _complexities(routes)
    return [
        ModelEntry(
            model=row.model,
            status=status_of(facts_of(row.model), today),
            retires_on=facts_of(row.model).retires_on,
            row=row,
            routed_to=routed.get(row.model.lower(), ()),
        )
        for row in prices.rows(today, routes.values())
    ]


def retiring(
    routes: Routes, today: date, within_days: int = RETIRING_WITHIN_DAYS
) -> list[RetiringRoute]:
    """The routes to a model whose last day is at most `within_days` away, or has passed."""
    found = []
    for complexity, model in routes.items():
        facts = facts_of(model)
        ends = facts.retires_on
        if status_of(facts, today) == "retired" or (ends and (ends - today).days <= within_days):
            found.append(RetiringRoute(complexity, model, ends))
    return found


def status_of(facts: ModelFacts, today: date) -> Status:
    """Where a model stands: its last day still counts as deprecated."""
    if facts.retires_on is None:
        return "retired" if facts.gone else "current"
    return "deprecated" if today <= facts.retires_on else "retired"


def _complexities(routes: Routes) -> Mapping[str, tuple[Complexity, ...]]:
    found: dict[str, tuple[Complexity, ...]] = {}
    for complexity, model in routes.items():
        found[model.lower()] = (*found.get(model.lower(), ()), complexity)
    return found
