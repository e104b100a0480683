"""Which model answers a task: the client's own choice, or its complexity's route. Pure."""

from collections.abc import Callable, Mapping
from datetime import date

from app.domain.record import record
from app.domain.task import Complexity
from app.llm.pricing import PriceBook, PriceRow

Routes = Mapping[Complexity, str]


@record(frozen=True, slots=True)
class Route:
    """The model and why."""

    model: str
    reason: str


def route(complexity: Complexity, requested: str | None, routes: Routes) -> Route:
    """The requested model, else the route of this complexity."""
    if requested is not None:
        return Route(requested, "requested")
    return Route(routes[complexity], f"complexity:{complexity}")


@record(frozen=True, slots=True)
class Tiers:
    """The routes in the order of what a token in and a token out cost together, at today's prices."""

    routes: Routes
    prices: PriceBook
    today: Callable[[], date]

    def cheaper(self, model: str) -> str | None:
        """The next route down."""
        return cheaper(model, self.routes, self._price)

    def stronger(self, model: str) -> str | None:
        """The next route up."""
        return stronger(model, self.routes, self._price)

    def row(self, model: str) -> PriceRow:
        """The model's prices."""
        return self.prices.row(model, self.today())

    def _price(self, model: str) -> int:
        return token_price(self.row(model))


def token_price(row: PriceRow) -> int:
    """A million tokens in and a million out."""
    return row.rates.input + row.rates.output


def cheaper(model: str, routes: Routes, price: Callable[[str], int]) -> str | None:
    """The dearest of the routes that cost less than `model`; None when there is none."""
    own = price(model)
    return max((m for m in routes.values() if price(m) < own), key=price, default=None)


def stronger(model: str, routes: Routes, price: Callable[[str], int]) -> str | None:
    """The cheapest of the routes that cost more than `model`; None when there is none."""
    own = price(model)
    return min((m for m in routes.values() if price(m) > own), key=price, default=None)
