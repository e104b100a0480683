"""The reaper: whom it takes for dead, and what becomes of their tasks."""

import asyncio
from typing import Any

import pytest

from app.domain.lease import Lease
from app.domain.task import LOCAL_OWNER, Subject
from app.journal.events import TaskFinished, TaskRequeued
from app.journal.journal import read_all
from app.queue import leases, verbs
from app.store.port import Tx
from app.worker.reaper import Reaper
from app.worker.recovery import RESCUE_LIMIT, rescue_all
from tests.support.clock import FakeClock
from tests.support.seeding import accepted, claim_now, row_of
from tests.support.stores import OpenStore

LEASE_S = 15.0
SWEEP_S = 2.5


class Room:
    """A store in which others hold tasks, and a reaper of this process."""

    def __init__(self, open_store: OpenStore) -> None:
        self.clock = FakeClock()
        self.store = open_store(self.clock)
        self.reaper = self.other()

    def other(self, worker: str = "me", run_limit: int = 3) -> Reaper:
        """The reaper of one more process."""
        lease = Lease(worker)
        return Reaper(self.store, self.clock, lease, lease_s=LEASE_S, run_limit=run_limit)

    async def enter(self, worker: str = "them") -> None:
        """A worker takes its lease."""
        await self.store.write(lambda tx: leases.take(tx, worker, slots=1, lease_s=LEASE_S))

    async def claim(self, worker: str = "them", count: int = 1) -> list[Any]:
        """The worker takes tasks."""
        return await self.store.write(lambda tx: verbs.claim(tx, worker, count))

    async def sweeps(self, seconds: float) -> int:
        """Let time pass, as the reaper does; returns how many tasks were rescued."""
        rescued = 0
        for _ in range(int(seconds / SWEEP_S)):
            self.clock.move(SWEEP_S)
            rescued += await self.reaper.sweep()
        return rescued

    async def crash(self, run_limit: int = 3) -> None:
        """Claim the task and die."""
        await self.store.write(lambda tx: claim_now(tx, 1, "them"))
        await self.store.write(lambda tx: leases.leave(tx, "them"))
        await rescue_all(self.store, "lease_expired", run_limit)


@pytest.fixture
async def room(open_store: OpenStore) -> Room:
    """An empty store, each of the two."""
    return Room(open_store)


async def test_a_silent_worker_is_taken_over_after_its_lease(room):
    """Not before its lease has run out, and at the next sweep after."""
    await room.enter()
    await accepted(room.store)
    await room.claim()
    assert await room.sweeps(LEASE_S - SWEEP_S) == 0
    assert await room.sweeps(SWEEP_S) == 1
    row = await row_of(room.store)
    assert (row["status"], row["crash_count"], row["lease_owner"]) == ("queued", 1, None)
    assert await room.store.read(lambda tx: tx.all("list_workers")) == []


async def test_a_worker_that_beats_is_left_alone(room):
    """However long it works on one task."""
    await room.enter()
    await accepted(room.store, deadline_s=9_999)
    await room.claim()
    for _ in range(20):
        assert await room.sweeps(5) == 0
        assert await room.store.write(lambda tx: leases.renew(tx, "them", LEASE_S))


async def test_a_clock_that_jumps_ahead_does_not_make_the_living_look_dead(room):
    """Every lease has expired by the clock; whoever beats within a few seconds keeps it."""
    await room.enter()
    await accepted(room.store, deadline_s=99_999)
    await room.claim()
    assert await room.sweeps(SWEEP_S) == 0
    assert await room.store.write(lambda tx: leases.renew(tx, "them", LEASE_S))
    room.clock.set_by(3_600)
    assert await room.sweeps(5) == 0
    assert await room.store.write(lambda tx: leases.renew(tx, "them", LEASE_S))
    assert await room.sweeps(5) == 0


async def test_a_clock_that_is_set_back_does_not_keep_the_dead_alive(room):
    """The lease seems to last for an hour more, but nobody beats: two leases are enough."""
    await room.enter()
    await accepted(room.store, deadline_s=99_999)
    await room.claim()
    assert await room.sweeps(SWEEP_S) == 0
    room.clock.set_by(-3_600)
    assert await room.sweeps(2 * LEASE_S) == 1


async def test_what_has_no_worker_at_all_is_rescued_at_once(room):
    """A row that is gone is a lost lease."""
    await room.enter()
    await accepted(room.store)
    await room.claim()
    await room.store.write(lambda tx: leases.leave(tx, "them"))
    assert await room.reaper.sweep() == 1


async def test_nobody_reaps_itself(room):
    """A process that was stalled finds its own row expired: that is for its heartbeat to mend."""
    await room.enter("me")
    await accepted(room.store, deadline_s=99_999)
    await room.claim("me")
    assert await room.sweeps(60) == 0


async def test_many_reapers_rescue_each_task_once(room):
    """More tasks than fit into one transaction, three reapers at once."""
    count = 2 * RESCUE_LIMIT + 3
    await room.enter()
    for number in range(count):
        await accepted(room.store, f"t{number}")
    claims = await room.claim(count=count)
    others = [room.other(f"me{number}") for number in range(3)]
    for _ in range(6):
        await asyncio.gather(*(other.sweep() for other in others))
        room.clock.move(SWEEP_S)
    rescued = await asyncio.gather(*(other.sweep() for other in others))
    assert sum(rescued) == count
    for claim in claims:
        entries = await read_all(room.store, claim.subject)
        assert sum(isinstance(entry.event, TaskRequeued) for entry in entries) == 1


async def test_a_renewal_between_the_look_and_the_deed_saves_the_worker(room):
    """The row is removed only as it was seen."""
    await room.enter()
    await room.store.write(lambda tx: leases.renew(tx, "them", LEASE_S))

    def removed(tx: Tx) -> int:
        return tx.run("remove_silent_worker", id="them", beat_count=0)

    assert await room.store.write(removed) == 0


async def test_what_was_being_cancelled_ends_cancelled(room):
    """The dead worker cannot confirm any more."""
    await room.enter()
    await accepted(room.store)
    await room.claim()
    await room.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert await room.sweeps(LEASE_S) == 1
    assert (await row_of(room.store))["outcome"] == "cancelled"


async def test_runs_that_crash_without_progress_are_bounded(room):
    """The third crash in a row ends the task, with a clear word."""
    await accepted(room.store)
    for _ in range(3):
        await room.crash()
    row = await row_of(room.store)
    assert (row["status"], row["outcome"], row["run_count"]) == ("failed", "crashed_repeatedly", 3)
    entries = await read_all(room.store, Subject("t", "s"))
    (finished,) = [e.event for e in entries if isinstance(e.event, TaskFinished)]
    assert finished.error_type == "crashed_repeatedly"
    assert finished.error_message is not None
    assert "3 runs in a row" in finished.error_message


async def test_a_finished_step_is_progress(room):
    """After one the count begins anew: a long task may crash as often as it likes."""
    await accepted(room.store)
    for step in range(1, 9):
        await room.crash()
        (claim,) = await room.store.write(lambda tx: claim_now(tx, 1, "them"))
        run = claim.subject.run
        await room.store.write(
            lambda tx, s=step, r=run: tx.run("record_step", id="t", run=r, step=s)
        )
        await room.store.write(lambda tx: leases.leave(tx, "them"))
        await rescue_all(room.store, "lease_expired", 3)
    row = await row_of(room.store)
    assert (row["status"], row["run_count"], row["crash_count"]) == ("queued", 16, 1)


async def test_giving_back_in_good_order_is_no_crash(room):
    """Drains, waits and pauses do not count, however many there are."""
    await accepted(room.store)
    for _ in range(9):
        (claim,) = await room.store.write(lambda tx: claim_now(tx, 1, "them"))
        await room.store.write(
            lambda tx, s=claim.subject: verbs.give_back(tx, s, "drain", tx.now_us)
        )
    row = await row_of(room.store)
    assert (row["status"], row["crash_count"]) == ("queued", 0)
