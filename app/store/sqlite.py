"""The embedded store: one writer with group commit, readers apart, each on threads of their own.

While one batch of operations is being committed, the next one gathers: the busier the service, the more
operations share one write to disk. The loop's default thread pool is never used, so that a tool that
hangs cannot stop a commit.
"""

import asyncio
import sqlite3
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from app.domain.clock import Clock
from app.domain.errors import StoreClosed
from app.store.port import CommitListener, Operation, T, place_for
from app.store.queries import load_queries
from app.store.sqlite_file import (
    BUSY_TIMEOUT_S,
    DATABASE_NAME,
    connect_again,
    open_beside,
    open_locked,
    store_error,
)
from app.store.sqlite_tx import SqliteTx

BATCH_LIMIT = 512
"""Operations in one commit, at most."""
READER_THREADS = 2

_OWN_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
"""What only the operation's own statements can cause."""

_Pending = tuple[Operation[Any], asyncio.Future[Any]]
_Result = tuple[Any, BaseException | None]


class SqliteStore:
    """Opens (or makes) the database in `folder`; its `listener` hears of each commit's facts.

    Unless it is `alone` it works beside a running service, on a schema of this version; to make or migrate
    one it needs the folder for itself, for that moment.

    Raises:
        StoreError: the folder is in use or unwritable, the file damaged or newer than this version.
    """

    def __init__(self, folder: Path, clock: Clock, *, alone: bool = True) -> None:
        self._path = folder / DATABASE_NAME
        self._clock = clock
        self._queries = load_queries()
        self._lock: IO[str] | None = None
        self.alone = alone
        if alone:
            self._connection, self._lock = open_locked(folder, clock.now_us())
        else:
            self._connection = open_beside(folder, clock.now_us())
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._reader_connections: list[sqlite3.Connection] = []
        self._pending: list[_Pending] = []
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
        self.listener: CommitListener = lambda _facts: None

    async def write(self, op: Operation[T]) -> T:
        if self._closed:
            message = "The store is closed."
            raise StoreClosed(message)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._pending.insert(place_for(op, self._pending), (op, future))
        if self._flusher is None:
            self._flusher = asyncio.create_task(self._flush(), name="store-flush")
        return await future

    async def read(self, op: Operation[T]) -> T:
        if self._closed:
            message = "The store is closed."
            raise StoreClosed(message)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._readers, self._read, op)

    async def close(self) -> None:
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        self._writer.shutdown()
        self._readers.shutdown()
        for connection in (*self._reader_connections, self._connection):
            connection.close()
        if self._lock is not None:
            self._lock.close()

    async def empty_log(self) -> bool:
        """Bring the write-ahead log into the file and cut it to nothing: it still has what was deleted since.

        Returns:
            False when a reader of an earlier state stands in the way; nobody waited for it.

        Raises:
            StoreError: it cannot be done.
        """
        if self._closed:
            raise StoreClosed("The store is closed.")
        return await asyncio.get_running_loop().run_in_executor(self._writer, self._empty_log)

    def _empty_log(self) -> bool:
        connection = self._connection
        try:
            connection.execute("PRAGMA busy_timeout=0")
            try:
                busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            finally:
                connection.execute(f"PRAGMA busy_timeout={int(BUSY_TIMEOUT_S * 1_000)}")
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error
        return not busy

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._pending:
            batch, self._pending = self._pending[:BATCH_LIMIT], self._pending[BATCH_LIMIT:]
            operations = [op for op, _ in batch]
            results, facts = await loop.run_in_executor(self._writer, self._commit, operations)
            self._tell(facts)
            for (_, future), (value, error) in zip(batch, results, strict=True):
                if future.done():  # its caller was cancelled meanwhile
                    continue
                if error is None:
                    future.set_result(value)
                else:
                    future.set_exception(error)
        self._flusher = None

    def _tell(self, facts: list[object]) -> None:
        try:
            if facts:
                self.listener(facts)
        except Exception as error:  # noqa: BLE001  (the writers still have to be answered)
            context = {"message": "the store's listener raised", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _commit(self, operations: list[Operation[Any]]) -> tuple[list[_Result], list[object]]:
        """One transaction for all of `operations`, each undone alone when it raises. Writer thread."""
        connection, facts, results = self._connection, list[object](), list[_Result]()
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_us = self._clock.now_us()
            for op in operations:
                results.append(
                    self._run_one(op, SqliteTx(connection, self._queries, now_us), facts)
                )
            connection.execute("COMMIT")
        except BaseException as error:  # noqa: BLE001  (every caller must hear of it)
            with suppress(
                sqlite3.Error
            ):  # a failure here must not leave the callers without an answer
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            cause = store_error(error, self._path) if isinstance(error, sqlite3.Error) else error
            return [(None, cause)] * len(operations), []
        return results, facts

    def _run_one(self, op: Operation[Any], tx: SqliteTx, facts: list[object]) -> _Result:
        connection = self._connection
        connection.execute("SAVEPOINT operation")
        try:
            value = op(tx)
        except sqlite3.Error as error:
            if not isinstance(error, _OWN_FAULT):
                raise  # the file's trouble is everybody's
            undo(connection)
            return None, error
        except Exception as error:  # noqa: BLE001  (it belongs to this operation's caller)
            undo(connection)
            return None, error
        connection.execute("RELEASE operation")
        facts.extend(tx.facts)
        return value, None

    def _read(self, op: Operation[T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_again(self._path, read_only=True)
            self._reader_connections.append(connection)
        try:
            connection.execute("BEGIN")
            try:
                return op(SqliteTx(connection, self._queries, self._clock.now_us()))
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error


def undo(connection: sqlite3.Connection) -> None:
    """Undo the operation that just raised, and only that."""
    connection.execute("ROLLBACK TO operation")
    connection.execute("RELEASE operation")
