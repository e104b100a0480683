"""A call that fails: what each row of the retry table does to the task's money and to the next attempt."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.domain.task import Outcome
from app.journal.call_events import AttemptFailed, AttemptStarted, RetryScheduled
from app.llm.call import CallFailed, Parked, Tries
from app.llm.provider import ModelFailure
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import Line, answer, in_stream, lost, status, text, unreachable
from tests.support.seeding import claimed, drift, lines_of, row_of

SOON: dict[str, Any] = {"retry_after_s": 0.001}
"""Obeyed like any other wait, and over at once."""
FAILED, REJECTED = Outcome.UPSTREAM_FAILED, Outcome.UPSTREAM_REJECTED
CAP = Outcome.UPSTREAM_SPEND_CAP


def soon(failure: ModelFailure) -> ModelFailure:
    """The same failure, with a very short wait asked for."""
    failure.retry_after_s = 0.001
    return failure


AGAIN: dict[str, tuple[Callable[[], ModelFailure], str | None]] = {
    "connect": (lambda: soon(unreachable()), None),
    "timeout": (lambda: lost("timeout", **SOON), "presumed"),
    "cut": (lambda: lost("answer_lost", **SOON), "presumed"),
    "malformed": (lambda: lost("malformed_answer", status=200, **SOON), "presumed"),
    "stream overloaded": (lambda: soon(in_stream("overloaded_error")), "presumed"),
    "stream api error": (lambda: soon(in_stream("api_error")), "presumed"),
    "stream timeout": (lambda: soon(in_stream("timeout_error")), "presumed"),
    "stream rate limit": (lambda: soon(in_stream("rate_limit_error")), "presumed"),
    "408": (lambda: status(408, **SOON), None),
    "409": (lambda: status(409, **SOON), None),
    "429": (lambda: status(429, "rate_limit_error", **SOON), None),
    "500": (lambda: status(500, **SOON), None),
    "503": (lambda: status(503, **SOON), None),
    "529": (lambda: status(529, "overloaded_error", **SOON), None),
    "proxy 502": (lambda: status(502, "http_502", api_shaped=False, **SOON), "presumed"),
}
GIVE_UP: dict[str, tuple[Callable[[], ModelFailure], Outcome, str | None]] = {
    "stream invalid": (lambda: in_stream("invalid_request_error"), FAILED, "presumed"),
    "spend cap": (
        lambda: status(429, error_code="enforced_spend_limit_reached", **SOON),
        CAP,
        None,
    ),
    "501": (lambda: status(501), FAILED, None),
    "proxy 501": (lambda: status(501, "http_501", api_shaped=False), FAILED, "presumed"),
    "400": (lambda: status(400, "invalid_request_error"), REJECTED, None),
    "401": (lambda: status(401, "authentication_error"), REJECTED, None),
    "402": (lambda: status(402, "billing_error"), REJECTED, None),
    "403": (lambda: status(403, "permission_error"), REJECTED, None),
    "404": (lambda: status(404, "not_found_error"), REJECTED, None),
    "413": (lambda: status(413, "request_too_large"), REJECTED, None),
}


async def reserved(desk: Desk, claim: Any) -> list[int]:
    """What each attempt held."""
    return [event.reserved_nano for event in await desk.events(claim, AttemptStarted)]


@pytest.mark.parametrize("row", AGAIN)
async def test_passing_errors_are_tried_again(tmp_path, row):
    """A second attempt with a reservation of its own; the first is released or presumed, as the table says."""
    make, kind = AGAIN[row]
    async with open_desk(tmp_path, make(), answer(text("at last"))) as desk:
        claim = await claimed(desk.store)
        found, _, settled = await desk.ask(call_of(claim))
        assert found.content == [text("at last")]
        assert [request.reference for request in desk.provider.asked] == ["t/1/1", "t/1/2"]
        (failed,) = await desk.events(claim, AttemptFailed)
        (scheduled,) = await desk.events(claim, RetryScheduled)
        held = await reserved(desk, claim)
        lost_nano = held[0] if kind == "presumed" else 0
        assert (failed.kind, failed.charged_nano, failed.decision) == (kind, lost_nano, "retry")
        assert (scheduled.attempt, scheduled.reason, scheduled.wait_s) == (2, "retry-after", 0.001)
        lines = await lines_of(desk.store)
        assert lines["presumed_nano"] == lost_nano
        assert lines["confirmed_nano"] == settled.charged_nano
        assert settled.task_spent_nano == lost_nano + settled.charged_nano
        assert (await row_of(desk.store))["reserved_nano"] == 0
        assert await drift(desk.store) == []


@pytest.mark.parametrize("row", GIVE_UP)
async def test_permanent_errors_end_the_call(tmp_path, row):
    """One attempt, the typed outcome, and the money as the table says."""
    make, outcome, kind = GIVE_UP[row]
    async with open_desk(tmp_path, make()) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(CallFailed) as raised:
            await desk.ask(call_of(claim))
        assert raised.value.outcome is outcome
        assert len(desk.provider.asked) == 1
        (failed,) = await desk.events(claim, AttemptFailed)
        assert (failed.kind, failed.decision) == (kind, outcome)
        (held,) = await reserved(desk, claim)
        after = await row_of(desk.store)
        assert after["reserved_nano"] == 0
        assert after["spent_nano"] == (held if kind == "presumed" else 0)
        assert await desk.events(claim, RetryScheduled) == []


async def test_attempts_are_bounded(tmp_path):
    """After the last attempt the call has failed, with the last error in hand."""
    script = [status(500, **SOON), status(503, **SOON), status(529, "overloaded_error", **SOON)]
    async with open_desk(tmp_path, *script, max_attempts=3) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(CallFailed) as raised:
            await desk.ask(call_of(claim))
        assert len(desk.provider.asked) == 3
        assert raised.value.failure.error_type == "overloaded_error"
        assert len(await desk.events(claim, RetryScheduled)) == 2
        assert (await row_of(desk.store))["spent_nano"] == 0


async def test_time_is_bounded_too(tmp_path):
    """No further wait of our own begins when the total is used up, however many attempts are left."""
    async with open_desk(tmp_path, max_attempts=10, total_s=60.0) as desk:

        def slow_failure(_request: object) -> Any:
            desk.clock.move(61.0)
            raise status(529, "overloaded_error")

        desk.provider.script = [slow_failure]
        claim = await claimed(desk.store)
        with pytest.raises(CallFailed) as raised:
            await desk.ask(call_of(claim))
        assert raised.value.outcome is FAILED


async def test_own_waits_are_waited(tmp_path):
    """Without retry-after the wait is ours: shorter than half a second before the second attempt."""
    async with open_desk(tmp_path, status(529), answer(text("ok"))) as desk:
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim))
        (scheduled,) = await desk.events(claim, RetryScheduled)
        assert 0 <= scheduled.wait_s <= 0.5
        assert scheduled.reason == "api_error"


async def test_long_waits_give_the_slot_back(tmp_path):
    """A retry-after longer than a slot may be held parks the task until then, with nothing held."""
    async with open_desk(tmp_path, status(429, retry_after_s=30.0), park_after_s=5.0) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(Parked) as parked:
            await desk.ask(call_of(claim))
        assert parked.value.reason == "retry_wait"
        assert parked.value.available_at_us == desk.clock.now_us() + 30_000_000
        assert (await row_of(desk.store))["reserved_nano"] == 0
        assert len(desk.provider.asked) == 1


async def test_waits_up_to_the_limit_keep_the_slot(tmp_path):
    """A retry-after as short as a slot may be held is waited for in place."""
    script: list[Line] = [status(429, retry_after_s=0.01), answer(text("ok"))]
    async with open_desk(tmp_path, *script, park_after_s=0.01) as desk:
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim))
        assert len(desk.provider.asked) == 2


async def test_waits_beyond_the_deadline_give_up(tmp_path):
    """A retry-after that ends after the deadline is not begun."""
    async with open_desk(tmp_path, status(429, retry_after_s=601.0)) as desk:
        claim = await claimed(desk.store, deadline_s=600.0)
        with pytest.raises(CallFailed) as raised:
            await desk.ask(call_of(claim))
        assert raised.value.outcome is FAILED


async def test_a_parked_call_goes_on_counting(tmp_path):
    """After parking, attempts go on with the next number, and the bound holds across runs."""
    script = [status(429, retry_after_s=30.0), status(500, **SOON), status(500, **SOON)]
    async with open_desk(tmp_path, *script, max_attempts=3) as desk:
        claim = await claimed(desk.store)
        began_us = desk.clock.now_us()
        with pytest.raises(Parked):
            await desk.ask(call_of(claim))
        desk.clock.move(31.0)
        resumed = call_of(claim, tries=Tries(1, 1, began_us))
        with pytest.raises(CallFailed):
            await desk.ask(resumed)
        references = [request.reference for request in desk.provider.asked]
        assert references == ["t/1/1", "t/1/2", "t/1/3"]


async def test_restarts_of_ours_are_no_failures_of_the_upstream(tmp_path):
    """Attempts that a crash or a drain interrupted keep their numbers but use up no retry."""
    async with open_desk(tmp_path, status(529, **SOON), answer(), max_attempts=2) as desk:
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim, tries=Tries(7)))
        references = [request.reference for request in desk.provider.asked]
        assert references == ["t/1/8", "t/1/9"]


async def test_presumed_losses_count_against_the_budget(tmp_path: Path) -> None:
    """Answers that are lost again and again spend the budget: then there is no further attempt."""
    script = [lost(**SOON) for _ in range(9)]
    async with open_desk(tmp_path, *script, max_attempts=10) as desk:
        claim = await claimed(desk.store, budget_nano=4_000_000)
        with pytest.raises(Exception, match="budget of this task"):
            await desk.ask(call_of(claim))
        held = await reserved(desk, claim)
        assert 1 < len(held) < 9
        after = await row_of(desk.store)
        assert after["spent_nano"] == sum(held) <= 4_000_000
        assert after["reserved_nano"] == 0


async def test_a_store_that_fails_while_a_failure_is_booked(tmp_path):
    """The loss is written as soon as the store works again, and only then another attempt is made."""
    async with open_desk(tmp_path) as desk:

        def cut(_request: object) -> Any:
            desk.store.failures_left = 3
            raise lost(**SOON)

        desk.provider.script = [cut, answer(text("ok"))]
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim))
        assert desk.store.failed == 3
        assert len(desk.provider.asked) == 2
        assert await drift(desk.store) == []
