"""The heartbeat: a lease that is kept, and what a process does when it is lost."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from app.domain.errors import StoreFull
from app.journal.call_events import ModelAnswered
from app.journal.events import TaskClaimed, TaskRequeued
from app.queue import leases, verbs
from app.worker.heartbeat import Heartbeat
from app.worker.recovery import rescue_all
from tests.support.clock import yielded
from tests.support.provider import Hang, answer, calls, status, text, tool_use
from tests.support.seeding import drift, row_of


@asynccontextmanager
async def beating(works: Any, *, alone: bool = False) -> AsyncIterator[Heartbeat]:
    """A process at work whose heart beats when the test says so."""
    heartbeat = Heartbeat(
        works.desk.store,
        works.desk.clock,
        works.lease,
        heartbeat_s=5.0,
        lease_s=15.0,
        slots=2,
        alone=alone,
        on_lost=works.pool.abandon,
    )
    await works.start()
    await heartbeat.start()
    try:
        yield heartbeat
    finally:
        works.desk.store.failures_left = 0
        await heartbeat.stop()


async def workers_of(works: Any) -> list[str]:
    """Whoever has a lease."""
    rows = await works.desk.store.read(lambda tx: tx.all("list_workers"))
    return [row["id"] for row in rows]


async def robbed(works: Any) -> None:
    """Another process takes the lease away and puts the tasks back."""
    worker = works.lease.worker
    await works.desk.store.write(lambda tx: leases.leave(tx, worker))
    await rescue_all(works.desk.store, "lease_expired", 5)


async def test_a_beat_renews_the_lease(open_works):
    """The row expires a lease after the beat, and until then the lease is sure."""
    async with open_works() as works, beating(works) as heartbeat:
        works.desk.clock.move(9)
        await heartbeat.beat()
        (row,) = await works.desk.store.read(lambda tx: tx.all("list_workers"))
        assert row["expires_at_us"] == works.desk.clock.now_us() + 15_000_000
        assert works.lease.is_sure(works.desk.clock.monotonic_s() + 14.9)
        assert not works.lease.is_sure(works.desk.clock.monotonic_s() + 15.0)


async def test_a_stall_that_nobody_used_changes_nothing(open_works):
    """Stopped for longer than a lease, but nobody has taken over: the runs go on under the same id."""
    hang = Hang()
    async with open_works(hang) as works, beating(works) as heartbeat:
        await works.accept()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        works.desk.clock.move(60)
        before = works.lease.worker
        await heartbeat.beat()
        assert works.lease.worker == before
        hang.release()
        row = await works.ended()
        assert (row["outcome"], row["run_count"]) == ("answered", 1)


async def test_a_lost_lease_stops_every_run_and_the_process_goes_on_as_another(open_works):
    """The call is broken off, nothing of the old run is written, and the task's next run is a fresh claim."""
    hang = Hang()
    async with open_works(hang, answer(text("done"))) as works, beating(works) as heartbeat:
        await works.accept()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        before = works.lease.worker
        await robbed(works)
        await heartbeat.beat()
        row = await works.ended()
        assert works.lease.worker != before
        assert await workers_of(works) == [works.lease.worker]
        assert (row["outcome"], row["run_count"], row["crash_count"]) == ("answered", 2, 0)
        assert [event.worker for event in works.events(TaskClaimed)] == [before, works.lease.worker]
        assert len(works.events(ModelAnswered)) == len(works.events(TaskRequeued)) == 1
        assert await drift(works.desk.store) == []


async def test_a_lost_lease_stops_tools(open_works):
    """A tool in the middle of its work is left; its result is not written."""
    script = [calls(tool_use("c1", arguments={"x": 1})), answer(text("done"))]
    async with open_works(*script) as works, beating(works) as heartbeat:
        works.probe.gates[1] = asyncio.Event()
        await works.accept()
        async with asyncio.timeout(10):
            while not works.probe.calls:
                await yielded()
        await robbed(works)
        await heartbeat.beat()
        row = await works.ended()
        assert (row["outcome"], row["run_count"]) == ("answered", 2)
        assert "interrupted" in works.desk.provider.sent[-1].decode()


async def test_a_lost_lease_voids_claims_in_the_buffer(open_works):
    """A task claimed under the lost lease is not worked on by that claim."""
    async with open_works(answer(text("done"))) as works:
        await works.accept()
        (claim,) = await works.desk.store.write(lambda tx: verbs.claim(tx, "w", 1))
        works.lease.worker = "w2"
        works.queue._buffer.put_nowait(claim)
        works.pool.start()
        await yielded(30)
        assert works.desk.provider.asked == []
        assert (await row_of(works.desk.store))["status"] == "running"
        assert await works.start() == 1
        works.lease.worker = "w"
        assert (await works.ended())["run_count"] == 2


async def test_a_store_that_fails_for_a_whole_lease_ends_it(open_works):
    """Others may have taken over by then: the runs stop before the store has said so."""
    hang = Hang()
    async with open_works(hang, answer(text("done"))) as works, beating(works) as heartbeat:
        await works.accept()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        before = works.lease.worker
        works.desk.store.failures_left = 1
        works.desk.clock.move(14)
        with pytest.raises(StoreFull):
            await heartbeat.beat()
        assert works.lease.worker == before
        works.desk.store.failures_left = 1
        works.desk.clock.move(1.1)
        await heartbeat.beat()
        assert works.lease.worker != before
        assert await workers_of(works) == [works.lease.worker]
        await rescue_all(works.desk.store, "lease_expired", 5)
        assert (await works.ended())["run_count"] == 2


async def test_alone_with_its_store_nobody_takes_over(open_works):
    """In the embedded mode a store that fails for long is waited for: no run is stopped."""
    hang = Hang()
    async with open_works(hang) as works, beating(works, alone=True) as heartbeat:
        await works.accept()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        works.desk.clock.move(100)
        works.desk.store.failures_left = 1
        with pytest.raises(StoreFull):
            await heartbeat.beat()
        hang.release()
        assert (await works.ended())["run_count"] == 1


async def test_leaving_gives_everything_free(open_works):
    """After the last word nobody has to wait for the lease's end."""
    async with open_works() as works:
        async with beating(works):
            assert await workers_of(works) == ["w"]
        assert await workers_of(works) == []
        await works.start()


async def test_what_was_rescued_is_not_given_back_by_the_run_that_lost_it(open_works):
    """Rescued, and not claimed again yet: its old run, which does not know, neither ends nor moves it."""
    hang = Hang()
    async with open_works(hang, slots=1) as works:
        await works.accept(deadline_s=6_000.0)
        await works.start()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        await robbed(works)  # and without a lease nobody here claims it again
        await works.stop()
        row = await row_of(works.desk.store)
        assert (row["status"], row["outcome"], row["run_count"]) == ("queued", None, 1)
        assert await drift(works.desk.store) == []


@pytest.mark.parametrize("broken_off", [True, False])
async def test_what_ran_under_a_lost_lease_is_left_to_its_rescuer(
    open_works, log_lines, broken_off
):
    """Before anybody has taken over: the run books its call, neither ends nor moves its task, and counts as crashed."""
    hang = Hang()

    async def refuse(_request: object) -> Any:
        hang.entered.set()
        await hang.released.wait()
        raise status(400)

    async with open_works(refuse, slots=1) as works:
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            await hang.entered.wait()
        works.lease.worker = "w2"  # as the heartbeat does that could not renew it
        if broken_off:
            works.pool.abandon()
        hang.release()
        async with asyncio.timeout(10):
            while not log_lines.entries("run_stale"):
                await yielded()
        row = await row_of(works.desk.store)
        assert (row["status"], row["run_count"], row["reserved_nano"]) == ("running", 1, 0)
        await works.desk.store.write(lambda tx: leases.leave(tx, "w"))
        await rescue_all(works.desk.store, "lease_expired", 5)
        (told,) = works.events(TaskRequeued)
        row = await row_of(works.desk.store)
        assert (told.reason, row["status"], row["crash_count"]) == ("lease_expired", "queued", 1)
        assert await drift(works.desk.store) == []
