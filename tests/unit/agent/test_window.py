"""A conversation that outgrows its model's window ends in so many words."""

from dataclasses import replace

from app.agent.window import least_prompt_tokens
from app.domain.task import Outcome
from tests.support.provider import answer, calls, status, text, tool_use, usage
from tests.unit.agent.conftest import OpenStudio

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
