"""Answers of calls that were taken for lost: the money's truth is taken from anyone, nothing else is."""

import asyncio
import threading
from typing import Any

import pytest

from app.budget.ledger import Attempt, reserve, settle
from app.budget.ledger import Kind as LineKind
from app.domain.errors import StaleLease
from app.domain.task import LOCAL_OWNER, Claim
from app.journal.journal import Recorded, fence, read_all
from app.llm.booking import book_unsent
from app.llm.provider import ModelFailure
from app.queue import leases, verbs
from app.store.persist import persist
from app.worker.recovery import rescue_all
from tests.support.clock import yielded
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import Hang, answer, lost, status, text, usage
from tests.support.seeding import claim_now, claimed, drift, lines_of, row_of, scopes_of

SAID = answer(text("late"), report=usage(1_000, 50))


async def stolen(desk: Desk) -> None:
    """Others take everything over."""
    await desk.store.write(lambda tx: leases.leave(tx, "w"))
    await rescue_all(desk.store, "lease_expired", 5)


async def asked_and_stolen(desk: Desk, *, cancelled: bool = False) -> tuple[Claim, list[Recorded]]:
    """A call is in flight when its run's lease is taken away, and then it comes to its end."""
    hang: Any = desk.provider.script[0]
    claim = await claimed(desk.store)
    asking = asyncio.create_task(desk.ask(call_of(claim)))
    async with asyncio.timeout(10):
        await hang.entered.wait()
    if cancelled:
        await desk.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    await stolen(desk)
    before = await read_all(desk.store, claim.subject)
    hang.release()
    with pytest.raises(StaleLease):
        await asking
    return claim, before


async def test_a_late_answer_confirms_its_presumed_line(tmp_path):
    """The line has the real cost and meters, the balances follow, and the journal is as it was."""
    async with open_desk(tmp_path, Hang(SAID)) as desk:
        claim, before = await asked_and_stolen(desk)
        lines = await lines_of(desk.store)
        row = await row_of(desk.store)
        assert (lines["presumed_nano"], lines["confirmed_nano"]) == (0, row["spent_nano"])
        assert (lines["input_tokens"], lines["output_tokens"]) == (1_000, 50)
        assert 0 < row["spent_nano"] < 2_000_000
        assert row["status"] == "queued"
        assert await read_all(desk.store, claim.subject) == before
        assert await drift(desk.store) == []
        (line,) = [one for one in await ledger(desk) if one["entry"] == "settlement"]
        assert line["presumed_nano"] > line["amount_nano"] > 0
        assert line["confirmed_at_us"] == desk.clock.now_us()


async def ledger(desk: Desk) -> list[Any]:
    """The task's lines."""
    rows = await desk.store.read(
        lambda tx: tx.all("ledger_of_task", task_id="t", owner=LOCAL_OWNER)
    )
    return list(rows)


async def test_a_late_answer_of_a_cancelled_task_writes_nothing_after_its_end(tmp_path):
    """Others have carried out the cancel; only the money is set right."""
    async with open_desk(tmp_path, Hang(SAID)) as desk:
        claim, before = await asked_and_stolen(desk, cancelled=True)
        assert before[-1].event.name == "task_finished"
        assert await read_all(desk.store, claim.subject) == before
        assert (await lines_of(desk.store))["presumed_nano"] == 0
        assert (await row_of(desk.store))["outcome"] == "cancelled"
        assert await drift(desk.store) == []


async def test_a_late_answer_leaves_the_next_run_alone(tmp_path):
    """The next run has its own call in flight: its reservation stays, its step is its own."""
    second = Hang(answer(text("second"), report=usage(10, 10)))
    async with open_desk(tmp_path, Hang(SAID), second) as desk:
        hang: Any = desk.provider.script[0]
        claim = await claimed(desk.store)
        stale = asyncio.create_task(desk.ask(call_of(claim)))
        async with asyncio.timeout(10):
            await hang.entered.wait()
        await stolen(desk)
        (again,) = await desk.store.write(lambda tx: claim_now(tx, 1, "w2"))
        call = call_of(again)
        call.tries.made = 1
        asking = asyncio.create_task(desk.ask(call))
        async with asyncio.timeout(10):
            await second.entered.wait()
        reserved = (await row_of(desk.store))["reserved_nano"]
        hang.release()
        with pytest.raises(StaleLease):
            await stale
        row = await row_of(desk.store)
        assert row["reserved_nano"] == reserved > 0
        assert (row["run_count"], row["step_count"]) == (2, 0)
        second.release()
        await asking
        lines = await lines_of(desk.store)
        assert (lines["calls"], lines["presumed_nano"]) == (2, 0)
        assert await drift(desk.store) == []


async def test_a_late_answer_above_its_reservation_is_an_alarm(tmp_path, log_lines):
    """The truth is booked, and somebody should look."""
    dear = answer(text("late"), report=usage(1_000, 4_000_000))
    async with open_desk(tmp_path, Hang(dear)) as desk:
        await asked_and_stolen(desk)
        assert await drift(desk.store) == []
    (line,) = log_lines.entries("late_answer")
    assert line["level"] == "ERROR"
    assert line["surplus_usd"] > 0


@pytest.mark.parametrize("times", [1, 2])
async def test_a_late_answer_is_told_of_although_its_run_is_stopped_meanwhile(
    tmp_path, log_lines, times
):
    """The lease's loss is heard of while the answer is being written: it is booked, and the log says so."""
    async with open_desk(tmp_path, Hang(SAID)) as desk:
        hang: Any = desk.provider.script[0]
        asking = asyncio.create_task(desk.ask(call_of(await claimed(desk.store))))
        async with asyncio.timeout(10):
            await hang.entered.wait()
        await stolen(desk)
        gate = threading.Event()
        held_up = desk.store.inner.begin_write(lambda _tx: gate.wait(10))
        hang.release()
        for _ in range(20):
            await yielded()
        for _ in range(times):
            asking.cancel("lease_lost")
            await yielded()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await held_up
        await desk.store.write(lambda _tx: None)  # comes after it
        assert (await lines_of(desk.store))["presumed_nano"] == 0
        assert len(log_lines.entries("late_answer")) == 1


async def test_a_refused_write_of_a_run_that_is_stopped_is_no_alarm(tmp_path, log_lines):
    """Its lease is lost, so nothing else can become of it; the log says so, and not that something was lost."""
    async with open_desk(tmp_path) as desk:
        claim = await claimed(desk.store)
        await stolen(desk)
        gate = threading.Event()
        held_up = desk.store.inner.begin_write(lambda _tx: gate.wait(10))
        writing = asyncio.create_task(
            persist(desk.store, desk.clock, lambda tx: fence(tx, claim.subject))
        )
        await yielded()
        writing.cancel("lease_lost")
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await writing
        assert await held_up
    assert len(log_lines.entries("write_refused")) == 1
    assert log_lines.entries("write_lost") == []


async def test_an_answer_without_a_price_stays_presumed(tmp_path):
    """Nothing is known that would be better than the reservation."""
    async with open_desk(tmp_path, Hang(answer(text("x"), no_usage=True))) as desk:
        await asked_and_stolen(desk)
        lines = await lines_of(desk.store)
        assert (lines["confirmed_nano"], lines["presumed_nano"] > 0) == (0, True)


async def failed_late(tmp_path: Any, failure: ModelFailure) -> dict[str, Any]:
    """What a call costs whose failure comes after its line was presumed."""
    hang = Hang()

    async def fail(_request: Any) -> Any:
        hang.entered.set()
        await hang.released.wait()
        raise failure

    async with open_desk(tmp_path, fail) as desk:
        claim = await claimed(desk.store)
        asking = asyncio.create_task(desk.ask(call_of(claim)))
        async with asyncio.timeout(10):
            await hang.entered.wait()
        await stolen(desk)
        before = await read_all(desk.store, claim.subject)
        hang.release()
        with pytest.raises(StaleLease):  # it waits for no retry
            await asking
        assert await read_all(desk.store, claim.subject) == before
        assert await drift(desk.store) == []
        return await lines_of(desk.store)


async def test_a_late_failure_that_is_not_billed_frees_the_money(tmp_path):
    """An error of the provider's own: the call is known to have cost nothing."""
    lines = await failed_late(tmp_path, status(400))
    assert (lines["calls"], lines["spent_nano"]) == (1, 0)


async def test_a_late_failure_that_may_be_billed_changes_nothing(tmp_path):
    """A cut connection says nothing about the money: it stays presumed."""
    lines = await failed_late(tmp_path, lost())
    assert lines["presumed_nano"] == lines["spent_nano"] > 0


async def test_what_was_never_sent_is_free_although_it_was_presumed(tmp_path):
    """Taken over between the reservation and the request: the line is confirmed at nothing, by its own run only."""
    async with open_desk(tmp_path) as desk:
        claim = await claimed(desk.store)
        attempt = Attempt(claim.subject, 1, 1, claim.spec.model, "p")

        def op(tx: Any) -> None:
            assert reserve(tx, attempt, scopes_of(claim.subject), 100) is None
            assert settle(tx, attempt.id, LineKind.PRESUMED) is not None

        await desk.store.write(op)
        await desk.store.write(lambda tx: book_unsent(tx, attempt))
        assert (await lines_of(desk.store))["spent_nano"] == 0
        assert await drift(desk.store) == []
