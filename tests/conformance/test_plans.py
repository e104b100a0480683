"""How the databases find rows: with a million finished tasks, no request may look at all of them.

Times would say more and prove less: a test looks at the plan of every named query instead. What a long history
costs in milliseconds is measured by `python -m bench.history`.
"""

from collections.abc import Iterator
from contextlib import closing

import psycopg
import pytest

from app.store.postgres_schema import prepare
from app.store.queries import load_queries
from app.store.sqlite_file import DATABASE_NAME, connect, migrate
from tests.support.plans import Planner, PostgresPlanner, SqlitePlanner
from tests.support.postgres import Server
from tests.support.stores import ADAPTERS

WHOLE = {
    "any_key",
    "broken_amounts",
    "checkup_answers",
    "count_tasks",
    "list_keys",
    "session_usage_drifts",
    "settlements_page",
}
"""What looks at all of something on purpose: commands of the operator, and the few keys there are."""
NEWEST = {"ended_tasks"}
"""What looks at the latest few of an owner's tasks: that most of them have ended keeps it short."""
PAGES = {
    "claim_tasks",
    "claimable_tasks",
    "ledger_of_session",
    "list_tasks",
    "list_tasks_by_outcome",
    "list_tasks_by_session",
    "list_tasks_by_session_and_outcome",
    "list_tasks_by_session_and_status",
    "list_tasks_by_status",
    "prune_candidates",
    "read_events",
}
"""What takes the first few of many: the index must bring them in their order."""
QUERIES = load_queries()


@pytest.fixture(scope="module", params=ADAPTERS)
def planner(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Planner]:
    """Every database in turn, with its schema."""
    if request.param == "sqlite":
        path = tmp_path_factory.mktemp("plans") / DATABASE_NAME
        with closing(connect(path)) as embedded:
            migrate(embedded, path, 0)
            yield SqlitePlanner(embedded)
        return
    server: Server = request.getfixturevalue("postgres")
    url = server.create()
    prepare(url)
    with psycopg.connect(url, autocommit=True) as connection:
        yield PostgresPlanner(connection)
    server.drop(url)


@pytest.mark.parametrize("name", sorted(QUERIES.keys() - WHOLE - NEWEST))
def test_no_query_looks_at_every_row(planner: Planner, name: str) -> None:
    """Each finds its rows by an index."""
    plan = planner.plan(QUERIES[name])
    assert plan.scans == [], plan.steps


@pytest.mark.parametrize("name", sorted(PAGES))
def test_a_page_is_not_sorted(planner: Planner, name: str) -> None:
    """Its rows come in their order, so that those behind the limit are not looked at."""
    plan = planner.plan(QUERIES[name])
    assert plan.sorts == [], plan.steps


@pytest.mark.parametrize("name", sorted(name for name in PAGES if name.startswith("list_")))
def test_a_cursor_leads_to_its_place(planner: Planner, name: str) -> None:
    """The page after a task far back begins there: what is newer is not read and thrown away."""
    steps = [step.replace("ROW", "") for step in planner.plan(QUERIES[name]).steps]
    assert any("(created_at_us,id)<" in step.replace(" ", "") for step in steps), steps


@pytest.mark.parametrize("name", sorted(name for name in QUERIES if name.startswith("usage_by_")))
def test_a_report_reads_an_index_alone(planner: Planner, name: str) -> None:
    """Fetching each settlement from the table would take ten times as long."""
    steps = planner.plan(QUERIES[name]).steps
    assert any("Index Only Scan" in step or "COVERING INDEX" in step for step in steps), steps


def test_the_test_sees_a_scan(planner: Planner) -> None:
    """Queries without an index of their own are told, and so is a sort."""
    for sql in (
        "SELECT * FROM tasks WHERE outcome = :outcome",
        "SELECT t.id FROM accounts AS a JOIN tasks AS t ON t.id = a.id WHERE a.owner = :owner",
        "SELECT COUNT(*) FROM ledger_lines",
        "SELECT MAX(created_at_us + 0) FROM tasks WHERE owner = :owner",
    ):
        assert planner.plan(sql).scans != []
    assert planner.plan("SELECT * FROM tasks WHERE id = :id").scans == []
    newest = "SELECT id FROM tasks WHERE owner = :owner ORDER BY run_count LIMIT 1"
    assert planner.plan(newest).sorts != []
