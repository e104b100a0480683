"""Migrations that are interrupted anywhere: nothing is lost, and the next start makes the same schema. SQLite."""

import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.budget.audit import audit
from app.domain.errors import StoreError
from app.store.queries import load_migrations
from app.store.sqlite_file import DATABASE_NAME, connect, migrate, statements_of
from app.store.sqlite_tx import SqliteTx
from tests.support.versions import LATEST, fill, task_ids

VERSIONS = range(LATEST)
_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)


class Wired(sqlite3.Connection):
    """A connection that does something before its n-th statement."""

    countdown = -2
    wire: Callable[[], None]

    def execute(self, *args: Any, **kwargs: Any) -> sqlite3.Cursor:
        """Count down, then go on as usual."""
        self.countdown -= 1
        if self.countdown == -1:
            self.wire()
        return super().execute(*args, **kwargs)


def _fail() -> None:
    message = "disk I/O error"
    raise sqlite3.OperationalError(message)


def old_database(folder: Path, version: int) -> Path:
    """A database as that version left it, with tasks in flight; version 0: an empty file."""
    folder.mkdir()
    path = folder / DATABASE_NAME
    with closing(connect(path)) as connection:
        if version:
            connection.execute(
                "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL,"
                " applied_at_us BIGINT NOT NULL)"
            )
        for number, name, script in load_migrations()[:version]:
            for statement in statements_of(script):
                connection.execute(statement)
            connection.execute("INSERT INTO schema_migrations VALUES (?, ?, 0)", (number, name))
            fill(lambda statement, *values: connection.execute(statement, values), number)
    return path


def _schema(connection: sqlite3.Connection) -> list[Any]:
    found = connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY 1, 2")
    return [tuple(row) for row in found]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """The schema of a new database."""
    path = tmp_path_factory.mktemp("fresh") / DATABASE_NAME
    with closing(connect(path)) as connection:
        migrate(connection, path, 0)
        return _schema(connection)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder in memory, where there is one: what is asked is what is written, not that it reaches a disk."""
    with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as made:
        yield Path(made)


def _kept(connection: sqlite3.Connection) -> list[Any]:
    """What no migration may change."""
    statements = (
        "SELECT id, status, spec, outcome, result_json, run_count, step_count, lease_owner FROM tasks ORDER BY id",
        "SELECT * FROM events ORDER BY subject, seq",
        "SELECT scope, id, limit_nano, ceiling_nano, spent_nano, reserved_nano FROM accounts ORDER BY scope, id",
        "SELECT task_id, step, attempt, ended, entry, kind, amount_nano FROM ledger_lines ORDER BY 1, 2, 3, 4",
        "SELECT owner, id, created_at_us FROM sessions",
    )
    return [[tuple(row) for row in connection.execute(statement)] for statement in statements]


def _check(path: Path, version: int, kept: list[Any] | None, fresh: list[Any]) -> None:
    """The next start: this version's schema, everything in it, books that agree."""
    with closing(connect(path)) as connection:
        migrate(connection, path, 0)
        assert _schema(connection) == fresh
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        assert audit(SqliteTx(connection.cursor(), 0)).drifts == ()
        if kept is not None:
            assert _kept(connection) == kept
            assert [row[0] for row in _kept(connection)[0]] == task_ids(version)


def _wired(path: Path, countdown: int, wire: Callable[[], None]) -> Wired:
    connection = sqlite3.connect(path, isolation_level=None, factory=Wired)
    connection.row_factory = sqlite3.Row
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.wire = wire
    connection.countdown = countdown
    return connection


def _interruptions(path: Path, crashed: Path, *, raising: bool) -> Iterator[None]:
    """Migrate a copy of `path` into `crashed`, as far as one statement more each time; the last time to its end."""
    countdown, working = 0, crashed.with_name("working")

    def die() -> None:
        """What is on the disk at this instant is what a killed process leaves."""
        shutil.copytree(working, crashed)
        _fail()

    while True:
        shutil.rmtree(crashed, ignore_errors=True)
        shutil.rmtree(working, ignore_errors=True)
        shutil.copytree(path.parent, crashed if raising else working)
        target = (crashed if raising else working) / DATABASE_NAME
        with closing(_wired(target, countdown, _fail if raising else die)) as connection:
            try:
                migrate(connection, target, 0)
            except StoreError:
                ended = False
            else:
                ended = True
        if ended:
            return
        yield
        countdown += 1


@pytest.mark.parametrize(("version", "raising"), [*((v, False) for v in VERSIONS), (1, True)])
def test_interrupted_at_every_statement(
    folder: Path, fresh: list[Any], version: int, *, raising: bool
) -> None:
    """From every version on, by an error and by a kill before each statement: nothing lost, the same schema."""
    path = old_database(folder / "old", version)
    kept = None
    if version:
        with closing(connect(path)) as connection:
            kept = _kept(connection)
    count = 0
    for _ in _interruptions(path, folder / "crashed", raising=raising):
        _check(folder / "crashed" / DATABASE_NAME, version, kept, fresh)
        count += 1
    statements = sum(len(statements_of(script)) + 3 for _, _, script in load_migrations()[version:])
    assert count > statements  # each of them, and what comes before them
