"""Tasks that wait here and go on in another process: nothing of them may stand in the way here."""

import asyncio
from typing import Any

import pytest

from app.budget.scopes import Scope
from app.domain.task import LOCAL_OWNER, Conclusion, Outcome, TaskStatus
from app.journal.events import ToolStarted
from app.journal.hints import ANYTHING, Hint
from app.queue import verbs
from app.queue.retrying import Changes, retry
from tests.support.clock import yielded
from tests.support.provider import Hang, answer, calls, text, tool_use
from tests.support.seeding import claim_now, drift, hold_lease

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
