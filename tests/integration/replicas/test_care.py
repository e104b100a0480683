"""What falls between the task table and the dispatcher: tickets that are lost, stuck, spent or left over."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

import psycopg
import pytest

from app.domain.clock import SystemClock
from app.domain.lease import Lease
from app.domain.task import Claim, Conclusion, Outcome
from app.queue import leases, verbs
from app.queue.caps import NO_CAPS
from app.queue.dispatch import Dispatch, Standing, Ticket
from app.queue.distributed import Bounds, DistributedQueue
from app.queue.sweep import Sweep
from app.queue.tickets import HELD, QUEUE
from app.store.port import Operation, Store, T
from app.store.postgres import PostgresStore
from app.worker.recovery import rescue_all
from tests.support.loglines import LineChecker
from tests.support.office import Office, until
from tests.support.seeding import accepted, row_of

_CLOCK = SystemClock()
_FAR_S = 1e9


async def test_a_task_without_a_ticket_gets_one(office):
    """A crash between the task's transaction and the ticket loses nothing."""
    await accepted(office.store, "a")
    assert await office.status("a") is None
    await office.sweep.once(0)
    assert await office.status("a") == "ENQUEUED"


async def test_a_ticket_that_ended_without_effect_is_replaced(office):
    """It came while the task could not start; now it can."""
    await office.dispatch.hand_in([Ticket("a", 0)])
    await office.dispatch.cancel(["a"])
    await accepted(office.store, "a")
    await office.sweep.once(0)
    assert await office.status("a") == "ENQUEUED"


async def test_a_ticket_that_nobody_uses_arrives_again(office):
    """Its executor died before it claimed the task; until it has had its time it is left alone."""
    await accepted(office.store, "a")
    await office.held_by_a_dead_executor(Ticket("a", 0))
    await office.sweep.once(0)
    assert await office.status("a") == HELD
    office.ago("started_at_epoch_ms", "a", 16)
    await office.sweep.once(_FAR_S)
    assert await office.status("a") == "ENQUEUED"


async def test_no_ticket_of_a_dead_executor_stays_pending(office):
    """Its tasks go on under tickets of their own; what it held is voided, and forgotten a while later."""
    await accepted(office.store, "a")
    await office.held_by_a_dead_executor(Ticket("a", 0))
    claim = await office.store.write(lambda tx: verbs.claim_one(tx, "w", "a", run=0))
    assert claim is not None
    office.ago("started_at_epoch_ms", "a", 16)
    await office.sweep.once(_FAR_S)
    assert await office.status("a") == HELD, "its run goes on"
    await office.store.write(
        lambda tx: verbs.give_back(tx, claim.subject, "lease_expired", tx.now_us)
    )
    await office.sweep.once(2 * _FAR_S)
    assert await office.status("a") == "CANCELLED"
    assert await office.status("a/1") == "ENQUEUED"
    assert await office.dispatch.held() == []
    office.ago("completed_at", "a", 61)
    await office.sweep.once(3 * _FAR_S)
    assert await office.status("a") is None


class Neighbour(Dispatch):
    """Another process's dispatcher. It puts back only once it is let."""

    def __init__(self, url: str, name: str, seen: asyncio.Barrier) -> None:
        super().__init__(url, executor=name, slots=0)
        self._seen = seen
        self.may_put_back = asyncio.Event()
        self.stuck: list[str] = []

    async def standing(self, ids: Sequence[str]) -> dict[str, Standing]:
        """All of them have looked before one acts."""
        found = await super().standing(ids)
        await self._seen.wait()
        return found

    async def put_back(self, ids: Sequence[str]) -> None:
        self.stuck += ids
        await self.may_put_back.wait()
        await super().put_back(ids)


async def test_two_sweeps_that_see_the_same_stuck_ticket_run_its_task_once(office):
    """The second one puts it back while the task runs already: it arrives once more, and finds nothing to claim.

    Putting it back sets DBOS's count of attempts to 0: runs, and runs that crashed, are counted in the task's row.
    """
    await accepted(office.store, "a")
    await office.held_by_a_dead_executor(Ticket("a", 0))
    office.ago("started_at_epoch_ms", "a", 16)
    seen = asyncio.Barrier(2)
    first, second = (Neighbour(office.url, name, seen) for name in ("first", "second"))
    await asyncio.gather(first.open(), second.open())
    sweeps = [
        asyncio.create_task(Sweep(office.store, dispatch, NO_CAPS).once(_FAR_S))
        for dispatch in (first, second)
    ]
    first.may_put_back.set()
    await sweeps[0]
    queue = office.queue("alive")
    await queue.start()
    async with asyncio.timeout(60):
        claim = await queue.next()
        assert claim is not None
        second.may_put_back.set()
        await sweeps[1]
        assert first.stuck == second.stuck == ["a"]
        again = asyncio.create_task(queue.next())
        await until(lambda: office.stands("a", "SUCCESS"))
        assert not again.done()
        assert office.look("SELECT DISTINCT queue_name FROM dbos.workflow_status") == [(QUEUE,)]
    row = await row_of(office.store, "a")
    assert (row["status"], row["run_count"]) == ("running", 1)
    await office.store.write(lambda tx: leases.leave(tx, "w"))
    assert await rescue_all(office.store, "lease_expired", 5) == 1
    queue.ended(claim)
    await queue.stop()
    assert await again is None
    await asyncio.gather(queue.close(), first.close(), second.close())
    runs = "SELECT run_count, crash_count FROM tasks"
    assert office.look(runs) == [(1, 1)], "we count runs and crashes; DBOS begins anew"


async def test_what_has_ended_is_forgotten_in_batches(office):
    """However many there are, and no younger one."""
    ids = [f"t{number}" for number in range(600)]
    await office.dispatch.hand_in([Ticket(name, 0) for name in ids])
    await office.dispatch.cancel(ids)
    with psycopg.connect(office.url) as connection:
        connection.execute(
            b"UPDATE dbos.workflow_status SET completed_at = completed_at - 61000 WHERE workflow_uuid <> 't599'"
        )
    await office.sweep.once(_FAR_S)
    assert set(await office.dispatch.standing(ids)) == {"t599"}


async def test_stopping_hands_over_what_arrived_and_was_not_claimed(office):
    """All slots are busy: the next ticket waits here. It goes to another process, at once."""
    queue = office.queue("first")
    await queue.start()
    await accepted(office.store, "a")

    await until(lambda: office.stands("a", HELD))  # nobody asks for a claim: no slot is free
    await queue.stop()
    await queue.close()
    assert (await row_of(office.store, "a"))["status"] == "queued"
    assert await office.status("a") == "ENQUEUED"


async def test_a_run_that_goes_on_after_the_stop_gets_its_next_ticket_handed_in(office):
    """The queue stops first, the runs end later: what they give back is in the queue when all is closed."""
    queue = office.queue("first")
    await queue.start()
    await accepted(office.store, "a")
    await accepted(office.store, "b")
    claims: list[Claim] = []
    async with asyncio.timeout(60):
        for _ in range(2):
            claim = await queue.next()
            assert claim is not None
            claims.append(claim)
    first, second = claims
    await queue.stop()
    await office.store.write(lambda tx: verbs.give_back(tx, first.subject, "drain", tx.now_us))
    await office.store.write(
        lambda tx: verbs.finish(tx, second.subject, Conclusion(Outcome.ANSWERED, "x"))
    )
    for claim in claims:
        queue.ended(claim)
    await queue.close()
    assert await office.status(f"{first.subject.task_id}/1") == "ENQUEUED"
    assert await office.dispatch.held() == []


class Silent(Store):
    """A store that can fall silent: it takes what it is asked, and answers once it is let."""

    def __init__(self, inner: PostgresStore) -> None:
        self._inner = inner
        self.speaks = asyncio.Event()
        self.speaks.set()
        self.unanswered = set[str]()
        """Names of those that wait for it."""

    async def write(self, op: Operation[T]) -> T:
        await self._answer()
        return await self._inner.write(op)

    async def read(self, op: Operation[T]) -> T:
        await self._answer()
        return await self._inner.read(op)

    async def close(self) -> None:
        await self._inner.close()

    async def _answer(self) -> None:
        if not self.speaks.is_set():
            waiting = asyncio.current_task()
            self.unanswered.add(waiting.get_name() if waiting else "")
            await self.speaks.wait()


@dataclass
class Stopping:
    """A queue whose store has fallen silent while a claim was on its way."""

    store: Silent
    queue: DistributedQueue
    slot: "asyncio.Task[Claim | None]"


@pytest.fixture
async def stopping(office: Office) -> AsyncIterator[Stopping]:
    """One slot waits, one ticket has arrived, and nobody says whether its task was claimed."""
    store = Silent(office.store)
    dispatch = Dispatch(office.url, executor="first", slots=4)
    bounds = Bounds(99, 99, stop_s=0.2)
    queue = DistributedQueue(store, _CLOCK, dispatch, bounds, Lease("w"))
    await queue.start()
    slot = asyncio.create_task(queue.next())
    await accepted(office.store, "a")
    await office.dispatch.hand_in([Ticket("a", 0)])
    store.speaks.clear()

    async def claimed() -> bool:
        return {"claim-a", "queue-care"} <= store.unanswered

    await until(claimed)
    yield Stopping(store, queue, slot)
    slot.cancel()


async def test_a_stop_does_not_wait_for_a_claim_without_an_answer(
    office: Office, stopping: Stopping
) -> None:
    """The slot is let go; a claim that was written all the same is taken over once the process has left."""
    async with asyncio.timeout(60):
        await stopping.queue.stop()
        assert await stopping.slot is None
        stopping.store.speaks.set()
        await until(lambda: _is(office, "running"))
        await stopping.queue.close()
    await office.store.write(lambda tx: leases.leave(tx, "w"))
    assert await rescue_all(office.store, "lease_expired", 5) == 1
    assert await _is(office, "queued")


async def test_closing_does_not_wait_for_a_store_without_an_answer(
    stopping: Stopping, log_lines: LineChecker
) -> None:
    """Neither for the caretaker's look nor for the last tickets; whoever goes on finds them."""
    async with asyncio.timeout(60):
        await stopping.queue.stop()
        await stopping.queue.close()
    assert log_lines.entries("tickets_left")
    stopping.store.speaks.set()


async def _is(office: Office, status: str) -> bool:
    return bool((await row_of(office.store, "a"))["status"] == status)
