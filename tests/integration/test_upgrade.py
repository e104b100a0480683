"""A service of this version over a database of any earlier one, with tasks in flight: all of them end."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from app.doctor.examination import examine
from app.store.postgres_schema import in_postgres, prepare
from app.store.queries import load_migrations
from app.store.sqlite_file import statements_of
from tests.support.postgres import Server
from tests.support.service import started
from tests.support.versions import LATEST, PAUSED, SPENT_NANO, fill, task_ids
from tests.unit.store.test_interrupted_migrations import old_database

VERSIONS = range(1, LATEST + 1)
ON_POSTGRES = [
    version
    if version in {1, LATEST - 1} or version % 3 == 0
    else pytest.param(version, marks=pytest.mark.long)
    for version in VERSIONS[:-1]
]
"""The same migrations as on SQLite, where each is tried: here every third, and the first and last."""
ENDS = {
    "queued": "succeeded",
    "running": "succeeded",
    "done": "succeeded",
    "cancelling": "cancelled",
}


async def _ends_all(folder: Path, version: int, database_url: str | None = None) -> None:
    """What waited or ran goes on, what was being cancelled is, what was paused goes on with a higher limit."""
    async with asyncio.timeout(50), started(folder, database_url=database_url) as bursar:
        listed = (await bursar.client.get("/tasks")).json()["tasks"]
        assert sorted(task["id"] for task in listed) == task_ids(version)
        for name, status in ENDS.items():
            ended = await bursar.finished(name)
            assert (ended["status"], ended["task"]) == (status, f"Say {name}.")
        if version >= 2:
            assert (await bursar.client.get(f"/tasks/{PAUSED}")).json()["status"] == "paused"
            raised = {"budget_usd": 9}
            answer = await bursar.client.put(f"/tasks/{PAUSED}/budget", json=raised)
            assert answer.status_code == 200, answer.text
            assert (await bursar.finished(PAUSED))["status"] == "succeeded"
        usage = (await bursar.client.get("/sessions/s/usage")).json()
        # What was in flight is presumed spent; what was settled before is there.
        assert usage["cost"]["presumed_usd"] > 0
        assert (await bursar.client.get("/tasks/done")).json()["cost_usd"] == SPENT_NANO / 10**9


@pytest.mark.parametrize("version", VERSIONS)
async def test_from_every_version(tmp_path: Path, version: int) -> None:
    """On the embedded database."""
    old_database(tmp_path / "data", version)
    with closing(sqlite3.connect(tmp_path / "data" / "bursar.db")) as connection:
        (found,) = connection.execute("SELECT MAX(version) FROM schema_migrations").fetchone()
    assert found == version
    await _ends_all(tmp_path / "data", version)
    report = examine(tmp_path / "data")
    assert (report.drifts, dict(report.findings.counts)) == ((), {})


_ENTER = (
    "CREATE TABLE schema_migrations"
    " (version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_us BIGINT NOT NULL);"
    'CREATE TABLE commits (writer TEXT COLLATE "C" PRIMARY KEY, batch BIGINT NOT NULL, at_us BIGINT NOT NULL)'
)
_SCHEMA = """
SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' '
    || COALESCE(column_default, '') FROM information_schema.columns WHERE table_schema = 'public'
UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'
UNION ALL SELECT conrelid::regclass || ' ' || pg_get_constraintdef(oid) FROM pg_constraint
    WHERE connamespace = 'public'::regnamespace
ORDER BY 1
"""
_KEPT = (
    "SELECT id, status, spec, run_count FROM tasks ORDER BY id",
    "SELECT subject, seq, type, data, body FROM events ORDER BY subject, seq",
    "SELECT scope, id, limit_nano, spent_nano, reserved_nano FROM accounts ORDER BY scope, id",
    "SELECT task_id, ended, entry, kind, amount_nano FROM ledger_lines ORDER BY task_id, ended",
)


def _schema(connection: psycopg.Connection[tuple[str, ...]]) -> list[str]:
    return [row[0] for row in connection.execute(_SCHEMA)]


def _state(connection: psycopg.Connection[tuple[str, ...]]) -> list[object]:
    return [connection.execute(statement.encode()).fetchall() for statement in _KEPT]


def _killed_after(
    url: str, connection: psycopg.Connection[tuple[str, ...]], done: list[str]
) -> None:
    """A process begins the migration, and its connection is cut after these statements."""
    with closing(psycopg.connect(url, autocommit=True)) as dying:
        dying.execute("BEGIN")
        for statement in done:
            dying.execute(statement.encode())
        connection.execute("SELECT pg_terminate_backend(%s, 5000)", [dying.info.backend_pid])


@pytest.mark.timeout(180)
async def test_on_postgres_killed_after_every_statement(postgres: Server, tmp_path: Path) -> None:
    """From the first version to this one: each migration cut everywhere, then done; the schema is a fresh one's."""
    fresh, old = postgres.create(), postgres.create()
    prepare(fresh)
    with psycopg.connect(fresh, autocommit=True) as connection:
        expected = _schema(connection)
    with psycopg.connect(old, autocommit=True) as connection:
        connection.execute(_ENTER.encode())
        for number, name, script in load_migrations():
            statements = [in_postgres(s) for s in statements_of(script)]
            entry = f"INSERT INTO schema_migrations VALUES ({number}, '{name}', 0)"  # noqa: S608
            before = _schema(connection), _state(connection) if number > 1 else []
            for count in range(len(statements) + 1):
                _killed_after(old, connection, [*statements, entry][:count])
            after = _schema(connection), _state(connection) if number > 1 else []
            assert after == before
            for statement in (*statements, entry):
                connection.execute(statement.encode())
            if number > 1:
                assert _state(connection) == before[1]
            fill(lambda s, *v: connection.execute(s.replace("?", "%s").encode(), v), number)
        assert _schema(connection) == expected
    await _ends_all(tmp_path, LATEST, database_url=old)
    report = examine(old)
    assert (report.drifts, dict(report.findings.counts)) == ((), {})
    for url in (fresh, old):
        postgres.drop(url)


@pytest.mark.parametrize("version", ON_POSTGRES)
async def test_on_postgres_from_every_version(
    postgres: Server, tmp_path: Path, version: int
) -> None:
    """The service's own way: it brings the schema up to date, and every task ends."""
    url = postgres.create()
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(_ENTER.encode())
        for number, name, script in load_migrations()[:version]:
            connection.execute(in_postgres(script).encode())
            connection.execute("INSERT INTO schema_migrations VALUES (%s, %s, 0)", (number, name))
            fill(lambda s, *v: connection.execute(s.replace("?", "%s").encode(), v), number)
    await _ends_all(tmp_path, version, database_url=url)
    assert examine(url).sound
    postgres.drop(url)
