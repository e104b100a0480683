"""A store with a past: N finished tasks, copied from a few that the service itself has run.

Each copy has the rows its pattern has (task, account, events, ledger lines), under ids, owners, sessions and
instants of its own; sessions and their accounts are what their tasks add up to, so that the books are in order.
What a later version writes for a task is copied, too, without this module knowing of it.
"""

import random
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import psycopg

from app.api.present import METERS
from app.domain.money import NANO_PER_USD
from app.domain.task import LOCAL_OWNER

BIG_SESSION = "big"
"""Has a tenth of all tasks."""
DAYS = 90
"""Over which the past is spread."""
_DAY_US = 86_400_000_000
_OWNERS = (*[LOCAL_OWNER] * 7, "acme", "globex", "initech")
_TASKS_PER_SESSION = 10
_SESSION_LIMIT_NANO = 100_000 * NANO_PER_USD
_CHUNK = 20_000
_SHARES = (85, 10, 5)
"""How many of a hundred copies each pattern gets."""
_BEYOND_US = 1 << 61
"""Instants from here on mean "never" and do not move."""
_TABLES = {"tasks": "id", "accounts": "id", "events": "subject", "ledger_lines": "task_id"}
_OWN = {"owner": "c.owner", "session_id": "c.session_id"}


@dataclass(frozen=True, slots=True)
class Copy:
    """One task of the past."""

    number: int
    id: str
    owner: str
    session_id: str
    pattern: str
    created_at_us: int


class Database(Protocol):
    """What the copying needs of a database, whichever it is."""

    def columns(self, table: str) -> list[str]:
        """The names of a table's columns."""
        ...

    def execute(self, statement: str) -> None:
        """Run one statement."""
        ...

    def load(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        """Insert rows, as fast as it goes."""
        ...

    def commit(self) -> None:
        """Keep what was done."""
        ...

    def settle(self) -> None:
        """What the database does by itself in time."""
        ...


class SqliteFile:
    """A database file that nobody else uses meanwhile."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute("PRAGMA cache_size=-200000")

    def columns(self, table: str) -> list[str]:
        return [row[1] for row in self._connection.execute(f"PRAGMA table_info({table})")]

    def execute(self, statement: str) -> None:
        self._connection.execute(statement)

    def load(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        marks = ",".join("?" * len(self.columns(table)))
        self._connection.executemany(f"INSERT INTO {table} VALUES ({marks})", rows)  # noqa: S608

    def commit(self) -> None:
        self._connection.commit()

    def settle(self) -> None:
        # Nobody runs ANALYZE in a service's file: there are no statistics.
        self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class PostgresDatabase:
    """A database whose schema is there already."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute("SET synchronous_commit = off")

    def columns(self, table: str) -> list[str]:
        asked = "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position"
        return [name for (name,) in self._connection.execute(asked, (table,))]

    def execute(self, statement: str) -> None:
        self._connection.execute(statement.encode())

    def load(self, table: str, rows: Iterable[tuple[object, ...]]) -> None:
        with (
            self._connection.cursor() as cursor,
            cursor.copy(f"COPY {table} FROM STDIN".encode()) as copy,
        ):
            for row in rows:
                copy.write_row(row)

    def commit(self) -> None:
        self._connection.commit()

    def settle(self) -> None:
        self._connection.autocommit = True
        self._connection.execute("VACUUM ANALYZE")


def copies(count: int, end_us: int, patterns: Sequence[str]) -> Iterator[Copy]:
    """The tasks of the past, oldest first, up to an instant; the same for the same arguments."""
    chance = random.Random(count)  # noqa: S311  (not a secret)
    for number in range(count):
        at_us = end_us - (count - number) * DAYS * _DAY_US // count
        owner = _OWNERS[number // _TASKS_PER_SESSION % len(_OWNERS)]
        session_id = f"sess_{number // _TASKS_PER_SESSION:032x}"
        if number % 10 == 0:
            owner, session_id = LOCAL_OWNER, BIG_SESSION
        yield Copy(
            number,
            f"task_{at_us // 1_000:012x}{chance.randbytes(10).hex()}",
            owner,
            session_id,
            chance.choices(patterns, _SHARES)[0],
            at_us,
        )


def fill(database: Database, past: Iterator[Copy]) -> None:
    """Write the tasks of this past down. Their patterns are finished tasks."""
    columns = {table: database.columns(table) for table in _TABLES}
    _make_copies_table(database)
    while chunk := list(islice(past, _CHUNK)):
        database.execute("DELETE FROM bench_copies")
        database.load(
            "bench_copies",
            ((c.number, c.id, c.owner, c.session_id, c.pattern, c.created_at_us) for c in chunk),
        )
        for table, key in _TABLES.items():
            database.execute(_copying(table, key, columns[table]))
        database.commit()
    _sum_up_sessions(database, columns["accounts"])
    database.execute("DROP TABLE bench_copies")
    database.commit()
    database.settle()


def _make_copies_table(database: Database) -> None:
    database.execute(
        "CREATE TABLE bench_copies (number INTEGER, id TEXT, owner TEXT, session_id TEXT, pattern TEXT,"
        " created_at_us BIGINT)"
    )


def _copying(table: str, key: str, columns: list[str]) -> str:
    """One statement for all copies of a chunk, in their order."""
    taken = ", ".join(_taken(key, column) for column in columns)
    scope = " AND o.scope = 'task'" if table == "accounts" else ""
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {taken} FROM bench_copies AS c "  # noqa: S608
        f"JOIN tasks AS p ON p.id = c.pattern JOIN {table} AS o ON o.{key} = c.pattern{scope} ORDER BY c.number"
    )


def _taken(key: str, column: str) -> str:
    """Where a copy has the value of this column from."""
    own = f"o.{column}"
    if column == key:
        return "c.id"
    if column in _OWN:
        return _OWN[column]
    if column == "scopes":
        session = "c.owner || '/' || c.session_id"
        return (
            f"REPLACE(REPLACE({own}, c.pattern, c.id), o.owner || '/' || o.session_id, {session})"
        )
    if column.endswith("_us"):
        return f"CASE WHEN {own} < {_BEYOND_US} THEN {own} + c.created_at_us - p.created_at_us ELSE {own} END"
    return own


def _sum_up_sessions(database: Database, columns: list[str]) -> None:
    """Sessions, their accounts and what they used, as sums over their tasks and lines."""
    database.execute(
        "INSERT INTO sessions (owner, id, created_at_us, task_count) "
        "SELECT owner, session_id, MIN(created_at_us), COUNT(*) FROM tasks "
        "WHERE (owner, session_id) NOT IN (SELECT owner, id FROM sessions) GROUP BY owner, session_id"
    )
    taken = {
        "scope": "'session'",
        "id": "t.owner || '/' || t.session_id",
        "owner": "t.owner",
        "limit_nano": str(_SESSION_LIMIT_NANO),
        "ceiling_nano": str(_SESSION_LIMIT_NANO),
        "reserved_nano": "0",
        "warn_at_nano": "NULL",
    }
    values = ", ".join(taken.get(column, f"SUM(a.{column})") for column in columns)
    database.execute(
        f"INSERT INTO accounts ({', '.join(columns)}) SELECT {values} FROM tasks AS t "  # noqa: S608
        "JOIN accounts AS a ON a.scope = 'task' AND a.id = t.id WHERE t.owner || '/' || t.session_id NOT IN "
        "(SELECT id FROM accounts WHERE scope = 'session') GROUP BY t.owner, t.session_id"
    )
    spent = "amount_nano + surplus_nano"
    used = ", ".join(
        (
            f"SUM({spent})",
            *(
                f"SUM(CASE WHEN kind = '{kind}' THEN {spent} ELSE 0 END)"
                for kind in ("confirmed", "estimated", "presumed")
            ),
            *(f"SUM({meter}_tokens)" for meter in METERS),
            "SUM(cache_saved_nano)",
        )
    )
    database.execute(
        f"INSERT INTO session_usage SELECT owner, session_id, model, COUNT(*), {used} FROM ledger_lines "  # noqa: S608
        "WHERE entry = 'settlement' AND (owner, session_id) NOT IN (SELECT owner, session_id FROM session_usage) "
        "GROUP BY owner, session_id, model"
    )


def fill_sqlite(path: Path, past: Iterator[Copy]) -> None:
    """The same for the embedded store's file."""
    with closing(sqlite3.connect(path)) as connection:
        fill(SqliteFile(connection), past)


def fill_postgres(url: str, past: Iterator[Copy]) -> None:
    """The same for a database of PostgreSQL."""
    with psycopg.connect(url) as connection:
        fill(PostgresDatabase(connection), past)
