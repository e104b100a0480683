"""DBOS as our dispatcher: tickets go in, and arrive at a worker that has room. The only module that knows it,
but for what `doctor` reads of its table (`app/store/sql_postgres`).

A ticket is a DBOS workflow of one task's next run. It carries no state: the task's row says what may run,
and a ticket that finds nothing to claim ends without effect. So a ticket that is lost, doubled, late or
cancelled can cost a little time, never a task and never money.

Everything here blocks on the database; it is done in threads of its own, away from the event loop.
"""

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from dbos import DBOS, DBOSClient, DBOSConfig, DBOSPortableJSONSerializer, EnqueueOptions
from dbos import error as dbos_errors

from app.domain.errors import StoreUnavailable
from app.domain.record import record
from app.queue.tickets import ENDED, HELD, QUEUE, VERSION, WORKFLOW
from app.store.port import T

POLL_S = 0.1
EXECUTOR_THREADS = 32
_LEAVE_S = 5.0
"""How long a worker of DBOS may take to end: it may be waiting for the database."""
POOL_SIZE = 6
FIRST = 1
"""DBOS's most urgent number; an unset one would go before everything."""
_LAST = 2**31 - 1
_ERA_S = 1_767_225_600
"""Ranks count from 2026: seconds since then fit DBOS's 31 bits for 68 years."""
ROW_S = 600_000_000
"""Farther apart than the ranks of any two tasks."""
_US_PER_S = 1_000_000
Arrival = Callable[[str, int], Awaitable[None]]


@record(frozen=True, slots=True)
class Ticket:
    """The next run of a task that has had `run` runs."""

    task_id: str
    run: int
    priority: int = FIRST

    @property
    def id(self) -> str:
        """Always the same for the same run: handing it in twice is handing it in once."""
        return f"{self.task_id}/{self.run}" if self.run else self.task_id

    @staticmethod
    def parse(identifier: str) -> "Ticket":
        """The ticket with this id."""
        task_id, _, run = identifier.partition("/")
        return Ticket(task_id, int(run or 0))


@record(frozen=True, slots=True)
class Standing:
    """Where a ticket is."""

    id: str
    status: str
    arrived_at_us: int
    """When a worker took it; 0 before that."""
    priority: int = FIRST


def priority_of(rank_us: int, behind: int = 0) -> int:
    """A rank as DBOS's priority: lower goes first, in seconds; within one, the older ticket does.

    So many rows `behind` the first, it comes after all of the rows before.
    """
    rank_s = max(rank_us // _US_PER_S - _ERA_S, FIRST + 1)
    return min(rank_s + behind * ROW_S, _LAST)


class Dispatch:
    """One a process: DBOS itself where `slots` work, its client alone where nothing does (`slots` 0)."""

    def __init__(self, url: str, *, executor: str, slots: int) -> None:
        self._url = _address(url)
        self._executor = executor
        self._slots = slots
        self._threads = ThreadPoolExecutor(2, thread_name_prefix="dispatch")
        self._engine = sa.create_engine(
            self._url,
            pool_size=POOL_SIZE,
            max_overflow=0,
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5, "application_name": "bursar-dispatch"},
        )
        sa.event.listen(self._engine, "checkin", self._returned)
        self._closed = False
        self._client: DBOSClient | None = None
        self._dbos: DBOS | None = None
        self._listening = False

    @staticmethod
    def prepare(url: str) -> None:
        """Make or migrate DBOS's tables; blocks."""
        _quieten()
        DBOS.migrate(_address(url).render_as_string(hide_password=False))

    async def open(self) -> None:
        """Make DBOS's tables where they are missing, and the queue.

        Raises:
            StoreUnavailable: the database cannot be reached or changed.
        """
        await self._in_thread(self._open)

    async def listen(self, arrival: Arrival) -> None:
        """From now on tickets arrive here: `arrival(task_id, run)`, on this event loop, one a free slot."""
        loop = asyncio.get_running_loop()
        await self._in_thread(lambda: self._listen(loop, arrival))

    async def deafen(self) -> None:
        """Take no more tickets; arrivals under way are cancelled, their tickets stay held by this executor."""
        if self._listening:
            self._listening = False
            logging.getLogger("dbos").setLevel(
                logging.CRITICAL
            )  # it complains of each run it lets go of
            await asyncio.get_running_loop().run_in_executor(self._threads, _leave, self._dbos)

    async def hand_in(self, tickets: Sequence[Ticket]) -> None:
        """Queue the tickets; those that exist already stay as they are.

        Raises:
            StoreUnavailable: none of them was.
        """
        if tickets:
            await self._in_thread(lambda: self._hand_in(tickets))

    async def standing(self, ids: Sequence[str]) -> dict[str, Standing]:
        """Where these tickets are; a missing one has never been handed in, or is forgotten."""
        found = await self._list(workflow_ids=list(ids))
        return {ticket.id: ticket for ticket in found}

    async def held(
        self, *, limit: int | None = None, offset: int = 0, mine: bool = False
    ) -> list[Standing]:
        """Tickets that executors hold, the oldest first; `mine`: those of this one."""
        whose = {"executor_id": self._executor} if mine else {}
        return await self._list(status=[HELD], limit=limit, offset=offset, **whose)

    async def put_back(self, ids: Sequence[str]) -> None:
        """Let tickets that somebody took, or nobody will, arrive again. Not into DBOS's own uncapped queue.

        Those that somebody else has forgotten meanwhile keep no other one back.
        """
        if ids:
            await self._in_thread(lambda: self._put_back(list(ids)))

    async def cancel(self, ids: Sequence[str]) -> None:
        """Void these tickets."""
        if ids:
            await self._in_thread(lambda: self._open_client.cancel_workflows(list(ids)))

    async def forget(self, ids: Sequence[str]) -> None:
        """Delete these tickets."""
        if ids:
            await self._in_thread(lambda: self._open_client.delete_workflows(list(ids)))

    async def ended(self, before_us: int, limit: int) -> list[Standing]:
        """Tickets that ended before this instant, `limit` at most."""
        before = datetime.fromtimestamp(before_us / _US_PER_S, UTC).isoformat()
        return await self._list(status=list(ENDED), completed_before=before, limit=limit)

    async def close(self) -> None:
        """Let go of everything."""
        await self.deafen()
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._close)
        self._threads.shutdown(wait=False, cancel_futures=True)

    @property
    def _open_client(self) -> DBOSClient:
        if self._client is None:
            raise StoreUnavailable("The dispatcher is not open.")
        return self._client

    async def _list(self, **wanted: Any) -> list[Standing]:
        found = await self._in_thread(
            lambda: self._open_client.list_workflows(
                **wanted, name=WORKFLOW, load_input=False, load_output=False
            )
        )
        return [
            Standing(f.workflow_id, f.status, (f.dequeued_at or 0) * 1_000, f.priority or FIRST)
            for f in found
        ]

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except sa.exc.SQLAlchemyError as error:
            message = f"The dispatcher's tables cannot be used: {type(error).__name__}"
            raise StoreUnavailable(message) from error

    def _open(self) -> None:
        self.prepare(self._url.render_as_string(hide_password=False))
        self._client = DBOSClient(
            system_database_engine=self._engine,
            serializer=DBOSPortableJSONSerializer(),
            application_name=QUEUE,
            retry_connection_errors=False,
        )
        if self._slots:
            self._client.register_queue(
                QUEUE, worker_concurrency=self._slots, polling_interval_sec=POLL_S
            )

    def _listen(self, loop: asyncio.AbstractEventLoop, arrival: Arrival) -> None:
        _quieten()
        self._dbos = DBOS(config=self._config())

        @DBOS.workflow(name=WORKFLOW, max_recovery_attempts=None)
        async def run(task_id: str, run: int) -> None:
            """One run of a task: DBOS counts it as one of its slots until it is over."""
            arriving = asyncio.run_coroutine_threadsafe(_awaited(arrival, task_id, run), loop)
            await asyncio.wrap_future(arriving)

        DBOS.listen_queues([QUEUE])
        DBOS.launch()
        self._listening = True

    def _config(self) -> DBOSConfig:
        return DBOSConfig(
            name=QUEUE,
            system_database_url=self._url.render_as_string(hide_password=False),
            system_database_engine=self._engine,
            executor_id=self._executor,
            application_version=VERSION,
            serializer=DBOSPortableJSONSerializer(),
            max_executor_threads=EXECUTOR_THREADS,
            run_migrations=False,
            use_listen_notify=False,  # nobody waits for its messages: one connection less
            notification_listener_polling_interval_sec=0.5,
            log_level="WARNING",
        )

    def _hand_in(self, tickets: Iterable[Ticket]) -> None:
        with self._engine.begin() as connection:
            for ticket in tickets:
                options = EnqueueOptions(
                    workflow_name=WORKFLOW,
                    queue_name=QUEUE,
                    workflow_id=ticket.id,
                    app_version=VERSION,
                    priority=ticket.priority,
                )
                self._open_client.enqueue_in_transaction(
                    connection, options, ticket.task_id, ticket.run
                )

    def _put_back(self, ids: list[str]) -> None:
        try:
            self._open_client.resume_workflows(ids, queue_name=QUEUE)
        except dbos_errors.DBOSNonExistentWorkflowError:
            for one in ids:
                with suppress(dbos_errors.DBOSNonExistentWorkflowError):
                    self._open_client.resume_workflows([one], queue_name=QUEUE)

    def _returned(self, connection: Any, _record: object) -> None:
        """A thread that was still at work when all was closed gives its connection back to nobody."""
        if self._closed and connection is not None:
            connection.close()

    def _close(self) -> None:
        self._closed = True
        if self._client is not None:
            self._client.destroy()
        self._engine.dispose()


def _address(url: str) -> sa.URL:
    return sa.make_url(url).set(drivername="postgresql+psycopg")


async def _awaited(arrival: Arrival, task_id: str, run: int) -> None:
    await arrival(task_id, run)


def _leave(dbos: DBOS | None) -> None:
    """Let DBOS's workers end before its event loop does: one that hands a ticket to a loop that stands waits for ever."""
    if dbos is not None:
        for event in dbos.background_thread_stop_events:
            event.set()
        for thread in threading.enumerate():
            if thread.name.endswith("(queue_thread)"):  # it ends after all its workers
                thread.join(_LEAVE_S)
    DBOS.destroy(destroy_registry=True)


def _quieten() -> None:
    """DBOS's warnings go to our log, as JSON lines, and nowhere else."""
    logger = logging.getLogger("dbos")
    if not logger.handlers:  # with one of ours it brings none of its own
        logger.addHandler(logging.NullHandler())
    logger.setLevel(logging.WARNING)
