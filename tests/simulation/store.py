"""The embedded store of a simulated process: the real one, whose every COMMIT is a place to die at."""

import asyncio
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from app.domain.clock import Clock
from app.domain.errors import StaleLease
from app.store.port import Operation, T, Tx
from app.store.sqlite import SqliteStore
from tests.simulation.loop import PROCESS
from tests.simulation.now import Gone, Nature

_FAILS_AT = {sqlite3.SQLITE_FULL: "COMMIT", sqlite3.SQLITE_BUSY: "BEGIN IMMEDIATE"}
_OVERDRAWN = (
    "SELECT scope, id FROM accounts WHERE spent_nano + surplus_nano + reserved_nano > limit_nano"
)
_LEASED = "SELECT id FROM workers"
_HELD = "SELECT id, run_count, lease_owner FROM tasks WHERE lease_owner IS NOT NULL"
_ENDED = "SELECT id, due_at_us, status, outcome FROM tasks WHERE outcome IS NOT NULL"
"""A task is due once, and once more for each retry."""


class ProcessDied(BaseException):
    """Raised where the process ends; nobody hears of it."""


class Watched:
    """The writer's connection and its cursor: `at_commit` is asked on both sides of each COMMIT, then the state is judged."""

    def __init__(
        self, connection: sqlite3.Connection, nature: Nature, at_commit: Callable[[str], bool]
    ) -> None:
        self._connection = connection
        self._nature = nature
        self._at_commit = at_commit
        self.in_transaction = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if statement == _FAILS_AT.get(self._nature.store_error):
            self._fail()
        if statement != "COMMIT":
            cursor = self._connection.execute(statement, parameters)
            self.in_transaction = self._connection.in_transaction
            return cursor
        if self._at_commit("before"):
            self._connection.execute("ROLLBACK")  # what the file's next reader would make of it
            self.in_transaction = False
            raise ProcessDied
        cursor = self._connection.execute(statement)
        self.in_transaction = False
        self._judge()
        self._judge_leases()
        self._at_commit("after")
        return cursor

    def _fail(self) -> None:
        """As SQLite does: a full disk is met at the end of a transaction, somebody else's lock at its beginning."""
        if self.in_transaction:
            self._connection.execute("ROLLBACK")
            self.in_transaction = False
        self._nature.reached["write failed"] += 1
        error = sqlite3.OperationalError("the world's disk")
        error.sqlite_errorcode = self._nature.store_error
        raise error

    def _judge(self) -> None:
        """What must hold at every committed instant."""
        for row in self._connection.execute(_OVERDRAWN):
            self._nature.violations.append(f"{row['scope']} {row['id']} is overdrawn")
        for row in self._connection.execute(_ENDED):
            ended = (row["status"], row["outcome"])
            due = (row["id"], row["due_at_us"])
            if self._nature.ended.setdefault(due, ended) != ended:
                self._nature.violations.append(f"{row['id']} ended twice: {ended}")

    def _judge_leases(self) -> None:
        """Nobody loses a lease that was never disturbed; nobody takes a task without one."""
        nature, me = self._nature, PROCESS.get()
        assert me is not None
        leased = {row["id"] for row in self._connection.execute(_LEASED)}
        for worker in leased - nature.leased:
            nature.reached["lease lost"] += me in nature.workers.values()
            nature.workers[worker] = me
        for worker in nature.leased - leased:
            owner = nature.workers[worker]
            if owner is not me and owner.undisturbed:
                nature.violations.append(f"{worker} lost its lease although it was well")
        nature.leased = leased
        for row in self._connection.execute(_HELD):
            run = (row["id"], row["run_count"])
            if run not in nature.claims and row["lease_owner"] not in leased:
                nature.violations.append(f"{row['id']} was claimed by a worker without a lease")
            nature.claims.add(run)


class SimulatedStore(SqliteStore):
    """As the real one, in a process that can die or lose its lock."""

    def __init__(
        self,
        folder: Path,
        clock: Clock,
        nature: Nature,
        at_commit: Callable[[str], bool],
        alone: bool = True,
    ) -> None:
        super().__init__(folder, clock, alone=alone)
        self._nature = nature
        nature.stores += 1
        self.name = f"store-{nature.stores}"
        watched = Watched(self._connection, nature, at_commit)
        self._connection = cast("sqlite3.Connection", watched)
        self._cursor = cast("sqlite3.Cursor", watched)

    def _enqueue(self, op: Operation[T]) -> asyncio.Future[T]:
        if self._nature.over:
            raise Gone
        return super()._enqueue(self._counted(op))

    def _together(self, *given: Any) -> Any:
        """The database tells the others of a commit, whatever becomes of the process that made it."""
        results, facts = super()._together(*given)
        if facts and self._nature.hints is not None:
            self._nature.hints.say(self.name, facts)
        return results, facts

    async def read(self, op: Operation[T]) -> T:
        if self._nature.over:
            raise Gone
        return await super().read(op)

    def _counted(self, op: Operation[T]) -> Operation[T]:
        def counted(tx: Tx) -> T:
            try:
                return op(tx)
            except StaleLease:
                robbed = self._lock is None
                self._nature.reached["stale run stopped" if robbed else "ended run stopped"] += 1
                raise

        return counted

    def let_go(self) -> None:
        """What the kernel does for a dead process: its files are closed, its transaction is undone."""
        self.lose_lock()
        for connection in (*self._reader_connections, self._connection):
            connection.close()

    def lose_lock(self) -> None:
        """Somebody else may take the directory, as when the lock's file system was replaced."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None
