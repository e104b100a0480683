"""Which model answers a task: the client's own choice, or its complexity's route. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from app.domain.task import Complexity

Routes = Mapping[Complexity, str]


@dataclass(frozen=True, slots=True)
class Route:
    """The model and why."""

    model: str
    reason: str


def route(complexity: Complexity, requested: str | None, routes: Routes) -> Route:
    """The requested model, else the route of this complexity."""
    if requested is not None:
        return Route(requested, "requested")
    return Route(routes[complexity], f"complexity:{complexity}")


def cheaper(model: str, routes: Routes, price: Callable[[str], int]) -> str | None:
    """The dearest of the routes that cost less than `model`; None when there is none."""
    own = price(model)
    return max((m for m in routes.values() if price(m) < own), key=price, default=None)
