"""The embedded queue: who is next, how many may wait, and what happens when it stops."""

import asyncio
from typing import Any

import pytest

from app.domain.errors import QueueFull, Stopping
from app.domain.task import LOCAL_OWNER, Claim
from app.journal.feed import Feed
from app.queue import verbs
from app.queue.embedded import EmbeddedQueue
from tests.support.clock import yielded
from tests.support.desk import FlakyStore
from tests.support.seeding import accepted, claim_now, row_of
from tests.unit.queue.conftest import LIMIT


async def taken(office: Any, count: int) -> list[str]:
    """What `count` calls by one worker, one after the other, get."""
    async with asyncio.timeout(10):
        found = [await office.queue.next() for _ in range(count)]
    return [claim.subject.task_id for claim in found]


async def test_hands_out_by_priority_then_age(office):
    """One worker gets the most urgent first, then the oldest, also of those that come later."""
    for priority, name in [(1, "a"), (0, "b"), (1, "c"), (-1, "d")]:
        await accepted(office.store, name, priority=priority)
        office.clock.move(1)
    await office.queue.start()
    assert await taken(office, 2) == ["d", "b"]
    await accepted(office.store, "e", priority=-5)
    assert await taken(office, 3) == ["e", "a", "c"]


async def test_waits_for_work_and_wakes_for_it(office):
    """A worker that finds nothing gets the next task as soon as it is accepted."""
    await office.queue.start()
    waiting = asyncio.create_task(office.queue.next())
    await yielded(20)
    assert not waiting.done()
    await accepted(office.store, "a")
    async with asyncio.timeout(10):
        claim = await waiting
    assert claim.subject.task_id == "a"
    assert (await row_of(office.store, "a"))["lease_owner"] == "w"


async def test_a_row_that_cannot_be_read_keeps_nobody_waiting(office):
    """A version that came later accepted it: it ends with a reason, may be retried, and the next one's turn comes."""
    await accepted(office.store, "a", urgency="someday")
    await accepted(office.store, "b")
    await office.queue.start()
    assert await taken(office, 1) == ["b"]
    row = await row_of(office.store, "a")
    assert (row["status"], row["outcome"]) == ("failed", "internal_error")
    assert "unreadable" in row["error_json"]
    assert office.queue.depth == 0


async def test_claims_only_what_free_workers_can_take(office):
    """With two free workers two tasks are claimed; the others stay in the queue, for whoever comes."""
    for number in range(10):
        await accepted(office.store, f"t{number}")
    await office.queue.start()
    await yielded(50)
    assert (await row_of(office.store, "t0"))["status"] == "queued"
    assert len(await taken(office, 2)) == 2
    await office.store.write(lambda _tx: None)
    rows = await office.store.read(lambda tx: tx.all("waiting_tasks"))
    assert len(rows) == 8
    assert office.queue.depth == 8


async def test_many_workers_take_each_task_once(office):
    """Thirty tasks, a dozen workers: nothing is handed out twice, nothing is left."""
    for number in range(30):
        await accepted(office.store, f"t{number:02}")
    await office.queue.start()
    found: list[str] = []

    async def worker() -> None:
        while (claim := await office.queue.next()) is not None:
            found.append(claim.subject.task_id)

    workers = [asyncio.create_task(worker()) for _ in range(12)]
    async with asyncio.timeout(10):
        while len(found) < 30:
            await yielded()
        await office.queue.stop()
        await asyncio.gather(*workers)
    assert sorted(found) == [f"t{number:02}" for number in range(30)]


async def test_the_bound_counts_who_waits_and_who_is_being_accepted(office):
    """Full is full: also with places that are held but not yet used; room comes with a claim."""
    for number in range(LIMIT - 1):
        await accepted(office.store, f"t{number}")
    with office.queue.place():
        assert office.queue.depth == LIMIT
        with pytest.raises(QueueFull, match=str(LIMIT)), office.queue.place():
            pass
    with office.queue.place():
        await accepted(office.store, "last")
    with pytest.raises(QueueFull), office.queue.place():
        pass
    await office.queue.start()
    await taken(office, 1)
    with office.queue.place():
        pass


async def test_ended_tasks_make_room(office):
    """Cancelled and expired tasks do not count as waiting."""
    await accepted(office.store, "a")
    await accepted(office.store, "b", deadline_s=5.0)
    assert office.queue.depth == 2
    await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "a"))
    assert office.queue.depth == 1
    office.clock.move(6)
    await office.store.write(lambda tx: verbs.expire(tx, 9))
    assert office.queue.depth == 0


async def test_deadlines_are_looked_after_while_all_workers_are_busy(office):
    """Nobody asks for work, and still a waiting task ends at its deadline."""
    await office.queue.start()
    await accepted(office.store, "a", deadline_s=5.0)
    office.clock.move(6)
    office.queue.wake()
    async with asyncio.timeout(10):
        while (await row_of(office.store, "a"))["status"] == "queued":
            await yielded()
    assert (await row_of(office.store, "a"))["outcome"] == "deadline"


async def test_a_task_that_waits_for_later_is_not_handed_out(office):
    """Given back until an instant: others overtake it, and then it comes."""
    await office.queue.start()
    await accepted(office.store, "a")
    async with asyncio.timeout(10):
        claim = await office.queue.next()
    at_us = office.clock.now_us() + 60_000_000
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "retry_wait", at_us))
    assert office.queue.depth == 1
    await accepted(office.store, "b")
    assert await taken(office, 1) == ["b"]
    office.clock.move(60)
    assert await taken(office, 1) == ["a"]


async def test_soon_available_tasks_wake_the_queue_by_themselves(office):
    """Nobody has to knock when a short wait is over."""
    await office.queue.start()
    await accepted(office.store, "a")
    async with asyncio.timeout(10):
        claim = await office.queue.next()
        at_us = office.clock.now_us() + 20_000
        await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "retry_wait", at_us))
        office.clock.move(0.02)
        again = await office.queue.next()
    assert again.subject.run == 2


async def test_starting_finds_what_was_accepted_before(office):
    """Tasks of an earlier process count as waiting and are handed out."""
    await accepted(office.store, "old")
    queue = EmbeddedQueue(office.store, office.clock, lease=office.lease, limit=1)
    await queue.start()
    try:
        assert queue.depth == 1
        async with asyncio.timeout(10):
            claim = await queue.next()
        assert claim is not None
        assert claim.subject.task_id == "old"
    finally:
        await queue.stop()


async def test_stopping_sends_workers_home_and_takes_nothing_new(office):
    """Waiting workers get None, so does whoever comes later, and no place is given."""
    await office.queue.start()
    waiting = [asyncio.create_task(office.queue.next()) for _ in range(3)]
    await yielded(20)
    async with asyncio.timeout(10):
        await office.queue.stop()
        assert await asyncio.gather(*waiting) == [None, None, None]
        assert await office.queue.next() is None
    with pytest.raises(Stopping), office.queue.place():
        pass


async def test_stopping_gives_back_what_no_worker_has_in_hand(office):
    """A task that was claimed but not picked up goes back to the queue."""
    await accepted(office.store, "a")
    (claim,) = await office.store.write(lambda tx: claim_now(tx, 1))
    office.queue._buffer.put_nowait(claim)
    await office.queue.stop()
    assert (await row_of(office.store, "a"))["status"] == "queued"


async def test_a_store_that_fails_stops_the_queue_for_a_moment_only(office):
    """After a failed claim the queue waits and tries again; the worker gets its task."""
    store = FlakyStore(office.store)
    queue = EmbeddedQueue(store, office.clock, lease=office.lease, limit=9)
    office.store.listener = Feed(queue.on_event).publish
    await accepted(office.store, "a")
    await queue.start()
    store.failures_left = 2
    try:
        async with asyncio.timeout(10):
            claim = await queue.next()
        assert isinstance(claim, Claim)
        assert store.failed == 2
        assert len(office.clock.slept) == 2
    finally:
        await queue.stop()
