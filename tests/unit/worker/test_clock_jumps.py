"""The wall clock is set while tasks run, wait and are paused: what runs goes by the monotonic clock."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from app.budget.accounts import ServiceLimits
from app.domain.clock import US_PER_S
from app.domain.task import Outcome, Subject
from app.journal.events import (
    TaskBudgetSet,
    TaskClaimed,
    TaskFinished,
    TaskRequeued,
    ToolFinished,
)
from app.journal.journal import append
from tests.support.clock import START_US, yielded
from tests.support.provider import Hang, answer, calls, lost, status, text, tool_use
from tests.support.seeding import USD, drift, row_of

HOUR_S = 3_600.0
JUMPS = pytest.mark.parametrize("jump_s", [HOUR_S, -HOUR_S, 30 * 86_400.0, -30 * 86_400.0])


@JUMPS
async def test_a_running_call(open_works: Any, jump_s: float) -> None:
    """The call in flight is answered, and further steps have the whole time that was left."""
    hang = Hang(calls(tool_use("c1", arguments={"x": 1})))
    async with open_works(hang, answer(text("done"))) as works:
        await works.accept(deadline_s=60)
        await works.start()
        await hang.entered.wait()
        works.desk.clock.set_by(jump_s)
        hang.release()
        row = await works.ended()
        assert row["outcome"] == Outcome.ANSWERED
        assert [request.timeout_s for request in works.desk.provider.asked] == [60.0, 60.0]
        assert [event.outcome for event in works.events(ToolFinished)] == ["ok"]
        assert all(event.duration_s >= 0 for event in works.events(TaskFinished))
        assert await drift(works.desk.store) == []


@JUMPS
async def test_a_running_tool(open_works: Any, jump_s: float) -> None:
    """A tool's time limit does not move, and its duration is what it took."""
    script = [calls(tool_use("c1", arguments={"x": 1})), answer(text("done"))]
    async with open_works(*script) as works:
        works.probe.gates[1] = asyncio.Event()
        await works.accept(deadline_s=60)
        await works.start()
        while not works.probe.calls:
            await yielded()
        works.desk.clock.set_by(jump_s)
        works.desk.clock.move(2)
        works.probe.gates[1].set()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED
        (finished,) = works.events(ToolFinished)
        assert (finished.outcome, finished.duration_s) == ("ok", 2.0)


@JUMPS
async def test_a_call_that_is_tried_again(open_works: Any, jump_s: float) -> None:
    """The bound on retries is a duration: an hour that never passed does not use it up."""
    async with open_works(Hang(), answer(text("done")), max_attempts=3) as works:

        async def fails(_request: Any) -> Any:
            works.desk.clock.set_by(jump_s)
            raise lost()

        works.desk.provider.script = [fails, fails, answer(text("done"))]
        await works.accept()
        await works.start()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED


async def test_a_parked_task_does_not_wait_an_hour_longer(open_works: Any) -> None:
    """Set back while a task waits for its next attempt: it is tried within seconds, not when the hour is over."""
    script = [status(529, retry_after_s=20.0), answer(text("done"))]
    async with open_works(*script, park_after_s=1.0) as works:
        await works.accept()
        await works.start()
        await works.until("t", "queued")
        while not works.events(TaskRequeued):
            await yielded()
        works.desk.clock.set_by(-HOUR_S)
        works.desk.clock.move(1.5)
        works.queue.wake()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED
        assert all(event.waited_s >= 0 for event in works.events(TaskClaimed))


@pytest.mark.parametrize("touched", [False, True])
async def test_a_clock_set_back_while_nobody_runs(open_works: Any, touched: bool) -> None:
    """The same over a restart: what was put off at an instant that is still to come goes on at once, whoever touched it."""
    async with open_works(status(529, retry_after_s=20.0), park_after_s=1.0) as works:
        works.desk.clock.set_by(HOUR_S)
        await works.accept(deadline_s=9_000)
        await works.start()
        await works.until("t", "queued")
        while not works.events(TaskRequeued):
            await yielded()
    async with open_works(answer(text("done"))) as works:
        if touched:
            raised, subject = TaskBudgetSet(budget_nano=USD, previous_nano=0), Subject("t", "s")
            await works.desk.store.write(lambda tx: append(tx, subject, raised))
        await works.start()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED


async def test_a_short_wait_outlives_a_restart(open_works: Any) -> None:
    """Without a jump a restart does not shorten the wait that the upstream has asked for."""
    async with open_works(status(529, retry_after_s=20.0), park_after_s=1.0) as works:
        await works.accept()
        await works.start()
        await works.until("t", "queued")
        while not works.events(TaskRequeued):
            await yielded()
    async with open_works(answer(text("done"))) as works:
        await works.start()
        await yielded(100)
        assert (await row_of(works.desk.store))["status"] == "queued"
        works.desk.clock.move(21)
        works.queue.wake()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED


async def test_a_delayed_task_does_not_start_early(open_works: Any) -> None:
    """What never ran waits for an instant: a clock set back starts nothing before it."""
    async with open_works(answer(text("done"))) as works:
        await works.accept()
        named_us = START_US + 60 * US_PER_S
        connection = works.desk.store.inner._connection
        connection.execute("UPDATE tasks SET available_at_us = ?, held_by = 'time'", (named_us,))
        await works.start()
        works.desk.clock.set_by(-HOUR_S)
        works.desk.clock.move(1.5)
        works.queue.wake()
        await yielded(200)
        row = await row_of(works.desk.store)
        assert (row["status"], row["available_at_us"]) == ("queued", named_us)
        works.desk.clock.set_by(HOUR_S)
        works.desk.clock.move(60)
        works.queue.wake()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED


async def test_a_waiting_task_has_a_deadline_on_the_wall_clock(open_works: Any) -> None:
    """It must outlive a restart, so it is an instant: a clock set past it ends the task, with its reason."""
    async with open_works() as works:
        await works.accept(deadline_s=600)
        works.desk.clock.set_by(HOUR_S)
        await works.start()
        assert (await works.ended())["outcome"] == Outcome.DEADLINE


@pytest.mark.parametrize("running", [True, False])
async def test_a_clock_set_back_while_a_task_waits(open_works: Any, running: bool) -> None:
    """It starts all the same, and runs for the ten minutes it was given at most, not for seventy."""
    hang = Hang()
    async with open_works(answer(text("done")), slots=1) as works:
        if running:
            await works.start()
            works.desk.provider.script.insert(0, hang)
            await works.accept("first")
            await hang.entered.wait()
        await works.accept(deadline_s=600)
        works.desk.clock.set_by(-HOUR_S)
        works.desk.clock.move(1.5)
        if running:
            hang.release()
            works.queue.wake()
        else:
            await works.start()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED
        assert works.desk.provider.asked[-1].timeout_s == 600.0


@pytest.mark.parametrize("days", [1, -1])
async def test_a_budget_of_a_day(open_works: Any, days: int) -> None:
    """A call is settled in the day that it was reserved in, whatever day it is by then."""
    hang = Hang()
    service = ServiceLimits(day_nano=USD)
    async with open_works(hang, answer(text("done")), service=service) as works:
        await works.accept("a")
        await works.start()
        await hang.entered.wait()
        works.desk.clock.set_by(timedelta(days=days).total_seconds())
        hang.release()
        first = await works.ended("a")
        await works.accept("b")
        second = await works.ended("b")
        connection = works.desk.store.inner._connection
        days_found = connection.execute(
            "SELECT spent_nano, reserved_nano FROM accounts WHERE scope = 'service_day' ORDER BY id"
        ).fetchall()
        expected = [first["spent_nano"], second["spent_nano"]][::days]
        assert [tuple(row) for row in days_found] == [(spent, 0) for spent in expected]
        assert await drift(works.desk.store) == []
