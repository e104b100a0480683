"""Streams that break off: paid by what their beginning reported and all they could still have said."""

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.domain.task import Bound, Claim, Outcome
from app.journal.call_events import AttemptFailed, AttemptStarted, ReservationExceeded
from app.llm.bound import worst_case_nano
from app.llm.call import CallFailed
from app.llm.models import facts_of
from app.llm.provider import ModelFailure, ModelRequest, Phase
from app.llm.stream import MessageStream
from app.llm.usage import Usage, read_usage
from tests.support.clock import FakeClock
from tests.support.desk import PROMPT_TOKENS, Desk, call_of, open_desk, prices
from tests.support.loglines import LineChecker
from tests.support.provider import HAIKU, answer, in_stream, lost, text, usage
from tests.support.seeding import claimed, drift, lines_of, row_of

WISH = 2_048
RATES = prices().row(HAIKU, FakeClock.today()).rates


def begun(**report: Any) -> Usage | None:
    """What `message_start` reported; its output is a placeholder."""
    return read_usage({"input_tokens": 400, "output_tokens": 1, **report}, HAIKU)


def cut(report: Usage | None) -> ModelFailure:
    """The connection broke in the middle of the stream."""
    return lost(usage_so_far=report)


def erred(report: Usage | None) -> ModelFailure:
    """The provider reported an error in the middle of the stream."""
    failure = in_stream("overloaded_error")
    failure.usage_so_far = report
    return failure


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk that makes one attempt only."""
    async with open_desk(tmp_path, max_attempts=1) as opened:
        yield opened


async def failed(desk: Desk, failure: ModelFailure, **given: Any) -> tuple[Claim, AttemptFailed]:
    """What the journal says of an attempt that failed like this."""
    desk.provider.script = [failure]
    claim = await claimed(desk.store)
    with pytest.raises(CallFailed):
        await desk.ask(call_of(claim, **given))
    (event,) = await desk.events(claim, AttemptFailed)
    assert isinstance(event, AttemptFailed)
    assert await drift(desk.store) == []
    return claim, event


@pytest.mark.parametrize("broken", [cut, erred])
async def test_a_stream_that_breaks_off_is_estimated(desk: Desk, broken: Any) -> None:
    """Its prompt as reported, and the whole of `max_tokens`: less than was reserved, never less than was said."""
    claim, event = await failed(desk, broken(begun()))
    exact = 400 * RATES.input + WISH * RATES.output
    (started,) = await desk.events(claim, AttemptStarted)
    assert (event.kind, event.charged_nano) == ("estimated", exact // 1_000_000)
    assert event.charged_nano < started.reserved_nano
    lines = await lines_of(desk.store)
    assert (lines["estimated_nano"], lines["presumed_nano"]) == (event.charged_nano, 0)
    assert (lines["input_tokens"], lines["output_tokens"]) == (400, 1)
    row = await row_of(desk.store)
    assert (row["spent_nano"], row["reserved_nano"]) == (event.charged_nano, 0)


NOTHING_KNOWN = {
    "no message_start": None,
    "a prompt that is told at the end only": read_usage(usage(0, 1), HAIKU),
    "no usage in it": read_usage(None, HAIKU),
    "several passes": Usage((begun() or Usage(())).parts * 2),
    "a model without a price": read_usage(usage(400, 1), "nobody-knows"),
}


@pytest.mark.parametrize("broken", [cut, erred])
@pytest.mark.parametrize("report", NOTHING_KNOWN.values(), ids=list(NOTHING_KNOWN))
async def test_without_a_report_the_reservation_is_presumed(
    desk: Desk, report: Usage | None, broken: Any
) -> None:
    """What cannot be bounded by a report is paid at the bound from before the call."""
    claim, event = await failed(desk, broken(report))
    (started,) = await desk.events(claim, AttemptStarted)
    assert (event.kind, event.charged_nano) == ("presumed", started.reserved_nano)
    assert (await lines_of(desk.store))["presumed_nano"] == started.reserved_nano


async def given_up(desk: Desk, report: Usage | None) -> tuple[int, AttemptFailed]:
    """What was reserved and what was booked for a stream that its caller gave up in the middle."""
    streaming = asyncio.Event()

    async def begins(request: ModelRequest) -> Any:
        assert request.progress is not None
        request.progress.usage_so_far = report
        streaming.set()
        await asyncio.Event().wait()

    desk.provider.script = [begins]
    claim = await claimed(desk.store)
    asking = asyncio.create_task(desk.ask(call_of(claim)))
    await streaming.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    (started,) = await desk.events(claim, AttemptStarted)
    (event,) = await desk.events(claim, AttemptFailed)
    assert await drift(desk.store) == []
    assert (await row_of(desk.store))["spent_nano"] == event.charged_nano
    return started.reserved_nano, event


async def test_a_stream_that_is_given_up_is_estimated(desk: Desk) -> None:
    """A cancelled call is booked like one that broke off by itself: its prompt, and all it could have said."""
    reserved, event = await given_up(desk, begun())
    exact = (400 * RATES.input + WISH * RATES.output) // 1_000_000
    assert (event.error_type, event.kind, event.charged_nano) == ("interrupted", "estimated", exact)
    assert event.charged_nano < reserved


@pytest.mark.parametrize("report", NOTHING_KNOWN.values(), ids=list(NOTHING_KNOWN))
async def test_what_is_given_up_before_its_report_is_presumed(
    desk: Desk, report: Usage | None
) -> None:
    """Nothing is known of it: the whole reservation counts as spent."""
    reserved, event = await given_up(desk, report)
    assert (event.kind, event.charged_nano) == ("presumed", reserved)


async def test_the_clamped_output_counts_not_the_wish(tmp_path: Path) -> None:
    """What was asked for is all that can have been said."""
    facts, row = facts_of(HAIKU), prices().row(HAIKU, FakeClock.today())
    budget = worst_case_nano(row, facts, PROMPT_TOKENS, 700)
    async with open_desk(tmp_path, cut(begun()), max_attempts=1) as desk:
        claim = await claimed(desk.store, budget_nano=budget)
        with pytest.raises(CallFailed):
            await desk.ask(call_of(claim))
        assert desk.provider.asked[0].max_tokens == 700
        (event,) = await desk.events(claim, AttemptFailed)
        assert event.charged_nano == (400 * RATES.input + 700 * RATES.output) // 1_000_000


async def test_a_cut_stream_is_followed_by_another_attempt(tmp_path: Path) -> None:
    """Both are on the books, each with its own kind."""
    async with open_desk(tmp_path, cut(begun()), answer(text("whole"))) as desk:
        claim = await claimed(desk.store)
        said, _, _ = await desk.ask(call_of(claim))
        assert said.content == [text("whole")]
        lines = await lines_of(desk.store)
        assert lines["estimated_nano"] > lines["confirmed_nano"] > 0
        assert lines["spent_nano"] == lines["estimated_nano"] + lines["confirmed_nano"]


async def test_a_beginning_that_costs_more_than_was_reserved_is_an_alarm(tmp_path: Path) -> None:
    """The truth is booked with its surplus, and no further attempt is made."""
    lie = cut(begun(input_tokens=90_000))
    async with open_desk(tmp_path, lie) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(CallFailed) as caught:
            await desk.ask(call_of(claim))
        assert caught.value.outcome is Outcome.UPSTREAM_FAILED
        (alarm,) = await desk.events(claim, ReservationExceeded)
        exact = (90_000 * RATES.input + WISH * RATES.output) // 1_000_000
        assert alarm.actual_nano == alarm.reserved_nano + alarm.surplus_nano == exact
        assert (await row_of(desk.store))["spent_nano"] == exact
        assert len(desk.provider.asked) == 1


counts = st.integers(0, PROMPT_TOKENS // 2)


@settings(max_examples=40)
@given(counts, counts, st.integers(0, WISH), st.sampled_from(["us", "global"]), st.booleans())
def test_never_below_the_bill_nor_above_the_reservation(
    plain: int, read: int, said: int, geo: str, errs: bool
) -> None:
    """Any split of the prompt, any output that was on its way, either geography, either way to break off."""
    report = {**usage(plain, 1), "cache_read_input_tokens": read, "inference_geo": geo}
    stream = MessageStream()
    message = {"model": HAIKU, "usage": report, "content": []}
    opening = {"type": "message_start", "message": message}
    stream.feed(b"event: message_start\ndata: %s\n\n" % orjson.dumps(opening))
    failure = (erred if errs else cut)(stream.usage_so_far())
    final = read_usage(report | {"output_tokens": said}, HAIKU)
    assert final is not None
    bill = prices().cost(final, FakeClock.today()).nano
    asyncio.run(_judged(failure, bill))


async def _judged(failure: ModelFailure, bill_nano: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with open_desk(Path(folder), max_attempts=1) as desk:
            claim, event = await failed(desk, failure)
            (started,) = await desk.events(claim, AttemptStarted)
            assert bill_nano <= event.charged_nano <= started.reserved_nano


class TestEstimate:
    """Counting tokens at the provider: its margin, and what happens when there is no count."""

    async def test_a_count_gets_a_margin(self, desk: Desk) -> None:
        """Five percent and a hundred tokens, as its deviations are small but not bounded."""
        desk.provider.counts = 1_000
        claim = await claimed(desk.store)
        request = ModelRequest(HAIKU, 10, [{"role": "user", "content": "x"}])
        assert await desk.caller.estimate(claim.subject, request) == 1_150
        assert desk.provider.counted[0].messages == request.messages
        assert desk.provider.asked == []

    async def test_no_count_says_so(self, desk: Desk, log_lines: LineChecker) -> None:
        """The failure is logged; nothing is raised and nothing is booked."""
        desk.provider.counts = ModelFailure("api_error", "no", phase=Phase.RESPONSE, status=500)
        claim = await claimed(desk.store)
        assert await desk.caller.estimate(claim.subject, call_of(claim).request) is None
        assert (await lines_of(desk.store))["calls"] == 0
        (line,) = log_lines.entries("token_count_failed")
        assert line["task_id"] == "t"

    async def test_the_line_and_the_event_are_marked(self, desk: Desk) -> None:
        """An estimate is told wherever the reservation is."""
        desk.provider.script = [answer(text("."))]
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim, bound=Bound.ESTIMATE))
        (started,) = await desk.events(claim, AttemptStarted)
        assert started.bound == "estimate"
        lines = await desk.store.read(
            lambda tx: tx.all("ledger_of_task", task_id="t", owner="local")
        )
        assert [line["bound"] for line in lines] == ["estimate", "estimate"]
