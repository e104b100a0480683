"""The pool: slots, cancels at every moment, deadlines, bugs, and leases that were lost."""

import asyncio
from typing import Any

import orjson
import pytest

from app.domain.task import Subject, TaskStatus
from app.journal.call_events import AttemptFailed
from app.journal.events import TaskClaimed, TaskRequeued
from app.journal.journal import read_all
from app.queue import verbs
from app.worker.recovery import presume_open
from tests.support.clock import yielded
from tests.support.provider import Hang, answer, calls, status, text, tool_use
from tests.support.seeding import claim_now, drift, lines_of, row_of


async def no_money_is_held(works: Any, *names: str) -> None:
    """Nothing is reserved any more, and every balance is the sum of its lines."""
    for name in names or ("t",):
        assert (await row_of(works.desk.store, name))["reserved_nano"] == 0
    assert await drift(works.desk.store) == []


async def test_tasks_run_in_slots(open_works):
    """No more tasks are in flight than there are slots; all of them end."""
    hangs = [Hang() for _ in range(5)]
    async with open_works(*hangs, slots=2) as works:
        for number in range(5):
            await works.accept(f"t{number}")
        await works.start()
        for number, hang in enumerate(hangs):
            async with asyncio.timeout(10):
                await hang.entered.wait()
            assert works.pool.running <= 2
            if number:
                hangs[number - 1].release()
        hangs[-1].release()
        for number in range(5):
            assert (await works.ended(f"t{number}"))["outcome"] == "answered"
        await no_money_is_held(works, "t0", "t4")


async def test_urgent_tasks_go_first_then_old_ones(open_works):
    """One slot takes tasks by priority, then by age."""
    async with open_works(*[answer(text("x"))] * 4, slots=1) as works:
        for priority, name in [(1, "a"), (0, "b"), (1, "c"), (-1, "d")]:
            await works.accept(name, priority=priority)
            works.desk.clock.move(1)
        await works.start()
        for name in "abcd":
            await works.ended(name)
        order = [e.subject.task_id for e in works.told if isinstance(e.event, TaskClaimed)]
        assert order == ["d", "b", "a", "c"]


async def test_a_tool_loop_ends_with_its_answer(open_works):
    """Claim, call, tool, call, end: the whole way in one run."""
    script = [calls(tool_use("c1", arguments={"x": 7})), answer(text("seven"))]
    async with open_works(*script) as works:
        await works.accept()
        await works.start()
        row = await works.ended()
        assert (row["outcome"], row["step_count"], row["run_count"]) == ("answered", 2, 1)
        assert orjson.loads(row["result_json"]) == "seven"
        assert works.probe.calls == [7]
        await no_money_is_held(works)


async def test_deadline_in_the_middle_of_a_call(open_works):
    """The call is interrupted, booked as presumed, and the task ends at its deadline."""
    async with open_works(Hang()) as works:
        await works.accept(deadline_s=0.5)
        await works.start()
        row = await works.ended()
        assert (row["status"], row["outcome"]) == ("failed", "deadline")
        lines = await lines_of(works.desk.store)
        assert lines["presumed_nano"] == row["spent_nano"] > 0
        await no_money_is_held(works)


async def test_deadline_while_the_slots_are_busy(open_works):
    """A task that never got its turn ends at its deadline, without a call."""
    hang = Hang()
    async with open_works(hang, slots=1) as works:
        await works.accept("busy", deadline_s=6_000.0)
        await works.start()
        await hang.entered.wait()
        await works.accept(deadline_s=5.0)
        works.desk.clock.move(6)
        works.queue.wake()
        assert (await works.ended())["outcome"] == "deadline"
        assert len(works.desk.provider.asked) == 1


async def test_a_task_claimed_after_its_deadline_makes_no_call(open_works):
    """A claim that comes too late ends the task at once."""
    async with open_works() as works:
        await works.accept(deadline_s=5.0)
        (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
        works.desk.clock.move(6)
        works.queue._buffer.put_nowait(claim)
        works.pool.start()
        assert (await works.ended())["outcome"] == "deadline"
        assert works.desk.provider.asked == []
        await no_money_is_held(works)


async def test_cancel_before_anybody_claimed_it(open_works):
    """A waiting task is cancelled on the spot; no worker ever sees it."""
    async with open_works() as works:
        await works.accept()
        assert await works.cancel() is TaskStatus.CANCELLED
        await works.start()
        await yielded(50)
        assert works.events(TaskClaimed) == []
        assert (await row_of(works.desk.store))["spent_nano"] == 0


async def test_cancel_between_the_claim_and_the_first_step(open_works):
    """Claimed but not in a worker's hand yet: it is cancelled without a call, not forgotten."""
    async with open_works() as works:
        await works.accept()
        (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
        works.queue._buffer.put_nowait(claim)
        assert await works.cancel() is TaskStatus.CANCELLING
        works.pool.start()
        row = await works.ended()
        assert (row["status"], row["spent_nano"]) == ("cancelled", 0)
        assert works.desk.provider.asked == []


@pytest.mark.parametrize("moments", range(12))
async def test_cancel_at_any_of_the_first_moments(open_works, moments):
    """However early or late the cancel comes, the task ends cancelled and nothing stays held."""
    async with open_works(Hang()) as works:
        await works.accept()
        await works.start()
        await works.until("t", "running")
        await yielded(moments)
        assert await works.cancel() is TaskStatus.CANCELLING
        assert (await works.ended())["outcome"] == "cancelled"
        await no_money_is_held(works)


async def test_cancel_in_the_middle_of_a_call(open_works):
    """The call is broken off, booked as presumed, and the task is cancelled; the slot is free again."""
    hang = Hang()
    async with open_works(hang, answer(text("next")), slots=1) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        assert await works.cancel() is TaskStatus.CANCELLING
        row = await works.ended()
        assert row["outcome"] == "cancelled"
        (failed,) = works.events(AttemptFailed)
        assert (failed.kind, failed.charged_nano) == ("presumed", row["spent_nano"])
        await works.accept("u")
        assert (await works.ended("u"))["outcome"] == "answered"
        await no_money_is_held(works)


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [(answer(text("Hello.")), "answered"), (calls(tool_use("")), "cancelled")],
)
async def test_an_answer_that_meets_a_cancel_nobody_here_has_heard_of(open_works, reply, outcome):
    """A result that was on its way is the task's; a failure is not: whoever asked was told that it would be cancelled."""
    hang = Hang(reply)
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        store = works.desk.store.inner
        hears, store.listener = store.listener, lambda _facts: None
        assert await works.cancel() is TaskStatus.CANCELLING
        store.listener = hears
        hang.release()
        row = await works.ended()
        assert row["outcome"] == outcome
        assert row["spent_nano"] > 0
        await no_money_is_held(works)


async def test_cancel_while_a_tool_runs(open_works):
    """Between two calls: the tool is left, no further call is made."""
    async with open_works(calls(tool_use("c1", arguments={"x": 1}))) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.probe.calls:
                await yielded()
        await works.cancel()
        assert (await works.ended())["outcome"] == "cancelled"
        assert len(works.desk.provider.asked) == 1
        await no_money_is_held(works)


async def test_cancel_while_a_retry_is_waited_for(open_works):
    """A wait between two attempts is broken off as well."""
    async with open_works(status(529, retry_after_s=50.0), park_after_s=100.0) as works:
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.events(AttemptFailed):
                await yielded()
        await works.cancel()
        row = await works.ended()
        assert (row["outcome"], row["spent_nano"]) == ("cancelled", 0)


async def test_cancel_of_a_task_that_waits_in_a_budgets_line(open_works):
    """A parked task that is cancelled leaves the line: who stands behind it is not blocked for ever."""
    hang = Hang(answer(text("first")))
    async with open_works(hang, answer(text("third")), park_after_s=0.01, slots=3) as works:
        await works.accept("a", session_nano=2_000_000)
        await works.start()
        await hang.entered.wait()
        await works.accept("b")
        async with asyncio.timeout(10):
            while not works.events(TaskRequeued, "b"):
                await yielded()
        await works.until("b", "queued")
        assert await works.cancel("b") is TaskStatus.CANCELLED
        await works.accept("c")
        await yielded(50)
        hang.release()
        assert (await works.ended("a"))["outcome"] == "answered"
        works.desk.clock.move(20)
        works.queue.wake()
        assert (await works.ended("c"))["outcome"] == "answered"
        await no_money_is_held(works, "a", "b", "c")


async def test_contention_gives_slots_back_and_all_get_through(open_works):
    """Six tasks on money for one call at a time, short waits: each is parked and woken, and answered."""
    hangs = [Hang() for _ in range(6)]
    async with open_works(*hangs, park_after_s=0.01, slots=4) as works:
        for number in range(6):
            await works.accept(f"t{number}", session_nano=2_000_000)
        await works.start()
        async with asyncio.timeout(20):
            while not any(works.events(TaskRequeued, f"t{number}") for number in range(6)):
                await yielded()
            for hang in hangs:
                await hang.entered.wait()
                hang.release()
        for number in range(6):
            assert (await works.ended(f"t{number}"))["outcome"] == "answered"
        reasons = {e.event.reason for e in works.told if isinstance(e.event, TaskRequeued)}
        assert reasons == {"budget_contention"}
        await no_money_is_held(works, *(f"t{number}" for number in range(6)))


async def test_a_bug_ends_the_task_and_tells_nobody_outside(open_works, log_lines):
    """An unexpected error is a typed end without details; the log has them; the slot works on."""
    async with open_works(RuntimeError("secret detail"), answer(text("ok")), slots=1) as works:
        await works.accept()
        await works.start()
        row = await works.ended()
        assert (row["status"], row["outcome"]) == ("failed", "internal_error")
        assert "secret" not in row["error_json"]
        (line,) = log_lines.entries("internal_error")
        assert line["task_id"] == "t"
        assert "secret detail" in line["traceback"]
        await works.accept("u")
        assert (await works.ended("u"))["outcome"] == "answered"
        await no_money_is_held(works)


async def test_a_tool_that_is_gone_ends_its_task_only(open_works):
    """A task whose tool no longer exists after an update fails by itself; others run."""
    async with open_works(answer(text("ok"))) as works:
        await works.accept(tools=("removed",))
        await works.start()
        assert (await works.ended())["outcome"] == "internal_error"
        await works.accept("u")
        assert (await works.ended("u"))["outcome"] == "answered"
        await no_money_is_held(works)


async def test_a_run_that_lost_its_lease_stops_without_a_word(open_works, log_lines):
    """When another run holds the task, the late answer brings no event and no state: only its money's truth."""
    hang = Hang(answer(text("too late")))
    async with open_works(hang) as works:
        await works.accept()
        await works.start()
        await hang.entered.wait()
        store, old = works.desk.store, Subject("t", "s", run=1)

        def lose(tx: Any) -> None:
            presume_open(tx, old, "restart")
            verbs.give_back(tx, old, "restart", tx.now_us + 10**9)

        await store.write(lose)
        before = [entry.event for entry in await read_all(store, old)]
        spent = (await row_of(store))["spent_nano"]
        hang.release()
        async with asyncio.timeout(10):
            while not log_lines.entries("run_stale"):
                await yielded()
        assert [entry.event for entry in await read_all(store, old)] == before
        row = await row_of(store)
        assert (row["status"], row["run_count"]) == ("queued", 1)
        lines = await lines_of(store)
        assert (lines["confirmed_nano"], lines["presumed_nano"]) == (row["spent_nano"], 0)
        assert 0 < row["spent_nano"] < spent
        await no_money_is_held(works)


async def test_a_store_that_fails_gives_the_task_back(open_works):
    """When nothing can be written the task waits a moment and is tried again; no call was made."""
    async with open_works(answer(text("ok"))) as works:
        await works.accept()
        (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1))
        works.desk.store.failures_left = 1
        works.queue._buffer.put_nowait(claim)
        works.pool.start()
        await works.until("t", "queued")
        (back,) = works.events(TaskRequeued)
        assert back.reason == "store_failed"
        assert works.desk.provider.asked == []
        works.desk.clock.move(2)
        await works.queue.start()
        row = await works.ended()
        assert (row["outcome"], row["run_count"]) == ("answered", 2)


async def test_an_end_is_written_when_the_store_works_again(open_works):
    """A conclusion that cannot be written is kept until it can be."""
    async with open_works() as works:

        def refuse(_request: object) -> Any:
            works.desk.store.failures_left = 4
            raise status(404, "not_found_error")

        works.desk.provider.script = [refuse]
        await works.accept()
        await works.start()
        assert (await works.ended())["outcome"] == "upstream_rejected"
        assert works.desk.store.failed == 4
