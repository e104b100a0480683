"""A call in an outage: it waits without a worker, costs nothing, and goes on when the upstream answers."""

from pathlib import Path
from typing import Any

import pytest

from app.agent.replay import rebuild
from app.domain.task import Outcome
from app.journal.call_events import AttemptFailed, AttemptStarted
from app.journal.journal import read_all
from app.llm.call import CallFailed, Parked, Tries
from app.llm.provider import ModelFailure
from app.llm.retry_budget import RetryTerms
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import Line, answer, lost, status, text, unreachable
from tests.support.seeding import claimed, drift, row_of

EMPTY = RetryTerms(capacity=4)
"""A bucket that never pays for anything."""


def overloaded() -> ModelFailure:
    """The upstream has no room."""
    return status(529, "overloaded_error")


async def parked(desk: Desk, claim: Any, tries: Tries | None = None) -> Parked:
    """How the call is put off."""
    with pytest.raises(Parked) as caught:
        await desk.ask(call_of(claim, tries=tries or Tries()))
    return caught.value


@pytest.mark.parametrize("failure", [overloaded(), unreachable(), status(500), status(429)])
async def test_a_retry_that_is_not_paid_for_parks_the_task(
    tmp_path: Path, failure: ModelFailure
) -> None:
    """One attempt, nothing held, nothing spent; the task looks again within half a minute."""
    async with open_desk(tmp_path, failure, terms=EMPTY) as desk:
        claim = await claimed(desk.store)
        off = await parked(desk, claim)
        wait_s = (off.available_at_us - desk.clock.now_us()) / 1e6
        assert off.reason == "upstream_outage"
        assert 14 < wait_s < 32
        (failed,) = await desk.events(claim, AttemptFailed)
        assert (failed.decision, failed.charged_nano) == ("wait", 0)
        row = await row_of(desk.store)
        assert (row["reserved_nano"], row["spent_nano"]) == (0, 0)
        assert await drift(desk.store) == []


async def test_who_comes_back_unpaid_asks_nobody(tmp_path: Path) -> None:
    """The next run waits on without an attempt, until there is a token, and never fails for its attempts."""
    script = [overloaded() for _ in range(6)]
    async with open_desk(tmp_path, *script, terms=EMPTY, max_attempts=3) as desk:
        claim = await claimed(desk.store)
        await parked(desk, claim)
        for _ in range(5):
            entries = await read_all(desk.store, claim.subject)
            tries = rebuild(claim.spec, entries).tries
            assert (tries.failures, tries.retry_of) == (0, "overloaded_error")
            assert (await parked(desk, claim, tries)).reason == "upstream_outage"
        assert len(desk.provider.asked) == 1
        assert len(await desk.events(claim, AttemptStarted)) == 1


async def test_the_deadline_ends_the_wait(tmp_path: Path) -> None:
    """Just before it the task fails with the last error's type, instead of being asked for in vain."""
    async with open_desk(tmp_path, terms=EMPTY) as desk:
        claim = await claimed(desk.store, deadline_s=4.0)
        with pytest.raises(CallFailed) as raised:
            await desk.ask(call_of(claim, tries=Tries(1, retry_of="overloaded_error")))
        assert raised.value.outcome is Outcome.UPSTREAM_FAILED
        assert raised.value.failure.error_type == "overloaded_error"
        assert desk.provider.asked == []


async def test_lost_answers_are_not_waited_out(tmp_path: Path) -> None:
    """They cost money: attempts count, an outage or not, and the task fails after the last."""
    script: list[Line] = [lost("timeout", retry_after_s=0.001), lost("timeout")]
    async with open_desk(tmp_path, *script, terms=RetryTerms(capacity=10), max_attempts=2) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(CallFailed):
            await desk.ask(call_of(claim))
        assert [e.decision for e in await desk.events(claim, AttemptFailed)] == [
            "retry",
            "upstream_failed",
        ]


async def test_an_answer_calls_those_who_wait(tmp_path: Path) -> None:
    """Somebody is answered: two of three are called, and their retries go out for nothing."""
    script: list[Line] = [*(overloaded() for _ in range(3)), answer(text("ok")), answer(text("ok"))]
    async with open_desk(tmp_path, *script, terms=EMPTY) as desk:
        called: list[str] = []
        desk.turns.on_turn = called.append
        claims = [await claimed(desk.store, name) for name in ("a", "b", "c", "d")]
        for claim in claims[:3]:
            await parked(desk, claim)
        await desk.ask(call_of(claims[3]))
        assert called == ["a", "b"]
        retry = Tries(1, retry_of="overloaded_error")
        await parked(desk, claims[2], retry)
        await desk.ask(call_of(claims[0], tries=retry))
        assert called == ["a", "b", "c"]


async def test_what_was_met_in_the_outage_counts_no_more(tmp_path: Path) -> None:
    """After it, a call has all of its attempts."""
    async with open_desk(tmp_path, overloaded(), terms=EMPTY, max_attempts=2) as desk:
        claim = await claimed(desk.store)
        tries = Tries(2, 1)
        await parked(desk, claim, tries)
        assert (tries.made, tries.failures, tries.failing_since_s) == (3, 0, None)


async def test_the_last_attempt_of_one_among_many(tmp_path: Path) -> None:
    """Who has used up its attempts where others fail as well waits with them, and has all of its attempts again."""
    script = [overloaded() for _ in range(3)]
    async with open_desk(tmp_path, *script, max_attempts=1) as desk:
        for name in ("a", "b"):
            with pytest.raises(CallFailed):
                await desk.ask(call_of(await claimed(desk.store, name)))
        assert (await parked(desk, await claimed(desk.store, "c"))).reason == "upstream_outage"


async def test_what_may_have_been_billed_is_not_forgiven(tmp_path: Path) -> None:
    """A wait wipes out what failed at no cost, in memory as in the journal; lost answers go on counting."""
    script: list[Line] = [lost("timeout", retry_after_s=0.001), overloaded()]
    async with open_desk(tmp_path, *script, terms=RetryTerms(capacity=10)) as desk:
        claim = await claimed(desk.store)
        tries = Tries()
        await parked(desk, claim, tries)
        again = rebuild(claim.spec, await read_all(desk.store, claim.subject)).tries
        for one in (tries, again):
            assert (one.made, one.failures, one.paid, one.failing_since_s) == (2, 1, 1, None)
