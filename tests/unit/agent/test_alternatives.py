"""A step down tells what else could have gone on, as a step up and a fallback do (see their tests), and for how much."""

from dataclasses import replace
from typing import Any

from app.agent.escalation import Ladder
from app.domain.task import Routing
from app.journal.events import ModelDowngraded
from app.llm.bound import prompt_bound, worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceRow, UnknownModel
from app.llm.provider import ModelRequest
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import HAIKU, answer, text

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
NEXT = {OPUS: SONNET, SONNET: HAIKU}.get
DONE = answer(text("done"), model=HAIKU)


def row(model: str) -> PriceRow:
    """Its prices on the day of every test."""
    return prices().row(model, FakeClock.today())


def priced(lost: str | None = None) -> Ladder:
    """Prices of all models but one, and no step up."""

    def known(model: str) -> PriceRow:
        if model == lost:
            raise UnknownModel(model)
        return row(model)

    return Ladder(lambda _model: None, known, 0)


def worst_of(request: ModelRequest, model: str) -> int:
    """The most that the request can cost at this model, from its bytes, with all of its output."""
    prompt = prompt_bound(replace(request, model=model), facts_of(model))
    return worst_case_nano(row(model), facts_of(model), prompt, 1_024)


async def test_those_that_were_passed_over(open_studio: Any) -> None:
    """Opus is left, Sonnet does not fit either: both are told of with their price, and so is the one that goes on."""
    async with open_studio(DONE, cheaper=NEXT, ladder=priced()) as studio:
        given: dict[str, Any] = {"downgrade": True, "budget_nano": 400_000, "max_tokens": 1_024}
        claim = await studio.claim(model=OPUS, routing=Routing(0.91, ()), **given)
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelDowngraded)
        assert (told.from_model, told.to_model, told.score) == (OPUS, HAIKU, 0.91)
        (asked,) = studio.desk.provider.asked
        assert told.alternatives == (OPUS, SONNET)
        assert told.alternatives_worst_nano == (worst_of(asked, OPUS), worst_of(asked, SONNET))
        assert told.next_worst_nano == worst_of(asked, HAIKU)


async def test_what_has_no_price(open_studio: Any) -> None:
    """It is left out; the task goes down all the same."""
    async with open_studio(DONE, cheaper=NEXT, ladder=priced(lost=SONNET)) as studio:
        claim = await studio.claim(model=OPUS, downgrade=True, budget_nano=400_000)
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelDowngraded)
        assert (told.to_model, told.score, told.alternatives) == (HAIKU, None, (OPUS,))
        assert len(told.alternatives_worst_nano) == 1
