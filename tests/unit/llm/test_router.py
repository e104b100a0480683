"""Which model answers."""

from datetime import date

import pytest

from app.domain.task import Complexity
from app.llm.pricing import PriceBook
from app.llm.router import Route, Tiers, route, token_price

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


TIERS = Tiers(
    {
        Complexity.SIMPLE: "claude-haiku-5-5",
        Complexity.MEDIUM: "claude-sonnet-5-5",
        Complexity.COMPLEX: "claude-opus-5-5",
    },
    PriceBook.load(),
    lambda: date(2026, 11, 22),
)


def test_the_tiers_go_by_price_both_ways():
    """Each route has the next dearer and the next cheaper one; at the ends there is none."""
    up = ["claude-haiku-5-5", "claude-sonnet-5-5", "claude-opus-5-5"]
    assert [TIERS.stronger(model) for model in up] == [*up[1:], None]
    assert [TIERS.cheaper(model) for model in up] == [None, *up[:-1]]


def test_a_model_beside_the_routes_has_its_place():
    """It goes by its own price, too."""
    assert TIERS.stronger("claude-haiku-4-5") == "claude-sonnet-5-5"
    assert TIERS.cheaper("claude-opus-4-5") == "claude-opus-5-5"


def test_routes_that_are_one_model_are_one_tier():
    """Nothing goes up or down to itself."""
    same = Tiers(dict.fromkeys(Complexity, "claude-opus-5-5"), TIERS.prices, TIERS.today)
    assert (same.stronger("claude-opus-5-5"), same.cheaper("claude-opus-5-5")) == (None, None)
    assert same.stronger("claude-haiku-5-5") == "claude-opus-5-5"


def test_the_price_of_a_token_in_and_one_out():
    """What the tiers are ordered by."""
    row = TIERS.row("claude-haiku-5-5")
    assert token_price(row) == row.rates.input + row.rates.output
