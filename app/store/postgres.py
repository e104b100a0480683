"""The PostgreSQL store: one writer with group commit, readers apart, each on threads of their own.

Batches of all replicas are serialised by an advisory lock (see `postgres_writer`). A connection that was lost is
made anew by whoever needs it next. When it was lost in the middle of a COMMIT, the callers wait until the
database says whether their batch was kept: nobody guesses, nobody writes twice.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from app.domain.clock import Clock, DatabaseClock, SystemClock
from app.domain.errors import StoreClosed, StoreError, StoreUnavailable
from app.domain.ids import new_id
from app.store.port import CommitListener, Operation, T, give_up, place_for
from app.store.postgres_link import Door, Limits
from app.store.postgres_reader import Readers
from app.store.postgres_schema import prepare
from app.store.postgres_tx import load_statements
from app.store.postgres_writer import Announcement, Batch, Told, Undecided, Writer

BATCH_LIMIT = 128
"""Operations in one commit, at most: while one replica commits, the others wait, and with them their heartbeats."""
READER_THREADS = 4
"""Connections for reading, at most."""
PAUSE_S = 0.5
"""How often a database that is down is asked for a lost answer."""

_LIMITS = Limits()
_Pending = tuple[Operation[Any], asyncio.Future[Any]]


class PostgresStore:
    """Opens the database at `url`, with its schema made or migrated; its `listener` hears of each commit's facts.

    Instants are the database's own, and a `DatabaseClock` follows them; any other takes their place in tests. Without `make` the schema must be there
    already, and be this version's. `announce` says what other replicas hear of a commit, which is this `name`'s.

    Raises:
        StoreError: the database cannot be reached or used, or is newer than this version.
    """

    alone = False
    """Other processes may run tasks from it."""

    def __init__(
        self,
        url: str,
        clock: Clock | None = None,
        *,
        make: bool = True,
        limits: Limits = _LIMITS,
        announce: Announcement | None = None,
    ) -> None:
        self.url = url
        self._waiting = SystemClock()
        self._limits = limits
        self._door = Door(url, limits)
        statements, told = load_statements(), _told_by(clock or DatabaseClock())
        prepare(url, make=make)
        self.name = new_id("writer", self._waiting.now_us())
        self._writer = Writer(self._door, self.name, statements, told, announce)
        self._writing = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._reading = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="store-reader")
        self._readers = Readers(self._door, statements, told)
        self._pending: list[_Pending] = []
        self._undecided: tuple[list[_Pending], Undecided] | None = None
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self._close_before_s = float("inf")
        self.listener: CommitListener = lambda _facts: None

    async def write(self, op: Operation[T]) -> T:
        return await self._enqueue(op)

    def begin_write(self, op: Operation[T]) -> asyncio.Future[T]:
        return self._enqueue(op)

    def _enqueue(self, op: Operation[T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._closed:
            future.set_exception(StoreClosed("The store is closed."))
            return future
        self._pending.insert(place_for(op, self._pending), (op, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="store-flush")
        return future

    async def read(self, op: Operation[T]) -> T:
        if self._closed:
            message = "The store is closed."
            raise StoreClosed(message)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reading, self._readers.read, op)

    async def close(self) -> None:
        self._closed = True
        self._close_before_s = self._waiting.monotonic_s() + self._limits.lost_s
        if self._flusher is not None:
            await self._flusher
        self._writing.shutdown()
        self._reading.shutdown()
        self._readers.close()
        self._writer.close()

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending or self._undecided is not None:
            if self._undecided is not None:
                batch, undecided = self._undecided
                try:
                    await self._decide(batch, undecided)
                except asyncio.CancelledError:  # the loop ends, and nobody else would answer them
                    self._flusher = None
                    give_up(batch, self._pending)
                    raise
                continue
            batch, self._pending = self._pending[:BATCH_LIMIT], self._pending[BATCH_LIMIT:]
            operations = [op for op, _ in batch]
            try:
                outcome = await loop.run_in_executor(self._writing, self._writer.commit, operations)
            except Undecided as undecided:
                self._undecided = batch, undecided
            except asyncio.CancelledError:  # likewise
                self._flusher = None
                give_up(batch, self._pending)
                raise
            else:
                self._answer(batch, outcome)
        self._flusher = None

    async def _decide(self, batch: list[_Pending], undecided: Undecided) -> None:
        """Ask whether the batch was kept. While nobody can say, what came after it is refused, untried."""
        loop = asyncio.get_running_loop()
        try:
            kept = await loop.run_in_executor(self._writing, self._writer.decide, undecided.number)
        except StoreError as error:
            later, self._pending = self._pending, []
            self._answer(later, _refused(later, error))
            if self._waiting.monotonic_s() > self._close_before_s:
                message = (
                    f"{self._door.place} was lost, and with it the answer whether a write was kept."
                )
                self._undecided = None
                self._answer(batch, _refused(batch, StoreUnavailable(message)))
            else:
                await self._waiting.sleep(PAUSE_S)
            return
        self._undecided = None
        self._answer(batch, undecided.outcome if kept else _refused(batch, undecided.cause))

    def _answer(self, batch: list[_Pending], outcome: Batch) -> None:
        """Tell the facts, then the callers."""
        results, facts = outcome
        try:
            if facts:
                self.listener(facts)
        except Exception as raised:  # noqa: BLE001  (the writers still have to be answered)
            context = {"message": "the store's listener raised", "exception": raised}
            asyncio.get_running_loop().call_exception_handler(context)
        for (_, future), (value, error) in zip(batch, results, strict=True):
            if future.done():  # its caller was cancelled meanwhile
                continue
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)


def _told_by(clock: Clock) -> Told:
    if isinstance(clock, DatabaseClock):
        return clock.told
    return lambda _instant_us, _asked_s: clock.now_us()


def _refused(batch: list[_Pending], error: StoreError) -> Batch:
    return [(None, error)] * len(batch), []
