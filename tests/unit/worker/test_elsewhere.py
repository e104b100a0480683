"""Tasks that wait here and go on in another process: nothing of them may stand in the way here."""

import asyncio
from functools import partial
from typing import Any

import pytest

from app.budget.scopes import Scope
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome, TaskStatus
from app.journal.events import TaskFinished, ToolStarted
from app.journal.hints import ANYTHING, Hint
from app.llm.call import Parked
from app.llm.governor.governor import GovernorLimits, pool_of
from app.llm.governor.lane import Reason, Told
from app.llm.governor.road import Permit
from app.llm.provider import ModelAnswer, ModelRequest
from app.queue import verbs
from app.queue.retrying import Changes, retry
from app.store.port import Tx
from app.worker.elsewhere import REST_LIMIT
from tests.support.clock import StillClock, yielded
from tests.support.desk import call_of
from tests.support.provider import HAIKU, Hang, answer, calls, status, text, tool_use
from tests.support.seeding import claim_now, drift, hold_lease, row_of

SCOPE = Scope("session", "s")


async def elsewhere(works: Any, task_id: str) -> Any:
    """The task runs under another worker; another one waits."""
    await works.accept(task_id)
    (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1, "w2"))
    await works.accept("next")
    return claim


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_task_that_ended_elsewhere_is_forgotten(open_works: Any, hint: Hint) -> None:
    """Parked here at the head of a line, it went on elsewhere to its end: the line moves on."""
    async with open_works() as works:
        turns, ended = works.desk.turns, Conclusion(Outcome.CANCELLED)
        claim = await elsewhere(works, "t")
        await works.desk.store.write(lambda tx: verbs.finish(tx, claim.subject, ended))
        turns.join("t", SCOPE)  # of whose end nothing was heard
        turns.join("next", SCOPE).clear()
        assert turns.ahead_of("next", (SCOPE,)) == SCOPE
        await works.pool.hear(hint)
        assert turns.ahead_of("next", (SCOPE,)) is None
        assert turns.is_called("next")
        assert "t" not in turns.known()


async def test_a_task_that_ended_elsewhere_and_stands_nowhere_is_forgotten(open_works: Any) -> None:
    """Its hint was lost, and nobody waits behind it: it is looked for among all others, some of them at a time."""
    async with open_works() as works:
        turns, ended = works.desk.turns, Conclusion(Outcome.CANCELLED)
        for number in range(2 * REST_LIMIT):
            turns.ahead_of(
                f"gone-{number}", (SCOPE,)
            )  # known here, of which there is no row any more
        claim = await elsewhere(works, "t")
        await works.desk.store.write(lambda tx: verbs.finish(tx, claim.subject, ended))
        turns.ahead_of("t", (SCOPE,))
        turns.ahead_of("next", (SCOPE,))
        for _ in range(4):
            await works.pool.hear(ANYTHING)
        assert turns.known() == {"next"}


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_task_that_runs_elsewhere_leaves_its_place(open_works: Any, hint: Hint) -> None:
    """Whether it gets its money is the other process's affair; its age it keeps."""
    async with open_works() as works:
        turns = works.desk.turns
        await elsewhere(works, "t")
        turns.join("t", SCOPE)
        turns.join("next", SCOPE).clear()
        await works.pool.hear(hint)
        assert turns.is_called("next")
        assert "t" in turns.known()


async def test_a_task_that_waits_in_the_queue_keeps_its_place(open_works: Any) -> None:
    """It has not gone on anywhere."""
    async with open_works() as works:
        turns = works.desk.turns
        await works.accept("t")
        await works.accept("next")
        turns.join("t", SCOPE)
        turns.join("next", SCOPE)
        await works.pool.hear(Hint(frozenset({"t"})))
        assert turns.ahead_of("next", (SCOPE,)) == SCOPE


async def ran(works: Any, worker: str) -> Claim:
    """One run of `t` under this worker, which parked it: it waits in the queue, not due for a minute."""

    def op(tx: Tx) -> Claim:
        tx.run("make_available", id="t", now_us=tx.now_us)
        (claim,) = claim_now(tx, 1, worker)
        verbs.give_back(tx, claim.subject, "budget_contention", tx.now_us + 60_000_000)
        return claim

    found: Claim = await unheard(works, op)
    return found


async def parked_again_elsewhere(works: Any) -> None:
    """First in a line here with its first run, `t` has had a second one elsewhere; it stands in that one's line now."""
    await works.accept("t")
    claim = await ran(works, "w")
    works.desk.turns.join("t", SCOPE, claim.subject.run).clear()
    await ran(works, "w2")
    await works.accept("next")
    works.desk.turns.join("next", SCOPE).clear()


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_task_that_was_parked_again_elsewhere_leaves_its_place(
    open_works: Any, hint: Hint
) -> None:
    """It was never seen running there: it is back in the queue when the rows are asked. Nobody waits behind it here."""
    async with open_works() as works:
        await parked_again_elsewhere(works)
        await works.pool.hear(hint)
        assert works.desk.turns.is_called("next")
        assert "t" in works.desk.turns.known(), "its age it keeps"


async def test_a_turn_that_comes_for_a_task_that_was_parked_again_elsewhere(
    open_works: Any,
) -> None:
    """It is the other one's to wake: here the next is called at once."""
    async with open_works() as works:
        await parked_again_elsewhere(works)
        before = await row_of(works.desk.store, "t")
        works.desk.turns.ended((SCOPE,))
        while not works.desk.turns.is_called("next"):
            await yielded()
        after = await row_of(works.desk.store, "t")
        assert after["available_at_us"] == before["available_at_us"] > works.desk.clock.now_us()


async def test_a_task_that_comes_back_stands_where_it_stood(open_works: Any) -> None:
    """Parked here, elsewhere, and here again before anything was heard of it: what comes late does not move it."""
    async with open_works() as works:
        await parked_again_elsewhere(works)
        turns, back = works.desk.turns, await ran(works, "w")
        turns.join("t", SCOPE, back.subject.run)
        await works.pool.hear(Hint(frozenset({"t"})))
        assert turns.ahead_of("next", (SCOPE,)) == SCOPE
        turns.ended((SCOPE,))
        assert turns.is_called("t")
        assert not turns.is_called("next")


async def unheard(works: Any, op: Any) -> Any:
    """Another process writes this; its hint has not come yet."""
    store = works.desk.store.inner
    heard, store.listener = store.listener, lambda _facts: None
    try:
        return await works.desk.store.write(op)
    finally:
        store.listener = heard


async def cancelled_elsewhere(works: Any) -> None:
    """Somebody else's client asked to cancel the task that runs here."""
    status = await unheard(works, lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert status is TaskStatus.CANCELLING


async def ended_as_cancelled(works: Any, asked: int) -> None:
    """By the run itself, without any hint; nothing was begun after the cancel."""
    assert (await works.ended())["outcome"] == "cancelled"
    assert len(works.desk.provider.asked) == asked
    assert await drift(works.desk.store) == []


async def test_a_cancel_elsewhere_before_the_first_step(open_works: Any) -> None:
    """Claimed, and not yet in a worker's hand: the hint finds no run; the first step finds the cancel."""
    async with open_works() as works:
        await works.accept()
        (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
        works.queue._buffer.put_nowait(claim)
        await cancelled_elsewhere(works)
        await works.pool.hear(Hint(frozenset({"t"})))
        works.pool.start()
        await ended_as_cancelled(works, asked=0)


async def test_a_cancel_elsewhere_in_a_call_whose_hint_comes_late(open_works: Any) -> None:
    """The answer asks for a tool: it does not run, and the journal does not say that it would."""
    hang = Hang(calls(tool_use("c1", arguments={"x": 1})))
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        await cancelled_elsewhere(works)
        hang.release()
        await ended_as_cancelled(works, asked=1)
        assert works.probe.calls == []
        assert works.events(ToolStarted) == []


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_hint_does_not_break_off_the_end_it_asks_for(open_works: Any, hint: Hint) -> None:
    """The run was refused its next step and is about to write its end when it is told why: the task ends all the same."""
    hang = Hang(calls(tool_use("c1", arguments={"x": 1})))
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        await cancelled_elsewhere(works)
        store = works.desk.store
        heard = store.inner.listener

        def cut(facts: Any) -> None:
            """The refusal is written down; from here on nothing is."""
            store.failures_left = 10_000
            heard(facts)

        store.inner.listener = cut
        hang.release()
        async with asyncio.timeout(10):
            while not store.failed:
                await yielded()
        await works.pool.hear(hint)
        await yielded(20)
        store.inner.listener, store.failures_left = heard, 0
        await ended_as_cancelled(works, asked=1)
        assert len(works.events(TaskFinished)) == 1


async def test_a_cancel_elsewhere_of_a_run_that_fails_before_its_hint(open_works: Any) -> None:
    """Whoever asked was told that it would be cancelled: so it ends, not as what went wrong meanwhile."""
    entered, goes_on = asyncio.Event(), asyncio.Event()

    async def refused(_request: ModelRequest) -> ModelAnswer:
        entered.set()
        await goes_on.wait()
        raise status(400, "invalid_request_error")

    async with open_works(refused) as works:
        await works.accept()
        await works.start()
        await entered.wait()
        await cancelled_elsewhere(works)
        goes_on.set()
        await ended_as_cancelled(works, asked=1)


async def test_a_cancel_elsewhere_in_a_tool_whose_hint_comes_late(open_works: Any) -> None:
    """The tool may end; no further call is made."""
    async with open_works(calls(tool_use("c1", arguments={"x": 1}))) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        await works.start()
        while not works.probe.calls:
            await yielded()
        await cancelled_elsewhere(works)
        works.probe.gates[1].set()
        await ended_as_cancelled(works, asked=1)


async def test_a_cancel_elsewhere_before_a_resumed_tool(open_works: Any) -> None:
    """Its run was cut off before an idempotent tool answered: the next run does not start it after a cancel."""
    async with open_works(calls(tool_use("c1", arguments={"x": 1}))) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        await works.start()
        while not works.probe.calls:
            await yielded()
        await works.stop()
    async with open_works() as works:
        await works.desk.store.write(hold_lease)
        (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
        works.queue._buffer.put_nowait(claim)
        await cancelled_elsewhere(works)
        works.pool.start()
        await ended_as_cancelled(works, asked=0)
        assert works.probe.calls == []


@pytest.mark.parametrize("told", [True, False], ids=["retried here", "retried elsewhere"])
async def test_a_cancel_of_an_earlier_run_is_not_the_next_ones(
    open_works: Any, *, told: bool
) -> None:
    """It was asked for here while the task ran elsewhere, and came too late: the task failed and was retried."""
    failed = Conclusion(Outcome.UPSTREAM_FAILED)
    async with open_works(answer(text("after all"))) as works:
        claim = await elsewhere(works, "t")
        await works.cancel()
        await unheard(works, lambda tx: verbs.finish(tx, claim.subject, failed))
        if told:
            await works.desk.store.write(lambda tx: retry(tx, LOCAL_OWNER, "t", Changes()))
        else:
            await unheard(works, lambda tx: retry(tx, LOCAL_OWNER, "t", Changes()))
            await works.pool.hear(Hint(frozenset({"t"})))
        await unheard(works, lambda tx: verbs.cancel(tx, LOCAL_OWNER, "next"))
        await works.start()
        assert (await works.ended())["outcome"] == "answered"


async def parked_at_the_governor(works: Any) -> Permit:
    """One call is in flight, and no more may be: the first call of `t` keeps a place in the line, its task waits."""
    await works.accept("first")
    (first,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
    permit = works.desk.governor.enter(call_of(first))
    await works.accept("t")
    (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
    with pytest.raises(Parked, match="upstream_busy"):
        await works.desk.governor.wait(call_of(claim))
    give_back = partial(verbs.give_back, subject=claim.subject, reason="upstream_busy")
    await works.desk.store.write(lambda tx: give_back(tx, available_at_us=tx.now_us))
    assert isinstance(permit, Permit)
    return permit


ONE: dict[str, Any] = {"lets": GovernorLimits(start=1, most=1), "park_after_s": 0.01}


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_place_at_the_governor_of_a_task_that_goes_on_elsewhere(
    open_works: Any, hint: Hint
) -> None:
    """It was parked here with its first call, and runs under another worker: nobody here waits behind it."""
    async with open_works(**ONE) as works:
        await parked_at_the_governor(works)
        await works.pool.hear(hint)
        assert list(works.desk.governor.kept()) == ["t"], "it waits still"
        await unheard(works, lambda tx: claim_now(tx, 1, "w2"))
        await works.pool.hear(hint)
        assert list(works.desk.governor.kept()) == []


async def test_a_turn_that_comes_for_a_task_that_goes_on_elsewhere(open_works: Any) -> None:
    """Waking it shows that it has gone: its permit is free at once, not when the promise runs out."""
    async with open_works(**ONE, clock=StillClock()) as works:
        permit = await parked_at_the_governor(works)
        await unheard(works, lambda tx: claim_now(tx, 1, "w2"))
        permit.unused()
        (road,) = works.desk.governor.roads()
        assert list(road.promised) == ["t"]
        while road.promised:
            await yielded()
        assert road.lane.concurrency.in_flight == 0


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_place_at_the_governor_of_a_task_that_was_parked_again_elsewhere(
    open_works: Any, hint: Hint
) -> None:
    """It stands in the other one's line, and is back in the queue when the rows are asked."""
    async with open_works(**ONE) as works:
        permit = await parked_at_the_governor(works)
        await ran(works, "w2")
        await works.pool.hear(hint)
        assert list(works.desk.governor.kept()) == []
        permit.unused()


async def test_a_turn_that_is_held_for_a_task_that_goes_on_elsewhere(open_works: Any) -> None:
    """It was woken, and another worker took it: the hint frees its permit, which would lapse in seconds only."""
    async with open_works(**ONE, clock=StillClock()) as works:
        permit = await parked_at_the_governor(works)
        permit.unused()
        while not (await row_of(works.desk.store, "t"))["turn_called"]:
            await yielded()
        await works.pool.hear(Hint(frozenset({"t"})))
        (road,) = works.desk.governor.roads()
        assert list(road.promised) == ["t"], "nobody has it yet"
        await unheard(works, lambda tx: claim_now(tx, 1, "w2"))
        await works.pool.hear(Hint(frozenset({"t"})))
        assert (len(road.promised), road.lane.concurrency.in_flight) == (0, 0)


async def test_an_outage_that_is_waited_for_is_not_forgotten(open_works: Any) -> None:
    """Nobody has found out whether it is over: they would all leave at once."""
    async with open_works(**ONE) as works:
        permit = await parked_at_the_governor(works)
        works.desk.governor.hear(pool_of(HAIKU), Told(Reason.OUTAGE, 2.0))
        works.desk.clock.move(600)
        assert works.desk.governor.outage_s(HAIKU) is not None
        works.desk.governor.forget("t")
        assert works.desk.governor.outage_s(HAIKU) is None
        permit.unused()
