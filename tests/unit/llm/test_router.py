"""Which model answers."""

import pytest

from app.domain.task import Complexity
from app.llm.router import Route, route

ROUTES = {
    Complexity.SIMPLE: "small",
    Complexity.MEDIUM: "middle",
    Complexity.COMPLEX: "large",
}


@pytest.mark.parametrize("complexity", list(Complexity))
def test_each_complexity_has_its_route(complexity):
    """Without a wish, the complexity decides, and the reason says so."""
    assert route(complexity, None, ROUTES) == Route(ROUTES[complexity], f"complexity:{complexity}")


@pytest.mark.parametrize("complexity", list(Complexity))
def test_a_requested_model_goes_first(complexity):
    """The client's own choice is taken whatever the complexity, even without a route."""
    assert route(complexity, "mine", ROUTES) == Route("mine", "requested")
    assert route(complexity, "mine", {}) == Route("mine", "requested")


def test_reasons_are_plain_words():
    """The reason names the complexity as clients write it."""
    assert route(Complexity.SIMPLE, None, ROUTES).reason == "complexity:simple"
