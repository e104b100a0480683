"""Tickets through DBOS: what the queue of many processes relies on."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
import pytest
from dbos import DBOSPortableJSONSerializer

from app.domain.clock import SystemClock
from app.queue.dispatch import (
    EXECUTOR_THREADS,
    FIRST,
    POLL_S,
    Dispatch,
    Ticket,
    priority_of,
)
from app.queue.tickets import HELD, QUEUE, VERSION
from tests.support.clock import START_US

_CLOCK = SystemClock()


class Desk:
    """Where tickets arrive. Each is held until its task is named in `let_go`."""

    def __init__(self, *, hold: bool = False) -> None:
        self.arrived: list[tuple[str, int]] = []
        self.let_go = asyncio.Event()
        self._more = asyncio.Event()
        if not hold:
            self.let_go.set()

    async def arrival(self, task_id: str, run: int) -> None:
        """As `Dispatch.listen` wants it."""
        self.arrived.append((task_id, run))
        self._more.set()
        await self.let_go.wait()

    async def has(self, count: int) -> None:
        """Wait for so many arrivals in all."""
        async with asyncio.timeout(20):
            while len(self.arrived) < count:
                self._more.clear()
                await self._more.wait()


async def _until(found: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(20):
        while not await found():
            await _CLOCK.sleep(0.05)


async def _status(dispatch: Dispatch, ticket: str) -> str | None:
    standing = (await dispatch.standing([ticket])).get(ticket)
    return standing.status if standing else None


def _rows(url: str, statement: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url) as connection:
        return connection.execute(statement.encode()).fetchall()


async def test_a_ticket_handed_in_twice_arrives_once(make_dispatch):
    """Whoever is not sure hands it in again: the id is the task and its run."""
    desk, dispatch = Desk(), await make_dispatch()
    await dispatch.hand_in([Ticket("a", 0), Ticket("a", 0)])
    await dispatch.listen(desk.arrival)
    await dispatch.hand_in([Ticket("a", 0), Ticket("a", 1)])
    await desk.has(2)

    async def over() -> bool:
        return await _status(dispatch, "a/1") == "SUCCESS"

    await _until(over)
    await dispatch.hand_in([Ticket("a", 0), Ticket("b", 0)])
    await desk.has(3)
    assert desk.arrived == [("a", 0), ("a", 1), ("b", 0)]


async def test_the_most_urgent_ticket_arrives_first(make_dispatch):
    """Lower goes first; before all of them, whose turn has come; of the same second, the older one."""
    desk, dispatch = Desk(hold=True), await make_dispatch(slots=1)
    second = 1_000_000
    for name, priority in [
        ("late", priority_of(START_US + 60 * second)),
        ("early", priority_of(START_US)),
        ("early, too", priority_of(START_US + 1)),
        ("called", FIRST),
        ("overdue", priority_of(-5 * second)),
    ]:
        await dispatch.hand_in([Ticket(name, 0, priority)])
    desk.let_go.set()
    await dispatch.listen(desk.arrival)
    await desk.has(5)
    assert [name for name, _ in desk.arrived] == [
        "called",
        "overdue",
        "early",
        "early, too",
        "late",
    ]


@pytest.mark.parametrize("rank_us", [-(1 << 62), 0, START_US, 1 << 62])
def test_every_rank_is_a_priority_that_dbos_takes(rank_us):
    """Never unset, which would go before everything; never beyond 31 bits; the turn called goes first."""
    assert FIRST < priority_of(rank_us) < 2**31


async def test_no_more_arrive_than_there_are_slots(make_dispatch):
    """The fourth ticket of three slots comes when one is given up."""
    desk, dispatch = Desk(hold=True), await make_dispatch(slots=3)
    await dispatch.listen(desk.arrival)
    await dispatch.hand_in([Ticket(f"t{number}", 0) for number in range(5)])
    await desk.has(3)
    await _CLOCK.sleep(0.5)
    assert len(desk.arrived) == 3
    assert len(await dispatch.held(mine=True)) == 3
    desk.let_go.set()
    await desk.has(5)


async def test_what_dbos_keeps_is_json_under_one_version_and_one_name(make_dispatch, replica_url):
    """Other code of another day must be able to read it, and to run it: no pickle, no version of the code's hash."""
    desk, dispatch = Desk(), await make_dispatch("me")
    await dispatch.hand_in([Ticket("a", 3)])
    await dispatch.listen(desk.arrival)

    async def over() -> bool:
        return await _status(dispatch, "a/3") == "SUCCESS"

    await _until(over)
    ((inputs,),) = _rows(replica_url, "SELECT inputs FROM dbos.workflow_input")
    assert json.loads(inputs)["positionalArgs"] == ["a", 3]
    ((output,),) = _rows(replica_url, "SELECT output FROM dbos.workflow_output")
    assert json.loads(output) is None
    ((version, queue, executor, priority, serializer),) = _rows(
        replica_url,
        "SELECT application_version, queue_name, executor_id, priority, serialization"
        " FROM dbos.workflow_status",
    )
    assert (version, queue, executor, priority) == (VERSION, QUEUE, "me", FIRST)
    assert serializer == DBOSPortableJSONSerializer().name()
    assert dispatch._dbos._serializer.name() == serializer, "it may write nothing else, either"
    assert VERSION == "1", "another version would strand every ticket under way"
    assert FIRST > 0, "0 is unset, and goes before everything"
    assert _rows(replica_url, "SELECT 1 FROM dbos.operation_outputs") == [], "no step is DBOS's"


async def test_the_queue_is_registered_with_our_numbers(make_dispatch, replica_url):
    """DBOS polls ten times a second, and keeps to the slots of one process; there is no cap over all of them."""
    await make_dispatch(slots=3)
    found = _rows(
        replica_url,
        "SELECT name, polling_interval_sec, worker_concurrency, concurrency, rate_limit_max"
        " FROM dbos.queues",
    )
    assert found == [(QUEUE, POLL_S, 3, None, None)]
    assert POLL_S == 0.1, "a task waits that long for its start"


async def test_a_process_that_starts_leaves_the_tickets_of_others_alone(make_dispatch):
    """Each process is an executor of its own: starting one re-queues nothing that another one holds."""
    desk, first = Desk(hold=True), await make_dispatch("first")
    await first.hand_in([Ticket("a", 0)])
    await first.listen(desk.arrival)
    await desk.has(1)
    await first.deafen()
    other, second = Desk(), await make_dispatch("second")
    await second.listen(other.arrival)
    await second.hand_in([Ticket("b", 0)])
    await other.has(1)
    assert other.arrived == [("b", 0)]
    assert await _status(second, "a") == HELD

    async def over() -> bool:
        return await _status(second, "b") == "SUCCESS"

    await _until(over)
    assert await second.held(mine=True) == []


async def test_the_tickets_of_a_dead_executor_can_be_put_back(make_dispatch, replica_url):
    """They arrive again, through our own queue with its limit of slots, and end as usual."""
    desk, dead = Desk(hold=True), await make_dispatch("dead")
    await dead.hand_in([Ticket("a", 0)])
    await dead.listen(desk.arrival)
    await desk.has(1)
    await dead.deafen()
    alive, other = await make_dispatch("alive"), Desk()
    await alive.listen(other.arrival)
    (held,) = await alive.held()
    assert held.arrived_at_us > START_US
    await alive.put_back([held.id])
    await other.has(1)
    ((queue,),) = _rows(replica_url, "SELECT queue_name FROM dbos.workflow_status")
    assert queue == QUEUE

    async def over() -> bool:
        return await _status(alive, "a") == "SUCCESS"

    await _until(over)


async def test_a_ticket_that_is_gone_keeps_no_other_back(make_dispatch):
    """Somebody else forgot it meanwhile: those that are there arrive again, and nobody hears of an error."""
    desk, dead = Desk(hold=True), await make_dispatch("dead")
    await dead.hand_in([Ticket("a", 0), Ticket("b", 0)])
    await dead.listen(desk.arrival)
    await desk.has(2)
    await dead.deafen()
    client = await make_dispatch("api", slots=0)
    await client.forget(["a"])
    await client.put_back(["a", "b"])
    assert await _status(client, "b") == "ENQUEUED"


async def test_cancelling_a_ticket_interrupts_nothing(make_dispatch):
    """A run ends by our own rows only. What was void goes on to its end; its slot is free for the next one."""
    desk, dispatch = Desk(hold=True), await make_dispatch(slots=1)
    await dispatch.listen(desk.arrival)
    await dispatch.hand_in([Ticket("a", 0)])
    await desk.has(1)
    await dispatch.cancel(["a"])
    desk.let_go.set()
    await dispatch.hand_in([Ticket("b", 0)])
    await desk.has(2)
    assert await _status(dispatch, "a") == "CANCELLED"


async def test_ended_tickets_can_be_found_and_forgotten(make_dispatch, replica_url):
    """Nothing of them is left."""
    desk, dispatch = Desk(), await make_dispatch()
    await dispatch.listen(desk.arrival)
    await dispatch.hand_in([Ticket(f"t{number}", 0) for number in range(3)])
    await desk.has(3)

    async def all_found() -> bool:
        return len(await dispatch.ended(_CLOCK.now_us() + 60_000_000, 10)) == 3

    await _until(all_found)
    assert await dispatch.ended(_CLOCK.now_us() - 60_000_000, 10) == []
    ended = await dispatch.ended(_CLOCK.now_us() + 60_000_000, 2)
    assert len(ended) == 2
    await dispatch.forget([ticket.id for ticket in ended])
    for table in ("workflow_status", "workflow_input"):
        assert len(_rows(replica_url, f"SELECT 1 FROM dbos.{table}")) == 1  # noqa: S608


async def test_a_client_alone_hands_in_and_never_takes(make_dispatch):
    """A process without slots needs neither DBOS's threads nor its polling."""
    before = threading.active_count()
    client = await make_dispatch("api", slots=0)
    await client.hand_in([Ticket("a", 0)])
    assert threading.active_count() <= before + 2
    assert await _status(client, "a") == "ENQUEUED"


async def test_threads_are_bounded(make_dispatch):
    """However many runs are held, DBOS has a bounded number of threads."""
    before = threading.active_count()
    desk, dispatch = Desk(hold=True), await make_dispatch(slots=200)
    await dispatch.listen(desk.arrival)
    await dispatch.hand_in([Ticket(f"t{number}", 0) for number in range(200)])
    await desk.has(200)
    desk.let_go.set()
    assert threading.active_count() <= before + EXECUTOR_THREADS + 12
    assert dispatch._dbos._executor._max_workers == EXECUTOR_THREADS <= 32


async def test_a_connection_that_comes_back_after_the_end_is_closed(replica_url):
    """A thread of DBOS's, or a sweep that nobody waits for any more, may still be at work then."""
    dispatch = Dispatch(replica_url, executor="late", slots=0)
    await dispatch.open()
    taken, go_on, used = threading.Event(), threading.Event(), list[Any]()

    def work() -> None:
        with dispatch._engine.connect() as connection:
            used.append(connection.connection.dbapi_connection)
            taken.set()
            go_on.wait(20)

    late = asyncio.create_task(dispatch._in_thread(work))
    await asyncio.to_thread(taken.wait, 20)
    await dispatch.close()
    assert not used[0].closed
    go_on.set()
    await late
    assert used[0].closed
