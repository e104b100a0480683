"""A database of an earlier version: brought up to date with everything that is in it."""

import sqlite3
from pathlib import Path

import pytest

from app.budget.accounts import ServiceLimits, balances
from app.budget.audit import audit
from app.budget.ledger import Attempt, Kind, reserve, settle
from app.budget.scopes import SERVICE, Payer, Scope, session_scope, task_scope
from app.domain.task import Subject
from app.store.queries import load_migrations
from app.store.sqlite_file import DATABASE_NAME, connect, migrate, statements_of
from app.store.sqlite_tx import SqliteTx

ACCOUNTS = [
    ("task", "t", 500, 500, 40, 60, 5),
    ("session", "local/s", 90, 105, 40, 60, 5),
    ("service", "service", 1_000, 1_000, 40, 60, 5),
]
SCOPES = '[["task","t"],["session","local/s"],["service","service"]]'


def first_version(path: Path) -> None:
    """A database as the first schema made it, with a task that spent something and holds something."""
    connection = connect(path)
    version, name, script = load_migrations()[0]
    for statement in statements_of(script):
        connection.execute(statement)
    connection.execute(
        "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL,"
        " applied_at_us BIGINT NOT NULL)"
    )
    connection.execute("INSERT INTO schema_migrations VALUES (?, ?, 0)", (version, name))
    connection.execute("INSERT INTO sessions VALUES ('local', 's', 1)")
    connection.execute(
        "INSERT INTO tasks (id, owner, session_id, status, spec, priority, created_at_us, available_at_us,"
        " deadline_at_us, lease_owner) VALUES ('t', 'local', 's', 'running', '{}', 5, 1, 1, 99, 'w')"
    )
    connection.executemany(
        "INSERT INTO accounts (scope, id, owner, limit_nano, ceiling_nano, spent_nano, reserved_nano,"
        " surplus_nano) VALUES (?, ?, 'local', ?, ?, ?, ?, ?)",
        ACCOUNTS,
    )
    lines = [
        (1, 0, "reservation", None, 70, 0),
        (1, 1, "settlement", "confirmed", 40, 5),
        (2, 0, "reservation", None, 60, 0),
    ]
    connection.executemany(
        "INSERT INTO ledger_lines (task_id, step, attempt, ended, entry, kind, owner, session_id, run, model,"
        " price_row, scopes, amount_nano, surplus_nano, at_us)"
        " VALUES ('t', ?, 1, ?, ?, ?, 'local', 's', 1, 'm', 'p', ?, ?, ?, 7)",
        [(*line[:4], SCOPES, *line[4:]) for line in lines],
    )
    connection.close()


@pytest.fixture
def migrated(tmp_path: Path) -> sqlite3.Connection:
    """The first version's database, brought up to date."""
    path = tmp_path / DATABASE_NAME
    first_version(path)
    connection = connect(path)
    migrate(connection, path, 0)
    return connection


def test_what_was_there_is_there(migrated: sqlite3.Connection) -> None:
    """Accounts keep their limits and balances, a lowered limit its ceiling, and the books still agree."""
    tx = SqliteTx(migrated.cursor(), 50)
    found = [
        tuple(row)
        for row in migrated.execute(
            "SELECT scope, id, limit_nano, ceiling_nano, spent_nano, reserved_nano, surplus_nano FROM accounts"
        )
    ]
    assert sorted(found) == sorted(ACCOUNTS)
    assert audit(tx).drifts == ()
    row = migrated.execute("SELECT status, spec, parent_id, paused_json FROM tasks").fetchone()
    assert tuple(row) == ("running", "{}", None, None)


def test_it_goes_on_from_there(migrated: sqlite3.Connection) -> None:
    """An open reservation is settled, and a new one holds on the windows, too."""
    tx = SqliteTx(migrated.cursor(), 50)
    subject = Subject("t", "s")
    assert settle(tx, "t/2/1", Kind.PRESUMED) is not None
    payer = Payer("t", "s", "local")
    stands = balances(tx, payer, ServiceLimits(day_nano=300, ever_nano=1_000))
    assert [b.scope for b in stands] == [
        task_scope("t"),
        session_scope("local", "s"),
        Scope("service_day", "1970-01-01"),
        SERVICE,
    ]
    attempt = Attempt(subject, 3, 1, "m", "p")
    assert reserve(tx, attempt, [b.scope for b in stands[2:]], 10) is None
    assert reserve(tx, attempt, [stands[1].scope], 10) == stands[1].scope
