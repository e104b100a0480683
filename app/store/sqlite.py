"""The embedded store: one writer with group commit, readers apart, each on threads of their own.

While one batch of operations is being committed, the next one gathers: the busier the service, the more
operations share one write to disk. The loop's default thread pool is never used, so that a tool that
hangs cannot stop a commit.
"""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from app.domain.clock import Clock
from app.domain.errors import StoreClosed
from app.store.port import CommitListener, Operation, T, give_up, place_for
from app.store.sqlite_file import (
    BUSY_TIMEOUT_S,
    DATABASE_NAME,
    connect_again,
    open_beside,
    open_locked,
    store_error,
)
from app.store.sqlite_tx import SqliteTx, load_statements

BATCH_LIMIT = 512
"""Operations in one commit, at most."""
READER_THREADS = 2

_OWN_FAULT = (sqlite3.IntegrityError, sqlite3.ProgrammingError, sqlite3.DataError)
"""What only the operation's own statements can cause."""


class _Spoiled(Exception):  # noqa: N818
    """An operation raised after it had written something."""


_Pending = tuple[Operation[Any], asyncio.Future[Any]]
_Result = tuple[Any, BaseException | None]


class SqliteStore:
    """Opens (or makes) the database in `folder`; its `listener` hears of each commit's facts.

    Unless it is `alone` it works beside a running service, on a schema of this version; to make or migrate
    one it needs the folder for itself, for that moment.

    Raises:
        StoreError: the folder is in use or unwritable, the file damaged or newer than this version.
    """

    batch_limit = BATCH_LIMIT

    def __init__(self, folder: Path, clock: Clock, *, alone: bool = True) -> None:
        self._path = folder / DATABASE_NAME
        self._clock = clock
        self._lock: IO[str] | None = None
        self.alone = alone
        if alone:
            self._connection, self._lock = open_locked(folder, clock.now_us())
        else:
            self._connection = open_beside(folder, clock.now_us())
        self._cursor = self._connection.cursor()
        self._statements = load_statements()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store-writer")
        self._readers = ThreadPoolExecutor(READER_THREADS, thread_name_prefix="store-reader")
        self._local = threading.local()
        self._reader_connections: list[sqlite3.Connection] = []
        self._pending: list[_Pending] = []
        self._flusher: asyncio.Task[None] | None = None
        self._closed = False
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
        return await loop.run_in_executor(self._readers, self._read, op)

    async def close(self) -> None:
        self._closed = True
        if self._flusher is not None:
            await self._flusher
        self._writer.shutdown()
        self._readers.shutdown()
        with suppress(sqlite3.ProgrammingError):  # it is closed already
            self._cursor.close()  # a statement in its hands would keep the file open
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
            limit = self.batch_limit
            batch, self._pending = self._pending[:limit], self._pending[limit:]
            operations = [op for op, _ in batch]
            try:
                results, facts = await loop.run_in_executor(self._writer, self._commit, operations)
            except asyncio.CancelledError:  # the loop ends, and nobody else would answer them
                self._flusher = None
                give_up(batch, self._pending)
                raise
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
        """One transaction for all of `operations`, each undone alone when it raises. Writer thread.

        A savepoint copies every page that its operation changes: four of five writes to disk would be such copies.
        So the first try goes without, and starts over with them if an operation raises after it has written.
        """
        try:
            return self._together(operations, self._run_bare)
        except _Spoiled:
            return self._together(operations, self._run_apart)

    def _together(
        self, operations: list[Operation[Any]], run: Callable[[Operation[Any], SqliteTx], _Result]
    ) -> tuple[list[_Result], list[object]]:
        """Run and commit them; the file's trouble is everybody's.

        Raises:
            _Spoiled: nothing was kept of any of them, and nobody is to hear of it.
        """
        cursor, facts, results = self._cursor, list[object](), list[_Result]()
        try:
            cursor.execute("BEGIN IMMEDIATE")
            now_us = self._clock.now_us()
            for op in operations:
                tx = SqliteTx(cursor, now_us, self._statements)
                results.append(run(op, tx))
                if results[-1][1] is None:
                    facts.extend(tx.facts)
            cursor.execute("COMMIT")
        except BaseException as error:  # every caller must hear of it
            with suppress(
                sqlite3.Error
            ):  # a failure here must not leave the callers without an answer
                if self._connection.in_transaction:
                    cursor.execute("ROLLBACK")
            if isinstance(error, _Spoiled):
                raise
            cause = store_error(error, self._path) if isinstance(error, sqlite3.Error) else error
            return [(None, cause)] * len(operations), []
        return results, facts

    def _run_bare(self, op: Operation[Any], tx: SqliteTx) -> _Result:
        """The operation's value or error, where there is nothing to undo."""
        changes = self._connection.total_changes
        result = _result(op, tx)
        if result[1] is not None:
            # Ends the operation's last statement: only then are the rows counted that it has changed.
            self._cursor.execute("SELECT 1")
            if self._connection.total_changes != changes:
                raise _Spoiled
        return result

    def _run_apart(self, op: Operation[Any], tx: SqliteTx) -> _Result:
        """The operation's value or error, in a savepoint."""
        cursor = self._cursor
        cursor.execute("SAVEPOINT operation")
        result = _result(op, tx)
        if result[1] is not None:
            cursor.execute("ROLLBACK TO operation")
        cursor.execute("RELEASE operation")
        return result

    def _read(self, op: Operation[T]) -> T:
        connection = getattr(self._local, "connection", None)
        if connection is None:
            connection = self._local.connection = connect_again(self._path, read_only=True)
            self._reader_connections.append(connection)
        try:
            connection.execute("BEGIN")
            try:
                return op(SqliteTx(connection.cursor(), self._clock.now_us(), self._statements))
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise store_error(error, self._path) from error


def _result(op: Operation[Any], tx: SqliteTx) -> _Result:
    """What the operation says, or the error that is its own."""
    try:
        return op(tx), None
    except sqlite3.Error as error:
        if not isinstance(error, _OWN_FAULT):
            raise
        return None, error
    except Exception as error:  # noqa: BLE001  (it belongs to this operation's caller)
        return None, error
