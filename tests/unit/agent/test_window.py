"""A conversation that outgrows its model's window ends in so many words."""

from dataclasses import replace
from typing import Any

from app.agent.escalation import Ladder
from app.agent.window import least_prompt_tokens
from app.domain.task import Outcome
from app.llm.bound import worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceRow
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import answer, calls, status, text, tool_use, usage
from tests.unit.agent.conftest import OpenStudio, Studio

SMALL = "claude-haiku-4-5"
"""It reads 200,000 tokens."""


async def test_what_cannot_fit_is_not_asked(open_studio: OpenStudio) -> None:
    """By the size that the provider reported: no call is made, and the text so far is kept."""
    full = usage(199_900, 60)
    first = answer(text("So far."), tool_use("1"), stop_reason="tool_use", report=full)
    async with open_studio(first) as studio:
        claim = await studio.claim(model=SMALL, text="w" * 800_000)
        end = await studio.run(claim)
    assert end is not None
    assert (end.outcome, end.result, end.partial) == (Outcome.TRUNCATED, "So far.", True)
    assert end.error is not None
    assert end.error.type == "context_window"
    assert "No call was made" in end.error.message


async def test_a_text_that_cannot_fit_is_not_asked(open_studio: OpenStudio) -> None:
    """Not even once."""
    async with open_studio() as studio:
        end = await studio.run(await studio.claim(model=SMALL, text="word " * 250_000))
        assert studio.desk.provider.asked == []
    assert end is not None
    assert end.outcome is Outcome.TRUNCATED


async def test_what_only_the_provider_knew_ends_the_same(open_studio: OpenStudio) -> None:
    """It refuses such a prompt with a 400, unbilled."""
    refusal = status(400, "invalid_request_error")
    refusal.message = "prompt is too long: 200030 tokens > 200000 maximum"
    script = (calls(tool_use("1"), before=[text("So far.")]), refusal)
    async with open_studio(*script) as studio:
        end = await studio.run(await studio.claim(model=SMALL))
    assert end is not None
    assert (end.outcome, end.result, end.partial) == (Outcome.TRUNCATED, "So far.", True)
    assert end.error is not None
    assert end.error.type == "context_window"


async def test_what_fits_is_asked(open_studio: OpenStudio) -> None:
    """And what was reported counts, not the bytes."""
    script = (calls(tool_use("1")), answer(text("done")))
    async with open_studio(*script) as studio:
        job = studio.job(await studio.claim(model=SMALL))
        assert await studio.loop.run(job) is None
    assert 100 <= least_prompt_tokens(job.transcript) < 200
    assert least_prompt_tokens(replace(job.transcript)) == least_prompt_tokens(job.transcript)


LARGE, OTHER = "claude-haiku-5-5", "claude-sonnet-5-5"
"""They read a million tokens."""
LONG = "word " * 300_000
"""More than the small one reads."""


def row(model: str) -> PriceRow:
    """Its prices on the day of every test."""
    return prices().row(model, FakeClock.today())


async def asked(studio: Studio, **given: Any) -> list[str]:
    """Who was asked by a long task that came to an answer."""
    given.setdefault("budget_nano", 10**11)
    assert await studio.run(await studio.claim(text=LONG, **given)) is None
    return [request.model for request in studio.desk.provider.asked]


async def test_no_model_falls_back_to_one_that_cannot_read_it(open_studio: OpenStudio) -> None:
    """The next of the chain that can goes on."""
    down = status(529, "overloaded_error", retry_after_s=0.001)
    script = (down, answer(text("done"), model=OTHER))
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=1) as studio:
        assert await asked(studio, model=LARGE, fallback=(SMALL, OTHER)) == [LARGE, OTHER]


async def test_no_model_steps_up_to_one_that_cannot_read_it(open_studio: OpenStudio) -> None:
    """The next dearer one that can is asked."""
    script = (answer(stop_reason="refusal"), answer(text("done"), model=OTHER))
    ladder = Ladder({LARGE: SMALL, SMALL: OTHER}.get, row, 2)
    async with open_studio(*script, ladder=ladder) as studio:
        assert await asked(studio, model=LARGE, escalate=True) == [LARGE, OTHER]


async def test_nobody_goes_down_to_one_that_cannot_read_it(open_studio: OpenStudio) -> None:
    """It would fit the budget, but not the question."""
    cheaper = {OTHER: SMALL, SMALL: LARGE}.get
    worst = worst_case_nano(row(LARGE), facts_of(LARGE), 1_000_000, 10_000)
    async with open_studio(answer(text("done")), cheaper=cheaper) as studio:
        given = {"model": OTHER, "downgrade": True, "budget_nano": worst, "max_tokens": 10_000}
        assert await asked(studio, **given) == [LARGE]
