"""The schema's CHECKs: what the code should never write cannot be written."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.store.sqlite_file import DATABASE_NAME, connect, migrate

TASK = {
    "id": "t",
    "owner": "local",
    "session_id": "s",
    "status": "queued",
    "spec": "{}",
    "priority": 0,
    "created_at_us": 1,
    "available_at_us": 1,
    "deadline_at_us": 2,
}
RUNNING = {"status": "running", "lease_owner": "w"}
DONE = {"status": "succeeded", "outcome": "answered", "finished_at_us": 9}
ACCOUNT = {"scope": "task", "id": "t", "owner": "local", "limit_nano": 10, "ceiling_nano": 10}
LINE = {
    "ended": 0,
    "entry": "reservation",
    "owner": "local",
    "session_id": "s",
    "task_id": "t",
    "run": 1,
    "step": 1,
    "attempt": 1,
    "model": "m",
    "price_row": "p",
    "scopes": "[]",
    "amount_nano": 1,
    "at_us": 1,
}
EVENT = {"subject": "t", "seq": 1, "type": "x", "at_us": 1, "run": 0, "data": "{}"}
BASES = {"tasks": TASK, "accounts": ACCOUNT, "ledger_lines": LINE, "events": EVENT}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """An empty database with the schema."""
    path = tmp_path / DATABASE_NAME
    connection = connect(path)
    migrate(connection, path, 0)
    yield connection
    connection.close()


def insert(database: sqlite3.Connection, table: str, **changes: object) -> None:
    """Insert the table's legal row, changed."""
    row = {**BASES[table], **changes}
    names = ", ".join(row)
    marks = ", ".join(f":{name}" for name in row)
    database.execute(f"INSERT INTO {table} ({names}) VALUES ({marks})", row)  # noqa: S608


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("tasks", {}),
        ("tasks", RUNNING),
        ("tasks", {**RUNNING, "status": "cancelling"}),
        ("tasks", {"status": "paused", "paused_json": "{}"}),
        ("tasks", DONE),
        ("tasks", {**DONE, "status": "failed"}),
        ("tasks", {**DONE, "status": "cancelled"}),
        ("accounts", {}),
        ("accounts", {"spent_nano": 4, "reserved_nano": 6}),
        ("accounts", {"spent_nano": 12, "ceiling_nano": 12}),
        ("accounts", {"spent_nano": 10, "surplus_nano": 99}),
        ("ledger_lines", {}),
        ("ledger_lines", {"ended": 1, "entry": "settlement", "kind": "confirmed"}),
        ("ledger_lines", {"ended": 1, "entry": "release"}),
        ("events", {}),
    ],
)
def test_legal_rows_are_taken(database, table, row):
    """Every status and every kind of line has a legal row."""
    insert(database, table, **row)


@pytest.mark.parametrize(
    ("table", "row"),
    [
        ("tasks", {"status": "asleep"}),
        ("tasks", {"outcome": "answered"}),
        ("tasks", {"finished_at_us": 9}),
        ("tasks", {"lease_owner": "w"}),
        ("tasks", {"status": "running"}),
        ("tasks", {"status": "cancelling"}),
        ("tasks", {**RUNNING, "outcome": "answered"}),
        ("tasks", {**RUNNING, "finished_at_us": 9}),
        ("tasks", {"status": "paused", "paused_json": "{}", "lease_owner": "w"}),
        ("tasks", {"status": "paused"}),
        ("tasks", {"paused_json": "{}"}),
        ("tasks", {**DONE, "outcome": None}),
        ("tasks", {**DONE, "finished_at_us": None}),
        ("tasks", {**DONE, "lease_owner": "w"}),
        ("tasks", {"status": None}),
        ("tasks", {"deadline_at_us": None}),
        ("accounts", {"scope": "planet"}),
        ("accounts", {"limit_nano": -1}),
        ("accounts", {"spent_nano": -1}),
        ("accounts", {"reserved_nano": -1}),
        ("accounts", {"surplus_nano": -1}),
        ("accounts", {"ceiling_nano": 9}),
        ("accounts", {"spent_nano": 11}),
        ("accounts", {"reserved_nano": 11}),
        ("accounts", {"spent_nano": 5, "reserved_nano": 6}),
        ("ledger_lines", {"entry": "gift"}),
        ("ledger_lines", {"kind": "confirmed"}),
        ("ledger_lines", {"ended": 1, "entry": "settlement"}),
        ("ledger_lines", {"ended": 1, "entry": "settlement", "kind": "guessed"}),
        ("ledger_lines", {"ended": 1, "entry": "release", "kind": "presumed"}),
        ("ledger_lines", {"amount_nano": -1}),
        ("ledger_lines", {"surplus_nano": -1}),
        ("events", {"seq": 0}),
        ("events", {"subject": None}),
    ],
)
def test_illegal_rows_are_refused(database, table, row):
    """Each CHECK refuses the row that breaks it and nothing else."""
    with pytest.raises(sqlite3.IntegrityError):
        insert(database, table, **row)


@pytest.mark.parametrize("table", ["tasks", "accounts", "events", "ledger_lines"])
def test_rows_have_one_identity(database, table):
    """The same row cannot be written twice."""
    insert(database, table)
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(database, table)


def test_a_reservation_ends_once(database):
    """A settlement and a release of one attempt exclude each other."""
    insert(database, "ledger_lines")
    insert(database, "ledger_lines", ended=1, entry="settlement", kind="confirmed")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        insert(database, "ledger_lines", ended=1, entry="release")


@pytest.mark.parametrize(
    ("change", "value"),
    [("reserved_nano", 11), ("spent_nano", 11), ("ceiling_nano", 9), ("limit_nano", 11)],
)
def test_updates_are_checked_too(database, change, value):
    """An account cannot be moved into an illegal state either."""
    insert(database, "accounts")
    with pytest.raises(sqlite3.IntegrityError, match="CHECK"):
        database.execute(f"UPDATE accounts SET {change} = ?", (value,))  # noqa: S608
