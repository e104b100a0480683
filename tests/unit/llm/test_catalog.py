"""The known models: which are listed, how long they last, and which routes lead to them."""

from datetime import date, timedelta

import pytest

from app.domain.task import Complexity
from app.llm.catalog import RetiringRoute, describe, retiring, status_of
from app.llm.models import ModelFacts
from app.llm.pricing import PriceBook

BOOK = PriceBook.load()
TODAY = date(2026, 11, 22)
SIMPLE, MEDIUM, COMPLEX = Complexity.SIMPLE, Complexity.MEDIUM, Complexity.COMPLEX
ROUTES = {SIMPLE: "claude-haiku-5-5", MEDIUM: "claude-sonnet-5-5", COMPLEX: "claude-opus-5-5"}
SONNET_45_ENDS = date(2026, 11, 30)
OPUS_41_ENDED = date(2026, 8, 5)


def test_every_model_with_a_price_is_listed_once():
    """By name, each with the row that its calls are priced by."""
    entries = describe(BOOK, ROUTES, TODAY)
    names = [entry.model for entry in entries]
    assert names == list(BOOK.known_models())
    assert all(entry.row == BOOK.row(entry.model, TODAY) for entry in entries)


def test_statuses_of_real_models():
    """Current without an end; deprecated with its end ahead; retired keeps the date it had."""
    found = {e.model: (e.status, e.retires_on) for e in describe(BOOK, ROUTES, TODAY)}
    assert found["claude-haiku-5-5"] == ("current", None)
    assert found["claude-sonnet-4-5"] == ("deprecated", SONNET_45_ENDS)
    assert found["claude-opus-4-1"] == ("retired", OPUS_41_ENDED)


@pytest.mark.parametrize(
    ("days", "status"), [(-1, "deprecated"), (0, "deprecated"), (1, "retired")]
)
def test_the_last_day_is_not_over(days, status):
    """A model is retired from the day after the announced one."""
    today = SONNET_45_ENDS + timedelta(days)
    assert status_of(ModelFacts(retires_on=SONNET_45_ENDS), today) == status
    (entry,) = [e for e in describe(BOOK, ROUTES, today) if e.model == "claude-sonnet-4-5"]
    assert (entry.status, entry.retires_on) == (status, SONNET_45_ENDS)


def test_prices_are_those_of_the_day():
    """Sonnet 4.6 had a long-context price until 2026-03-12."""

    def row(today: date) -> object:
        (entry,) = [e for e in describe(BOOK, ROUTES, today) if e.model == "claude-sonnet-4-6"]
        return entry.row.long_above_tokens

    assert (row(date(2026, 3, 12)), row(date(2026, 3, 13))) == (200_000, None)


def test_routes_are_shown_at_their_models():
    """Several may lead to one; most models have none."""
    routes = {SIMPLE: "claude-opus-5", MEDIUM: "claude-haiku-5-5", COMPLEX: "claude-opus-5"}
    routed = {e.model: e.routed_to for e in describe(BOOK, routes, TODAY) if e.routed_to}
    assert routed == {"claude-opus-5": (SIMPLE, COMPLEX), "claude-haiku-5-5": (MEDIUM,)}


def test_a_dated_variant_that_is_routed_to_is_listed():
    """Its price and its end are the family's, and the family is not said to be routed to."""
    dated = "claude-sonnet-4-5-20250929"
    entries = {e.model: e for e in describe(BOOK, ROUTES | {SIMPLE: dated}, TODAY)}
    assert entries[dated].routed_to == (SIMPLE,)
    assert entries[dated].retires_on == SONNET_45_ENDS
    assert entries[dated].row.rates == entries["claude-sonnet-4-5"].row.rates
    assert entries["claude-sonnet-4-5"].routed_to == ()


def test_the_operators_models_are_listed(tmp_path):
    """With the file as their source; a route's spelling does not make a second model of one."""
    file = tmp_path / "prices.toml"
    file.write_text(
        '[models."My-Model"]\ninput = 1\noutput = 2\n[models.other]\ninput = 3\noutput = 4\n',
        encoding="utf-8",
    )
    book = PriceBook.load(file)
    entries = {e.model: e for e in describe(book, ROUTES | {COMPLEX: "MY-model"}, TODAY)}
    assert "my-model" not in entries
    mine, other = entries["MY-model"], entries["other"]
    assert (mine.status, mine.retires_on, mine.routed_to) == ("current", None, (COMPLEX,))
    assert mine.row.row_id == "override:prices.toml:my-model"
    assert (other.row.rates.output, other.routed_to) == (4 * 10**9, ())


def test_a_route_without_a_price_is_not_a_known_model():
    """The start refuses it; the list does not fail over it."""
    assert "gone" not in {e.model for e in describe(BOOK, ROUTES | {SIMPLE: "gone"}, TODAY)}


@pytest.mark.parametrize(("days_left", "warned"), [(31, False), (30, True), (0, True), (-1, True)])
def test_routes_to_models_that_end_are_found(days_left, warned):
    """From 30 days before the last day on, and after it, too."""
    routes = ROUTES | {MEDIUM: "claude-sonnet-4-5"}
    found = retiring(routes, SONNET_45_ENDS - timedelta(days_left))
    expected = RetiringRoute(MEDIUM, "claude-sonnet-4-5", SONNET_45_ENDS)
    assert found == ([expected] if warned else [])


def test_each_route_is_warned_of_by_itself():
    """Two routes to ending models are two findings, in the order of the routes; the notice can be longer."""
    routes = {SIMPLE: "claude-opus-4-1-20250805", MEDIUM: "my-model", COMPLEX: "claude-sonnet-4-5"}
    found = [(r.complexity, r.retires_on) for r in retiring(routes, TODAY)]
    assert found == [(SIMPLE, OPUS_41_ENDED), (COMPLEX, SONNET_45_ENDS)]
    early = SONNET_45_ENDS - timedelta(60)
    assert len(retiring(routes, early)) == 1
    assert len(retiring(routes, early, within_days=60)) == 2
    assert retiring(ROUTES, TODAY) == []


def test_a_model_that_is_gone_is_retired_without_a_known_day():
    """An old model whose last day nobody wrote down is not current, and a route to it warns."""
    assert status_of(ModelFacts(gone=True), date(2026, 1, 1)) == "retired"
    routes = {Complexity.SIMPLE: "claude-3-haiku"}
    assert retiring(routes, date(2026, 1, 1)) == [
        RetiringRoute(Complexity.SIMPLE, "claude-3-haiku", None)
    ]
