"""After a summary by the provider: the bound starts from bytes, the cache from nothing, a restart from the journal."""

from app.agent.quote import QuoteLimits, worst_nano
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.domain.task import BudgetPolicy
from app.journal.journal import read_all
from app.llm.bound import compacted_bound, compaction_nano
from app.llm.models import facts_of
from app.llm.pricing import TOKENS_PER_RATE
from app.llm.provider import ModelAnswer
from tests.support.provider import HAIKU, answer, text, tool_use, usage
from tests.support.seeding import spec
from tests.unit.agent.conftest import OpenStudio, row

LONG = "word " * 12_000
SUMMARY = {"type": "compaction", "content": "They began."}
PASSES = usage(
    100,
    20,
    iterations=[
        {"type": "compaction", "input_tokens": 51_000, "output_tokens": 300},
        {"type": "message", "input_tokens": 100, "output_tokens": 20},
    ],
)
COMPACTS = {"compact_above_tokens": 50_000, "text": LONG, "budget_nano": 10**10}


def compacted() -> ModelAnswer:
    """An answer that begins with a summary and calls a tool."""
    return answer(SUMMARY, tool_use("1"), stop_reason="tool_use", report=PASSES)


async def test_the_bound_starts_from_bytes_again(open_studio: OpenStudio) -> None:
    """From the summary on: what came before it is sent, and passed over."""
    script = (compacted(), answer(text("done")))
    async with open_studio(*script) as studio:
        claim = await studio.claim(session_nano=10**11, **COMPACTS)
        job = studio.job(claim)
        assert await studio.loop.run(job) is None
        first, second = studio.desk.provider.asked
        again = rebuild(claim.spec, await read_all(studio.desk.store, claim.subject))
    assert first.compacted
    assert first.compact_above_tokens == 50_000
    assert second.compact_above_tokens is None  # it is too short for a summary
    assert len(second.messages) == 3
    assert again.compacted_at == job.transcript.compacted_at == 1
    bound = again.prompt_tokens(again.request(first.tools, stream_above=1))
    assert bound < 5_000


async def test_a_report_without_the_pass_is_not_trusted(open_studio: OpenStudio) -> None:
    """The summary took something, and nothing is said of it: the line is at its reservation."""
    silent = answer(SUMMARY, text("done"), report=usage(100, 20))
    async with open_studio(silent) as studio:
        claim = await studio.claim(session_nano=10**11, **COMPACTS)
        assert await studio.run(claim) is None
        events = await studio.desk.events(claim)
    (answered,) = [event for event in events if event.name == "model_answered"]
    (started,) = [event for event in events if event.name == "attempt_started"]
    assert (answered.kind, answered.cost_nano) == ("estimated", started.reserved_nano)


async def test_a_summary_that_failed_is_none(open_studio: OpenStudio) -> None:
    """The provider takes such a block for nothing; so do we."""
    empty = {"type": "compaction", "content": None}
    script = (
        answer(empty, tool_use("1"), stop_reason="tool_use", report=PASSES),
        answer(text("x")),
    )
    async with open_studio(*script) as studio:
        job = studio.job(await studio.claim(session_nano=10**11, **COMPACTS))
        assert await studio.loop.run(job) is None
    assert job.transcript.compacted_at == 0


def test_another_model_is_bounded_by_all_of_it() -> None:
    """Nobody knows whether it reads the other's summary."""
    transcript = Transcript.begin(spec(tools=("probe",), **COMPACTS))
    transcript.compacted_at = 1
    transcript.switch_model("claude-sonnet-5-5")
    assert transcript.compacted_at == 0


def test_the_pass_is_quoted_and_bounded() -> None:
    """The whole prompt once more, and as much output as the model can give."""
    facts, price = facts_of(HAIKU), row(HAIKU)
    limits = QuoteLimits(1, 1_000)
    task = spec(max_steps=1, max_tokens=100, max_tokens_explicit=True, text=LONG)
    plain = worst_nano(task, price, (), limits)
    with_pass = worst_nano(
        spec(
            max_steps=1,
            max_tokens=100,
            max_tokens_explicit=True,
            text=LONG,
            compact_above_tokens=50_000,
            on_budget=BudgetPolicy.FAIL,
        ),
        price,
        (),
        limits,
    )
    assert with_pass > plain + compaction_nano(price, facts, 60_000)
    assert compaction_nano(price, facts, 60_000) == (60_000 * 100 + 128_000 * 500) * 11 // 10
    assert compacted_bound(990_000, facts) == facts.context_window_tokens
    assert TOKENS_PER_RATE == 1_000_000
