"""Stopping in good order, and what the next process makes of a stop in bad order."""

import asyncio
from typing import Any

import orjson
import pytest

from app.budget.ledger import Attempt, open_attempts, reserve
from app.budget.scopes import task_scope
from app.domain.task import LOCAL_OWNER, TaskStatus
from app.journal.call_events import AttemptPresumed, AttemptStarted, ModelAnswered
from app.journal.events import TaskRequeued
from app.journal.journal import append
from app.queue import verbs
from app.store.port import Tx
from app.worker.recovery import take_over
from tests.support.clock import yielded
from tests.support.desk import call_of
from tests.support.provider import Hang, answer, calls, text, tool_use
from tests.support.seeding import accepted, claim_now, claimed, drift, lines_of, row_of, scopes_of


async def test_a_drain_hands_back_at_the_end_of_the_step(open_works):
    """The running tool may finish; then the task is back in the queue, its step recorded, nothing lost."""
    script = [calls(tool_use("c1", arguments={"x": 1}))]
    async with open_works(*script) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.probe.calls:
                await yielded()
        await works.queue.stop()
        stopping = asyncio.create_task(works.pool.stop(30.0))
        await yielded(20)
        assert not stopping.done()
        works.probe.gates[1].set()
        async with asyncio.timeout(10):
            await stopping
        row = await row_of(works.desk.store)
        assert (row["status"], row["step_count"], row["reserved_nano"]) == ("queued", 1, 0)
        assert works.events(TaskRequeued)[-1].reason == "drain"
    async with open_works(answer(text("done"))) as works:
        await works.start()
        assert orjson.loads((await works.ended())["result_json"]) == "done"
        assert works.probe.calls == []
        (result,) = orjson.loads(works.desk.provider.sent[0])[-1]["content"]
        assert result["content"] == "ran 1"


async def test_a_drain_interrupts_after_its_grace(open_works):
    """A call that takes too long is broken off and presumed; the next process asks again, once."""
    async with open_works(Hang()) as works:
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.desk.provider.asked:
                await yielded()
            await works.stop(0.01)
        row = await row_of(works.desk.store)
        assert (row["status"], row["reserved_nano"]) == ("queued", 0)
        presumed = row["spent_nano"]
        assert (await lines_of(works.desk.store))["presumed_nano"] == presumed > 0
    async with open_works(answer(text("done"))) as works:
        assert await works.start() == 0
        row = await works.ended()
        assert row["outcome"] == "answered"
        assert works.desk.provider.asked[0].reference == "t/1/2"
        assert row["spent_nano"] > presumed
        assert await drift(works.desk.store) == []


async def test_an_idle_pool_stops_at_once(open_works):
    """Nothing runs, nothing is waited for, however long the grace."""
    async with open_works(slots=8) as works:
        await works.start()
        await yielded(20)
        async with asyncio.timeout(5):
            await works.stop(600.0)
        assert works.pool.running == 0


async def test_a_stop_takes_nothing_new(open_works):
    """While the last task finishes, waiting ones stay in the queue."""
    hang = Hang()
    async with open_works(hang, slots=1) as works:
        await works.accept("a")
        await works.accept("b")
        await works.start()
        await hang.entered.wait()
        await works.queue.stop()
        stopping = asyncio.create_task(works.pool.stop(30.0))
        await yielded(5)
        hang.release()
        async with asyncio.timeout(10):
            await stopping
        assert (await row_of(works.desk.store, "a"))["outcome"] == "answered"
        assert (await row_of(works.desk.store, "b"))["status"] == "queued"


async def test_a_cancel_during_the_drain_is_a_cancel(open_works):
    """Cancelled while the service waits for it: the end is recorded as cancelled, not handed back."""
    hang = Hang()
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        await works.queue.stop()
        stopping = asyncio.create_task(works.pool.stop(0.02))
        await works.cancel()
        async with asyncio.timeout(10):
            await stopping
        row = await row_of(works.desk.store)
        assert (row["status"], row["reserved_nano"]) == ("cancelled", 0)


async def test_a_store_that_stays_broken_does_not_hold_the_exit(open_works):
    """A task that cannot even be handed back is left for recovery: the stop ends all the same."""
    hang = Hang()
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        works.desk.store.dead = True
        async with asyncio.timeout(20):
            await works.stop(0.01)
        await works.crash()
    async with open_works(answer(text("done"))) as works:
        assert await works.start() == 1
        assert (await works.ended())["outcome"] == "answered"


@pytest.mark.parametrize("cancelled", [True, False])
async def test_an_interrupted_call_that_could_not_be_booked_is_presumed(open_works, cancelled):
    """The store fails while the broken-off call is booked: the task's next write books it."""
    hang = Hang()
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        if cancelled:
            await works.cancel()
            works.desk.store.failures_left = 1
            row = await works.ended()
            assert row["status"] == "cancelled"
        else:
            works.desk.store.failures_left = 1
            async with asyncio.timeout(10):
                await works.stop(0.01)
            row = await row_of(works.desk.store)
            assert row["status"] == "queued"
        assert works.desk.store.failed == 1
        assert row["reserved_nano"] == 0
        assert (await lines_of(works.desk.store))["presumed_nano"] == row["spent_nano"] > 0


def leave_behind(claim: Any, amount: int) -> Any:
    """What a process that dies in the middle of a call leaves: an open reservation."""

    def op(tx: Tx) -> None:
        attempt = Attempt(claim.subject, 1, 1, claim.spec.model, "p")
        assert reserve(tx, attempt, scopes_of(claim.subject), amount) is None
        started = AttemptStarted(1, 1, attempt.model, 2_048, 1_000, amount, "p")
        append(tx, claim.subject, started)

    return op


async def test_recovery_presumes_the_call_in_flight_and_requeues(open_works):
    """After a crash: the open reservation is spent, the task waits again, and it goes on to its end."""
    async with open_works() as works:
        claim = await claimed(works.desk.store)
        await works.desk.store.write(leave_behind(claim, 1_234))
    async with open_works(answer(text("done"))) as works:
        assert await take_over(works.desk.store, 5) == 1
        (presumed,) = works.events(AttemptPresumed)
        assert (presumed.charged_nano, presumed.task_spent_nano, presumed.reason) == (
            1_234,
            1_234,
            "restart",
        )
        (back,) = works.events(TaskRequeued)
        assert back.reason == "restart"
        row = await row_of(works.desk.store)
        assert (row["status"], row["spent_nano"], row["reserved_nano"]) == ("queued", 1_234, 0)
        assert await works.start() == 0
        assert (await works.ended())["outcome"] == "answered"
        assert await drift(works.desk.store) == []


async def test_recovery_ends_what_was_being_cancelled(open_works):
    """A cancel that a crash overtook is carried out, its call presumed."""
    async with open_works() as works:
        claim = await claimed(works.desk.store)
        await works.desk.store.write(leave_behind(claim, 99))
        await works.desk.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    async with open_works() as works:
        assert await works.start() == 1
        row = await row_of(works.desk.store)
        assert (row["status"], row["outcome"]) == ("cancelled", "cancelled")
        assert (row["spent_nano"], row["reserved_nano"]) == (99, 0)


async def whole_rows(store: Any, *names: str) -> list[tuple[Any, ...]]:
    """Every column of these tasks."""
    rows: list[Any] = [await row_of(store, name) for name in names]
    return [tuple(row) for row in rows]


async def test_recovery_leaves_others_alone(open_works):
    """Waiting and ended tasks are not touched, and a second recovery finds nothing."""
    async with open_works(answer(text("x"))) as works:
        await works.accept("done")
        await works.start()
        await works.ended("done")
        await works.stop()
        await accepted(works.desk.store, "waiting")
        store = works.desk.store
        before = await whole_rows(store, "done", "waiting")
        assert await take_over(store, 5) == 0
        assert await whole_rows(store, "done", "waiting") == before
        assert (await row_of(store, "waiting"))["status"] == TaskStatus.QUEUED


async def test_recovery_of_many(open_works):
    """Fifty tasks in flight at the crash: each is presumed once, each comes back."""
    async with open_works() as works:
        for number in range(50):
            await accepted(works.desk.store, f"t{number}")
        claims = await works.desk.store.write(lambda tx: claim_now(tx, 50))
        for claim in claims:
            await works.desk.store.write(leave_behind(claim, 10))
    async with open_works() as works:
        assert await take_over(works.desk.store, 5) == 50
        assert await take_over(works.desk.store, 5) == 0
        rows = await works.desk.store.read(lambda tx: tx.all("waiting_tasks"))
        assert len(rows) == 50
        for claim in claims:
            lines = await lines_of(works.desk.store, claim.subject.task_id)
            assert lines["presumed_nano"] == 10
            left = await works.desk.store.read(lambda tx, c=claim: open_attempts(tx, c.subject))
            assert left == []
        assert await drift(works.desk.store) == []


async def test_a_crash_between_two_steps_repeats_nothing(open_works):
    """The recorded answer is not bought again: the next process goes on after it."""
    async with open_works(calls(tool_use("c1", arguments={"x": 1}))) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.probe.calls:
                await yielded()
        await works.crash()
    async with open_works(answer(text("done"))) as works:
        assert await works.start() == 1
        row = await works.ended()
        assert (row["outcome"], row["step_count"]) == ("answered", 2)
        assert [request.reference for request in works.desk.provider.asked] == ["t/2/1"]
        assert works.probe.calls == []
        assert len(works.events(ModelAnswered)) == 1
        assert (await lines_of(works.desk.store))["calls"] == 2


@pytest.mark.parametrize("keeps_last", [True, False])
@pytest.mark.parametrize("writes", range(6))
async def test_a_crash_at_any_write_loses_no_task_and_no_money(open_works, writes, keeps_last):
    """Wherever the writes stop, the next process ends the task, the books agree, no answer is bought twice."""
    said = [calls(tool_use("c1", arguments={"x": 1})), answer(text("done"))]
    async with open_works(*said) as works:
        await works.accept()
        works.desk.store.dies_after = writes
        works.desk.store.keeps_last = keeps_last
        starting = asyncio.create_task(works.start())
        async with asyncio.timeout(10):
            await works.desk.store.died.wait()
        await works.crash()
        assert starting.done()
        asked = len(works.desk.provider.asked)
        before = await row_of(works.desk.store)
        ran = list(works.probe.calls)
    async with open_works(*said[before["step_count"] :]) as works:
        await works.start()
        row = await works.ended()
        assert (row["outcome"], row["step_count"], row["reserved_nano"]) == ("answered", 2, 0)
        assert await drift(works.desk.store) == []
        in_flight = before["reserved_nano"] > 0
        assert len(works.events(AttemptPresumed)) == int(in_flight)
        assert asked + len(works.desk.provider.asked) <= 2 + int(in_flight)
        assert len(ran + works.probe.calls) <= 1
        lines = await lines_of(works.desk.store)
        assert lines["calls"] == 2 + int(in_flight)


async def test_attempts_of_an_interrupted_step_have_new_numbers(open_works):
    """A repeated call is another attempt with its own reservation, never the old one again."""
    async with open_works(Hang()) as works:
        claim = await claimed(works.desk.store)
        asking = asyncio.create_task(works.desk.ask(call_of(claim)))
        async with asyncio.timeout(10):
            while not works.events(AttemptStarted):
                await yielded()
        await works.crash()
        assert asking.cancelled()
    async with open_works(answer(text("done"))) as works:
        await works.start()
        await works.ended()
        assert [request.reference for request in works.desk.provider.asked] == ["t/1/2"]
        stands = await works.desk.store.read(
            lambda tx: tx.one("read_account", scope="task", id=task_scope(claim.subject.task_id).id)
        )
        assert stands["reserved_nano"] == 0
