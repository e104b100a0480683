"""The doctor finds each kind of damage, and nothing in a sound store: on every adapter."""

from collections.abc import Callable

import pytest

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.doctor.cases import CHECKS
from app.doctor.examination import Report, complaints, examine_store
from app.doctor.findings import ADVICE, SHOWN_LIMIT
from app.domain.errors import BudgetExhausted
from app.domain.task import Claim, Conclusion, Outcome, Subject
from app.journal.call_events import ModelAnswered
from app.journal.events import SessionBudgetSet
from app.journal.journal import append
from app.queue import verbs
from app.queue.erasing import erase
from app.store.port import ListenedStore, Tx
from tests.conformance.amount_damage import AMOUNT_DAMAGE
from tests.conformance.ticket_damage import TICKET_DAMAGE
from tests.support.events import example
from tests.support.seeding import accept, accepted, claim_now, scopes_of, spec
from tests.support.stores import Look

Spoil = Callable[[str], None]


def _claimed(tx: Tx, task_id: str) -> Claim:
    accept(tx, task_id, spec())
    (claim,) = claim_now(tx, 1)
    return claim


def _answered(tx: Tx, claim: Claim) -> None:
    attempt = Attempt(claim.subject, 1, 1, "m", "p")
    assert reserve(tx, attempt, scopes_of(claim.subject), 100) is None
    assert settle(tx, attempt.id, Kind.CONFIRMED, 40) is not None
    tx.run("record_step", id=claim.subject.task_id, run=claim.subject.run, step=1)
    append(tx, claim.subject, example(ModelAnswered), b"{}")


def _fill(tx: Tx) -> None:
    """A task of each sort: ended, erased, paused, running with a call in flight, waiting."""
    for task_id in ("done", "gone"):
        claim = _claimed(tx, task_id)
        _answered(tx, claim)
        verbs.finish(tx, claim.subject, Conclusion(Outcome.ANSWERED, result="yes"))
    erase(tx, "local", "gone")
    paused = _claimed(tx, "paused")
    verbs.pause(
        tx,
        paused.subject,
        BudgetExhausted(
            scope="task",
            scope_id="paused",
            limit_nano=9,
            spent_nano=0,
            reserved_nano=0,
            needed_nano=10**12,
        ),
    )
    running = _claimed(tx, "running")
    attempt = Attempt(running.subject, 1, 1, "m", "p")
    assert reserve(tx, attempt, scopes_of(running.subject), 70) is None
    accept(tx, "waiting", spec(), session_id="other")
    for limit in (1, 2):
        append(tx, Subject("session/local/s", "s"), SessionBudgetSet(limit, None))


@pytest.fixture
async def filled(store: ListenedStore) -> ListenedStore:
    """A sound store."""
    await store.write(_fill)
    return store


@pytest.fixture
def spoil(look: Look) -> Spoil:
    """Changes the database past the store; something must change."""

    def change(statement: str) -> None:
        assert look(f"{statement} RETURNING 1"), statement

    return change


async def test_a_sound_store(filled: ListenedStore) -> None:
    """Nothing is found, and everything was looked at."""
    report = await filled.read(examine_store)
    assert (report.drifts, dict(report.findings.counts), report.sound) == ((), {}, True)
    # done: 4, gone: 5, paused: 3, running: 2, waiting: 1, the session: 2
    assert (report.tasks, report.events, report.accounts, report.lines) == (5, 17, 7, 5)


async def test_an_empty_store(store: ListenedStore) -> None:
    """There is nothing to find."""
    report = await store.read(examine_store)
    assert (report.tasks, report.events, report.sound) == (0, 0, True)


LONG_AGO = "UPDATE events SET at_us = at_us - 400000000"
READY = "UPDATE tasks SET available_at_us = 1 WHERE id = 'waiting'"
CANCEL = (
    "UPDATE tasks SET status = 'cancelling' WHERE id = 'running'",
    "INSERT INTO events VALUES ('running', 3, 'cancel_requested', 1, 1, '{}', NULL)",
)
SILENT = "UPDATE events SET at_us = 1 WHERE subject = 'running'"
ROOM = "UPDATE workers SET slots = 2, started_at_us = 1"
DAMAGE: list[tuple[set[str], tuple[str, ...]]] = [
    ({"journal-missing"}, ("DELETE FROM events WHERE subject = 'waiting'",)),
    ({"journal-gap"}, ("DELETE FROM events WHERE subject = 'done' AND seq = 2",)),
    ({"journal-gap"}, ("DELETE FROM events WHERE subject = 'session/local/s' AND seq = 1",)),
    ({"journal-status"}, ("DELETE FROM events WHERE subject = 'done' AND seq = 4",)),
    ({"journal-steps"}, ("UPDATE tasks SET step_count = 2 WHERE id = 'done'",)),
    (
        {"journal-orphan", "journal-missing"},
        ("UPDATE events SET subject = 'zzz' WHERE subject = 'waiting'",),
    ),
    (
        {"journal-orphan", "journal-missing"},
        ("UPDATE events SET subject = 'aaa' WHERE subject = 'waiting'",),
    ),
    ({"journal-orphan", "ledger-orphan"}, ("DELETE FROM tasks WHERE id = 'done'",)),
    ({"journal-runs"}, ("UPDATE tasks SET run_count = 2 WHERE id = 'running'",)),
    ({"journal-runs"}, ("UPDATE tasks SET run_count = 0 WHERE id = 'done'",)),
    (
        {"lease-owner"},
        (
            "UPDATE tasks SET lease_owner = 'v' WHERE id = 'running'",
            "INSERT INTO workers VALUES ('v', 1, 1, 4000000000000000, 0)",
        ),
    ),
    ({"account-missing"}, ("DELETE FROM accounts WHERE id = 'waiting'",)),
    ({"session-missing"}, ("DELETE FROM sessions WHERE id = 's'",)),
    ({"session-missing"}, ("DELETE FROM accounts WHERE id = 'local/other'",)),
    ({"parent-missing"}, ("UPDATE tasks SET parent_id = 'none' WHERE id = 'waiting'",)),
    (
        {"reservation-left", "drift"},
        ("DELETE FROM ledger_lines WHERE task_id = 'done' AND ended = 1",),
    ),
    (
        {"reservation-stale", "journal-status"},
        (
            "UPDATE tasks SET status = 'queued', lease_owner = NULL WHERE id = 'running'",
            "UPDATE ledger_lines SET at_us = 1 WHERE task_id = 'running'",
        ),
    ),
    (
        {"worker-missing"},
        (
            "DELETE FROM workers WHERE id = 'w'",
            "UPDATE events SET at_us = 1 WHERE subject = 'running'",
        ),
    ),
    (
        {"worker-missing"},
        (
            "UPDATE workers SET expires_at_us = 1 WHERE id = 'w'",
            "UPDATE events SET at_us = 1 WHERE subject = 'running'",
        ),
    ),
    (
        {"worker-left"},
        (
            "UPDATE workers SET started_at_us = 1 WHERE id = 'w'",
            "INSERT INTO workers VALUES ('v', 1, 1, 2, 0)",
        ),
    ),
    ({"cancel-unheard"}, (*CANCEL, SILENT)),
    (
        {"worker-missing"},
        (*CANCEL, SILENT, "UPDATE workers SET expires_at_us = 1 WHERE id = 'w'"),
    ),
    ({"queue-unclaimed"}, (LONG_AGO, READY, ROOM)),
    (
        {"pause-without-account", "account-missing"},
        ("DELETE FROM accounts WHERE id = 'paused'",),
    ),
    (
        {"pause-over"},
        ("UPDATE tasks SET paused_at_us = 1, blocked_needed_nano = 5 WHERE id = 'paused'",),
    ),
    (
        {"pause-over"},
        ("UPDATE tasks SET paused_at_us = 1, available_at_us = 1 WHERE id = 'paused'",),
    ),
    (
        {"queue-overdue"},
        ("UPDATE tasks SET held_by = 'time', available_at_us = 1 WHERE id = 'waiting'",),
    ),
    ({"queue-overdue"}, ("UPDATE tasks SET deadline_at_us = 1 WHERE id = 'waiting'",)),
    (
        {"queue-stuck"},
        ("UPDATE tasks SET held_by = 'session', available_at_us = 1 WHERE id = 'waiting'",),
    ),
    (
        {"pruned-alive"},
        ("INSERT INTO pruned_tasks VALUES ('local', 's', 'done', 1, 0)",),
    ),
    (
        {"answer-orphan"},
        ("INSERT INTO answers VALUES ('local', 'k', 'd', 'none', 202, '{}', NULL, 1)",),
    ),
    ({"erasure-incomplete"}, ("UPDATE tasks SET erased_at_us = 5 WHERE id = 'done'",)),
    ({"drift"}, ("UPDATE accounts SET spent_nano = spent_nano + 1 WHERE id = 'done'",)),
]


def _found(report: Report) -> set[str]:
    return set(report.findings.counts) | ({"drift"} if report.drifts else set())


@pytest.mark.parametrize(("expected", "statements"), DAMAGE)
async def test_damage_is_found(
    filled: ListenedStore, spoil: Spoil, expected: set[str], statements: tuple[str, ...]
) -> None:
    """Each kind by its name, with a sentence and what to do."""
    for statement in statements:
        spoil(statement)
    report = await filled.read(examine_store)
    assert _found(report) == expected
    assert not report.sound
    said = complaints(report)
    assert all(ADVICE[check] in " ".join(said) for check in expected)


@pytest.mark.parametrize(
    "statements",
    [
        pytest.param((READY, ROOM), id="a run has begun a moment ago"),
        pytest.param((LONG_AGO, READY, "UPDATE workers SET started_at_us = 1"), id="no slot"),
        pytest.param((LONG_AGO, READY, "UPDATE workers SET slots = 2"), id="workers are new"),
        pytest.param((LONG_AGO, ROOM), id="nothing is ready for long"),
        pytest.param(CANCEL, id="a cancel of a moment ago"),
        pytest.param(
            (
                LONG_AGO,
                "UPDATE tasks SET held_by = 'session', session_id = 's' WHERE id = 'waiting'",
                READY,
                ROOM,
            ),
            id="held back by a limit",
        ),
        pytest.param(
            (
                "UPDATE workers SET started_at_us = 1",
                "INSERT INTO workers SELECT 'v', 1, 1, expires_at_us - 100000060000000, 0 FROM workers",
            ),
            id="a worker is dead for a minute",
        ),
    ],
)
async def test_what_is_no_damage(
    filled: ListenedStore, spoil: Spoil, statements: tuple[str, ...]
) -> None:
    """A line that stands with reason, and what others are about to put right."""
    for statement in statements:
        spoil(statement)
    assert _found(await filled.read(examine_store)) == set()


def test_every_check_is_broken_once() -> None:
    """No check is without a test, and none without advice."""
    tested = {check for expected, _ in (*DAMAGE, *TICKET_DAMAGE) for check in expected}
    assert AMOUNT_DAMAGE, "in the embedded database: tests/unit/test_doctor.py"
    assert tested | {"amount-broken"} == set(ADVICE)
    assert set(CHECKS) < set(ADVICE)


async def test_where_nobody_works(filled: ListenedStore, spoil: Spoil) -> None:
    """A service that is stopped lets everything wait: that is no finding."""
    spoil("UPDATE tasks SET deadline_at_us = 1 WHERE id = 'waiting'")
    spoil("UPDATE workers SET expires_at_us = 1 WHERE id = 'w'")
    assert _found(await filled.read(examine_store)) == set()


async def test_many_findings_are_counted(store: ListenedStore, spoil: Spoil) -> None:
    """Over several pages, in bounded memory: the first are named, the others counted."""
    count = 1_203

    def op(tx: Tx) -> None:
        for number in range(count):
            accept(tx, f"task-{number:05}", spec())

    await store.write(op)
    spoil("UPDATE tasks SET step_count = 7 WHERE id <> 'task-00000'")
    report = await store.read(examine_store)
    assert (report.tasks, report.events) == (count, count)
    assert report.findings.counts == {"journal-steps": count - 1}
    assert len(report.findings.shown) == SHOWN_LIMIT
    assert f"… and {count - 1 - SHOWN_LIMIT} more: journal-steps." in complaints(report)


async def test_what_the_service_puts_right_itself_is_none(
    store: ListenedStore, spoil: Spoil
) -> None:
    """A reservation of a moment ago, and a task paused a moment ago, are left to the service."""
    await store.write(_fill)
    await accepted(store, "fresh")
    spoil("UPDATE tasks SET blocked_needed_nano = 5 WHERE id = 'paused'")
    assert _found(await store.read(examine_store)) == set()
