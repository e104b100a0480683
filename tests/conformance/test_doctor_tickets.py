"""The doctor holds the dispatcher's tickets against the tasks: on PostgreSQL, where there are some."""

from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import psycopg
import pytest

from app.doctor.examination import examine
from app.doctor.tickets import look_at_tickets
from app.domain.task import Conclusion, Outcome
from app.queue import verbs
from app.queue.dispatch import Dispatch, Ticket
from app.store.port import Tx
from app.store.postgres import PostgresStore
from app.store.postgres_link import Link
from app.store.postgres_reader import snapshot_at
from app.store.postgres_schema import NOW_US
from app.store.postgres_tx import PostgresTx, load_statements
from app.store.queries import load_queries
from tests.conformance.ticket_damage import TICKET_DAMAGE, TICKETS_CALM
from tests.support.seeding import accept, claim_now, spec

FoundAfter = Callable[[str], set[str]]


def _fill(tx: Tx) -> None:
    """A task of each sort: running, ended, ready for the first time and again, not due."""
    for name in ("runs", "done", "again"):
        accept(tx, name, spec())
    claims = {claim.subject.task_id: claim.subject for claim in claim_now(tx, 3)}
    verbs.finish(tx, claims["done"], Conclusion(Outcome.ANSWERED, result="yes"))
    verbs.give_back(tx, claims["again"], "retry_wait", tx.now_us)
    accept(tx, "ready", spec())
    accept(tx, "later", spec())


@pytest.fixture
async def office_url(replica_url: str) -> str:
    """A database whose tasks have their tickets, all of it long ago."""
    store, dispatch = PostgresStore(replica_url), Dispatch(replica_url, executor="w", slots=0)
    await store.write(_fill)
    await dispatch.open()
    tickets = [Ticket(name, 0) for name in ("runs", "done", "never", "ready", "later")]
    await dispatch.hand_in([*tickets, Ticket("again", 1)])
    await dispatch.close()
    await store.close()
    with psycopg.connect(replica_url) as connection:
        connection.execute(
            b"UPDATE workers SET started_at_us = 1;"
            b"UPDATE tasks SET available_at_us = 1 WHERE status = 'queued';"
            b"UPDATE tasks SET held_by = 'time', available_at_us = deadline_at_us WHERE id = 'later';"
            b"UPDATE dbos.workflow_status SET status = 'PENDING', executor_id = 'w', started_at_epoch_ms = 1"
            b" WHERE workflow_uuid = 'runs'"
        )
    return replica_url


@pytest.fixture
def found_after(office_url: str) -> Iterator[FoundAfter]:
    """What is found after a change, which is undone then."""
    statements = {**load_statements(), **load_statements("sql_postgres")}
    with closing(Link(office_url)) as link:

        def found(change: str) -> set[str]:
            now_us = link.simple(f"BEGIN; {change}; SELECT {NOW_US}").get_value(0, 0)
            tx = PostgresTx(link, statements, int(now_us or 0))
            checks = {finding.check for finding in look_at_tickets(tx)}
            link.simple("ROLLBACK")
            return checks

        yield found


def test_each_damage_is_found(found_after: FoundAfter) -> None:
    """By its name, and nothing else with it."""
    assert found_after("SELECT 1") == set()
    for expected, change in TICKET_DAMAGE:
        assert found_after(change) == expected, change


def test_what_the_service_mends_is_no_damage(found_after: FoundAfter) -> None:
    """Nor is anything where nobody works."""
    for why, change in TICKETS_CALM.items():
        assert found_after(change) == set(), why


async def test_a_ticket_that_is_mended_meanwhile(office_url: str) -> None:
    """The second look decides: another task may lack a ticket by then, and that is none either."""
    with psycopg.connect(office_url, autocommit=True) as connection:

        def change(before: str, after: str) -> Any:
            return connection.execute(
                f"UPDATE dbos.workflow_status SET workflow_uuid = '{after}'"  # noqa: S608
                f" WHERE workflow_uuid = '{before}'".encode()
            )

        def meanwhile(_: float) -> None:
            change("x", "ready")
            change("again/1", "x")

        change("ready", "x")
        assert examine(office_url, meanwhile).sound
        (finding,) = examine(office_url, lambda _: None).findings.shown
    assert finding.sentence.startswith("Task again has been ready for ")
    assert finding.sentence.endswith(" s, and its ticket is missing.")


def test_every_query_of_the_tickets_is_one_that_is_asked(replica_url: str) -> None:
    """Those that only PostgreSQL has; the embedded database has no tickets, and none of its queries."""
    names = load_queries("sql_postgres").keys()
    assert names == {"ticket_columns", "tickets_of_line", "tickets_left"}
    assert not names & load_queries().keys()
    with snapshot_at(replica_url) as tx:
        assert len(tx.all("ticket_columns")) > 30


def test_the_doctor_may_take_its_time(replica_url: str) -> None:
    """Who writes is cut off after five silent seconds; a snapshot holds nothing that others wait for."""
    with snapshot_at(replica_url) as tx:
        assert isinstance(tx, PostgresTx)
        shown = tx._link.simple("SHOW idle_in_transaction_session_timeout").get_value(0, 0)
    assert shown == b"1min"
