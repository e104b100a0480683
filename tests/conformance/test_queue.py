"""Every adapter of the queue goes through one suite, on real time. A new adapter is one more name here."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.budget.scopes import session_scope
from app.domain.clock import SystemClock
from app.domain.errors import BudgetExhausted, QueueFull, Stopping
from app.domain.lease import Lease
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome
from app.journal.feed import Feed
from app.queue import leases, verbs
from app.queue.caps import NO_CAPS, Caps
from app.queue.dispatch import Dispatch
from app.queue.distributed import Bounds, DistributedQueue
from app.queue.embedded import EmbeddedQueue
from app.queue.port import Queue
from app.store.port import ListenedStore
from app.store.postgres import PostgresStore
from app.store.sqlite import SqliteStore
from tests.support.seeding import accepted, row_of

CLOCK = SystemClock()
LIMIT, SLOTS = 40, 6
ONE_A_SESSION = Caps(session=1)
KINDS = ("embedded on sqlite", "embedded on postgres", "distributed on postgres")


@dataclass
class Office:
    """A queue, its store, and slots that ask it for work."""

    store: ListenedStore
    lease: Lease
    feed: Feed
    make: Any
    queues: list[Queue] = field(default_factory=list)

    async def opened(self, caps: Caps = NO_CAPS) -> Queue:
        """The queue, started."""
        queue: Queue = self.make(self, caps)
        self.queues.append(queue)
        await queue.start()
        return queue

    async def close(self) -> None:
        """Stop what is open."""
        for queue in self.queues:
            await queue.stop()
            await queue.close()
        await self.store.close()


def _embedded(office: Office, caps: Caps) -> Queue:
    queue = EmbeddedQueue(office.store, CLOCK, lease=office.lease, limit=LIMIT, caps=caps)
    office.feed.add_view(queue.on_event)
    return queue


@pytest.fixture(params=KINDS)
async def office(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Office]:
    """Nothing is open yet; everything is closed afterwards."""
    if request.param == "embedded on sqlite":
        made = Office(SqliteStore(tmp_path / "data", CLOCK), Lease("w"), Feed(), _embedded)
    elif request.param == "embedded on postgres":
        url = request.getfixturevalue("database_url")
        made = Office(PostgresStore(url), Lease("w"), Feed(), _embedded)
    else:
        url = request.getfixturevalue("replica_url")

        def distributed(office: Office, caps: Caps) -> Queue:
            dispatch = Dispatch(url, executor="w", slots=SLOTS)
            bounds = Bounds(LIMIT, LIMIT, caps)
            queue = DistributedQueue(office.store, CLOCK, dispatch, bounds, office.lease)
            office.feed.add_view(queue.on_event)
            return queue

        made = Office(PostgresStore(url), Lease("w"), Feed(), distributed)
    made.store.listener = made.feed.publish
    await made.store.write(lambda tx: leases.take(tx, "w", slots=SLOTS, lease_s=600))
    yield made
    await made.close()


async def _next(queue: Queue) -> Claim:
    async with asyncio.timeout(20):
        claim = await queue.next()
    assert claim is not None
    return claim


async def _end(office: Office, queue: Queue, claim: Claim) -> None:
    await office.store.write(
        lambda tx: verbs.finish(tx, claim.subject, Conclusion(Outcome.ANSWERED, "x"))
    )
    queue.ended(claim)


async def _in_line(queue: Queue, task_id: str) -> None:
    """Once its ticket has been handed in, for a queue that has tickets."""
    if isinstance(queue, DistributedQueue):
        async with asyncio.timeout(20):
            while not await queue._dispatch.standing([task_id]):
                await CLOCK.sleep(0.01)


async def _taken(office: Office, queue: Queue, count: int) -> list[str]:
    """What one slot gets, one after the other."""
    found = list[str]()
    for _ in range(count):
        claim = await _next(queue)
        found.append(claim.subject.task_id)
        await _end(office, queue, claim)
    return found


async def _until_status(office: Office, task_id: str, status: str) -> Any:
    async with asyncio.timeout(20):
        while (row := await row_of(office.store, task_id))["status"] != status:
            await CLOCK.sleep(0.02)
    return row


async def test_the_lowest_rank_comes_first(office):
    """What waited when the slot became free comes by priority, then by age."""
    for priority, name in [(1, "c"), (0, "b"), (1, "d"), (-1, "a")]:
        await accepted(office.store, name, priority=priority)
    queue = await office.opened()
    assert await _taken(office, queue, 4) == ["a", "b", "c", "d"]


async def test_a_free_slot_waits_for_work_and_gets_it(office):
    """Nobody has to knock."""
    queue = await office.opened()
    waiting = asyncio.create_task(queue.next())
    await CLOCK.sleep(0.1)
    assert not waiting.done()
    await accepted(office.store, "a")
    async with asyncio.timeout(20):
        claim = await waiting
    assert claim is not None
    assert (claim.subject.task_id, claim.subject.run) == ("a", 1)
    assert (await row_of(office.store, "a"))["lease_owner"] == "w"
    queue.ended(claim)


async def test_many_slots_take_each_task_once(office):
    """Thirty tasks, six slots: nothing is handed out twice, nothing is left."""
    for number in range(30):
        await accepted(office.store, f"t{number:02}")
    queue = await office.opened()
    found, done = list[str](), asyncio.Event()

    async def slot() -> None:
        while (claim := await queue.next()) is not None:
            found.append(claim.subject.task_id)
            await _end(office, queue, claim)
            if len(found) == 30:
                done.set()

    slots = [asyncio.create_task(slot()) for _ in range(SLOTS)]
    async with asyncio.timeout(30):
        await done.wait()
        await queue.stop()
        await asyncio.gather(*slots)
    assert sorted(found) == [f"t{number:02}" for number in range(30)]


async def test_nothing_is_claimed_that_no_slot_can_take(office):
    """With two free slots two tasks run; the others stay where anybody can take them."""
    for number in range(5):
        await accepted(office.store, f"t{number}")
    queue = await office.opened()
    claims = [await _next(queue), await _next(queue)]
    await CLOCK.sleep(0.4)
    rows = [await row_of(office.store, f"t{number}") for number in range(5)]
    assert [row["status"] for row in rows].count("running") == 2
    for claim in claims:
        queue.ended(claim)


async def test_a_task_given_back_until_later_lets_others_pass_and_comes_by_itself(office):
    """It is claimed again once its time has come, as its next run."""
    queue = await office.opened()
    await accepted(office.store, "a")
    claim = await _next(queue)
    at_us = CLOCK.now_us() + 1_500_000
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "retry_wait", at_us))
    queue.ended(claim)
    await accepted(office.store, "b")
    assert await _taken(office, queue, 1) == ["b"]
    again = await _next(queue)
    assert (again.subject.task_id, again.subject.run) == ("a", 2)
    assert CLOCK.now_us() >= at_us
    await _end(office, queue, again)


async def test_a_task_whose_turn_has_come_does_not_wait_for_its_time(office):
    """It was parked for an hour; its turn in a budget's line comes now."""
    queue = await office.opened()
    await accepted(office.store, "a")
    claim = await _next(queue)
    at_us = CLOCK.now_us() + 3_600_000_000
    await office.store.write(
        lambda tx: verbs.give_back(tx, claim.subject, "budget_contention", at_us)
    )
    queue.ended(claim)
    await office.store.write(lambda tx: tx.run("make_available", id="a", now_us=tx.now_us))
    queue.wake("a")
    assert await _taken(office, queue, 1) == ["a"]


async def test_a_delayed_start_is_kept(office):
    """A task with a `run_at` does not come before it."""
    queue = await office.opened()
    at_us = CLOCK.now_us() + 1_200_000
    await accepted(office.store, "later", run_at_us=at_us)
    await accepted(office.store, "now")
    assert await _taken(office, queue, 2) == ["now", "later"]
    assert CLOCK.now_us() >= at_us


async def test_what_was_cancelled_while_it_waited_is_not_handed_out(office):
    """The next one comes in its place."""
    await accepted(office.store, "a")
    await accepted(office.store, "b")
    queue = await office.opened()
    await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "a"))
    assert await _taken(office, queue, 1) == ["b"]
    assert (await row_of(office.store, "a"))["outcome"] == "cancelled"


async def test_a_deadline_ends_what_waits(office):
    """Also while no slot asks for anything."""
    await office.opened()
    await accepted(office.store, "a", deadline_s=0.3)
    row = await _until_status(office, "a", "failed")
    assert row["outcome"] == "deadline"


async def test_a_paused_task_comes_back_when_its_budget_is_raised(office):
    """Whoever raised it, and through whichever process."""
    queue = await office.opened()
    await accepted(office.store, "a")
    claim = await _next(queue)
    scope = session_scope(LOCAL_OWNER, "s")
    cause = BudgetExhausted(
        scope="session",
        scope_id=scope.id,
        limit_nano=1,
        spent_nano=1,
        reserved_nano=0,
        needed_nano=1,
    )
    await office.store.write(lambda tx: verbs.pause(tx, claim.subject, cause))
    queue.ended(claim)
    again = await _next(queue)  # the session has money: what it lacked is there
    assert (again.subject.task_id, again.subject.run) == ("a", 2)
    await _end(office, queue, again)


async def test_a_session_runs_no_more_at_once_than_it_may(office):
    """The second one of the session comes when the first has ended; another session's is not kept waiting."""
    await accepted(office.store, "a1", session_id="a")
    await accepted(office.store, "a2", session_id="a")
    await accepted(office.store, "b1", session_id="b")
    queue = await office.opened(ONE_A_SESSION)
    first, second = await _next(queue), await _next(queue)
    assert {c.subject.task_id for c in (first, second)} == {"a1", "b1"}
    third = asyncio.create_task(queue.next())
    await CLOCK.sleep(0.5)
    assert not third.done()
    for claim in (first, second):
        await _end(office, queue, claim)
    async with asyncio.timeout(20):
        last = await third
    assert last is not None
    assert last.subject.task_id == "a2"
    await _end(office, queue, last)


async def test_full_is_full_and_a_claim_makes_room(office):
    """The bound counts who waits, those being accepted included; what others accept is known within a second."""
    queue = await office.opened()
    for number in range(LIMIT - 1):
        await accepted(office.store, f"t{number}")
    await _until_room(queue)
    with queue.place(), pytest.raises(QueueFull, match=str(LIMIT)), queue.place():
        pass
    await accepted(office.store, "last")
    with pytest.raises(QueueFull), queue.place():
        pass
    await _taken(office, queue, 1)
    await _until_room(queue)


async def _until_room(queue: Queue) -> None:
    async with asyncio.timeout(20):
        while not _has_room(queue):
            await CLOCK.sleep(0.05)


def _has_room(queue: Queue) -> bool:
    try:
        with queue.place():
            return True
    except QueueFull:
        return False


async def test_what_was_accepted_before_the_start_is_found(office):
    """Tasks of a process that is gone, whether or not it got as far as queueing them."""
    office.store.listener = lambda _facts: None
    await accepted(office.store, "old")
    office.store.listener = office.feed.publish
    queue = await office.opened()
    assert await _taken(office, queue, 1) == ["old"]


async def test_stopping_sends_slots_home_and_leaves_no_task_claimed(office):
    """Waiting slots get None, so does whoever comes later; no place is given; what waits stays to be taken."""
    queue = await office.opened()
    waiting = [asyncio.create_task(queue.next()) for _ in range(3)]
    await CLOCK.sleep(0.1)
    async with asyncio.timeout(20):
        await queue.stop()
        assert await asyncio.gather(*waiting) == [None, None, None]
        assert await queue.next() is None
    with pytest.raises(Stopping), queue.place():
        pass
    await accepted(office.store, "late")
    assert (await row_of(office.store, "late"))["status"] == "queued"


async def test_nothing_is_taken_without_a_lease(office):
    """A worker whose row is gone gets nothing, and asks for a new lease; with that it goes on."""
    queue = await office.opened()
    await office.store.write(lambda tx: leases.leave(tx, "w"))
    await accepted(office.store, "a")
    waiting = asyncio.create_task(queue.next())
    async with asyncio.timeout(20):
        await office.lease.wanted(20)
    assert (await row_of(office.store, "a"))["status"] == "queued"
    office.lease.worker = "w2"
    await office.store.write(lambda tx: leases.take(tx, "w2", slots=SLOTS, lease_s=600))
    queue.wake()
    async with asyncio.timeout(20):
        claim = await waiting
    assert claim is not None
    assert claim.worker == "w2"
    await _end(office, queue, claim)


async def test_a_burst_lets_a_single_task_pass(office):
    """Thirty of one session wait, one at a time is worked on: another session's task is among the next few."""
    queue = await office.opened()
    for number in range(30):
        await accepted(office.store, f"b{number:02}", session_id="burst")
    first = await queue.next()
    await accepted(office.store, "single", session_id="other")
    await _in_line(queue, "single")
    passed = 0
    while (claim := await queue.next()).subject.task_id != "single":
        passed += 1
        await office.store.write(
            lambda tx, c=claim: verbs.finish(tx, c.subject, Conclusion(Outcome.ANSWERED, "x"))
        )
        queue.ended(claim)
    assert passed <= SLOTS + 1  # what had arrived at this process's slots before it came
    queue.ended(first)
