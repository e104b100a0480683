"""What the next question's bound is built upon: what was reported or proved, never an estimate."""

import pytest

from app.agent.transcript import Transcript
from app.domain.task import Bound
from app.llm.bound import prompt_bound
from app.llm.models import facts_of
from tests.support.provider import answer, text, tool_use, usage
from tests.support.seeding import spec

LONG = "x" * 20_000


def bound_after(transcript: Transcript) -> int:
    """The next question's bound, once the tool has answered."""
    transcript.tool_answered("a", "y" * 100, is_error=False)
    return transcript.prompt_tokens(transcript.request((), stream_above=9_999))


def asked(report: dict[str, object] | None, bound: Bound, prompt_tokens: int) -> Transcript:
    """A long question, asked under this bound, and an answer that reports this usage."""
    transcript = Transcript.begin(spec(text=LONG))
    transcript.asked(prompt_tokens, 2_000, bound)
    blocks = (text("t"), tool_use("a"))
    said = answer(*blocks, stop_reason="tool_use", report=report, no_usage=report is None)
    transcript.answered(said, "run_tools")
    return transcript


def test_an_estimate_without_a_report_starts_from_bytes_again() -> None:
    """The estimate was 150 tokens, nothing was reported: all that will be sent is bounded by its bytes."""
    transcript = asked(None, Bound.ESTIMATE, 150)
    found = bound_after(transcript)
    request = transcript.request((), stream_above=9_999)
    assert found == prompt_bound(request, facts_of(transcript.model)) > len(LONG)


def test_a_report_after_an_estimate_counts() -> None:
    """What the provider reported of the answered question is a fact, however its bound was found."""
    assert bound_after(asked(usage(5_000, 30), Bound.ESTIMATE, 150)) < 6_000


@pytest.mark.parametrize("reported", [0, 20, 200])
def test_an_implausible_report_is_not_built_upon(reported: int) -> None:
    """Some servers leave cached tokens out: less than a hundredth of the bound is no prompt."""
    assert bound_after(asked(usage(reported, 30), Bound.PROVED, 20_100)) > 20_100 + 2_000


def test_a_plausible_report_is() -> None:
    """Four bytes a token: the report makes the bound tight."""
    assert bound_after(asked(usage(5_000, 30), Bound.PROVED, 20_100)) < 6_000


def test_nothing_reported_keeps_the_proved_bound() -> None:
    """The answered question's own bounds, prompt and output, are what the next one builds upon."""
    assert 22_100 < bound_after(asked(None, Bound.PROVED, 20_100)) < 23_000
