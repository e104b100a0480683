"""How the databases find rows: with a million finished tasks, no request may look at all of them.

Times would say more and prove less: a test looks at the plan of every named query instead. What a long history
costs in milliseconds is measured by `python -m bench.history`.
"""

import re
import sqlite3
from pathlib import Path

import pytest

from app.store.queries import load_queries
from app.store.sqlite_file import DATABASE_NAME, connect, migrate

WHOLE = {
    "all_accounts",
    "any_key",
    "count_tasks",
    "list_keys",
    "session_usage_drifts",
    "settlements_page",
    "sums_by_scopes",
}
"""What looks at all of something on purpose: commands of the operator, and the few keys there are."""
LIVE = {"tasks_waiting", "tasks_expiring", "tasks_paused", "tasks_paused_until", "tasks_held"}
"""Indexes of tasks that have not ended; their number is bounded by settings."""
PAGES = {
    "claim_tasks",
    "ledger_of_session",
    "list_tasks",
    "list_tasks_by_session",
    "list_tasks_by_session_and_status",
    "list_tasks_by_status",
    "read_events",
}
"""What takes the first few of many: the index must bring them in their order."""
PARAMETER = re.compile(r"(?<!:):([a-z0-9_]+)")
QUERIES = load_queries()


def without_comments(sql: str) -> str:
    """The statement alone."""
    return "\n".join(line for line in sql.splitlines() if not line.startswith("--"))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> sqlite3.Connection:
    """An embedded database without statistics, as every one is."""
    folder: Path = tmp_path_factory.mktemp("plans")
    connection = connect(folder / DATABASE_NAME)
    migrate(connection, folder / DATABASE_NAME, 0)
    return connection


def steps_of(embedded: sqlite3.Connection, sql: str) -> list[str]:
    """The steps of the plan."""
    statement = without_comments(sql)
    params = dict.fromkeys(PARAMETER.findall(statement), 1)
    return [row[3] for row in embedded.execute("EXPLAIN QUERY PLAN " + statement, params)]


def scans(steps: list[str]) -> list[str]:
    """Steps that look at every row of a table that grows with the tasks that have ended."""
    made = {step.split()[-1] for step in steps if step.startswith(("CO-ROUTINE", "MATERIALIZE"))}
    return [
        step
        for step in steps
        if step.startswith("SCAN")
        and step.split()[1] not in {"CONSTANT", *made}
        and not LIVE & set(step.split())
    ]


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - WHOLE))
def test_no_query_looks_at_every_row(embedded: sqlite3.Connection, name: str) -> None:
    """Each finds its rows by an index."""
    assert scans(steps_of(embedded, QUERIES[name])) == []


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_not_sorted(embedded: sqlite3.Connection, name: str) -> None:
    """Its rows come in their order, so that those behind the limit are not looked at."""
    sorted_first = [step for step in steps_of(embedded, QUERIES[name]) if "TEMP B-TREE" in step]
    assert sorted_first == []


@pytest.mark.parametrize(
    "name", ["list_tasks", "list_tasks_by_session", "list_tasks_by_session_and_status"]
)
def test_a_cursor_leads_to_its_place(embedded: sqlite3.Connection, name: str) -> None:
    """The page after a task far back begins there: what is newer is not read and thrown away."""
    (found,) = [step for step in steps_of(embedded, QUERIES[name]) if "tasks_" in step]
    assert found.endswith("(created_at_us,id)<(?,?))")


def test_the_test_sees_a_scan(embedded: sqlite3.Connection) -> None:
    """Queries without an index of their own are told."""
    for sql in (
        "SELECT * FROM tasks WHERE outcome = :outcome",
        "SELECT t.id FROM accounts AS a JOIN tasks AS t ON t.id = a.id WHERE a.owner = :owner",
        "SELECT id FROM tasks WHERE status = 'paused'",
    ):
        assert scans(steps_of(embedded, sql)) != []
    assert scans(steps_of(embedded, "SELECT * FROM tasks WHERE id = :id")) == []
