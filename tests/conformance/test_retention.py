"""Old tasks are taken away in small bites; every sum of money is what it was. On every adapter."""

from typing import Any, cast

import pytest

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.doctor.examination import examine_store
from app.domain.clock import US_PER_S
from app.domain.errors import BudgetExhausted
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome
from app.journal.call_events import ModelAnswered, RetryScheduled
from app.journal.journal import append
from app.queue import verbs
from app.queue.retention import ENTRIES_LIMIT, drop_entries, sweep, take_away
from app.store.port import ListenedStore, Tx
from tests.support.clock import FakeClock
from tests.support.events import example
from tests.support.seeding import accept, claim_now, scopes_of, spec
from tests.support.stores import Look, OpenStore

PAUSE_S = 0.05
DAY_S = 86_400


@pytest.fixture
def clock() -> FakeClock:
    """The store's and the sweep's."""
    return FakeClock()


@pytest.fixture
def store(open_store: OpenStore, clock: FakeClock) -> ListenedStore:
    """An empty store."""
    return open_store(clock)


def _claimed(tx: Tx, task_id: str, session_id: str = "s", **given: Any) -> Claim:
    accept(tx, task_id, spec(**given), session_id=session_id)
    (claim,) = claim_now(tx, 1)
    return claim


def _end(tx: Tx, claim: Claim, entries: int = 0) -> None:
    """Pay one answer and finish, with so many entries more."""
    attempt = Attempt(claim.subject, 1, 1, "m", "p")
    assert reserve(tx, attempt, scopes_of(claim.subject), 100) is None
    assert settle(tx, attempt.id, Kind.CONFIRMED, 40) is not None
    tx.run("record_step", id=claim.subject.task_id, run=claim.subject.run, step=1)
    append(tx, claim.subject, example(ModelAnswered), b"{}")
    for _ in range(entries):
        append(tx, claim.subject, example(RetryScheduled))
    verbs.finish(tx, claim.subject, Conclusion(Outcome.ANSWERED, result="yes"))


def _ended(tx: Tx, task_id: str, **given: Any) -> None:
    entries = given.pop("entries", 0)
    _end(tx, _claimed(tx, task_id, **given), entries)


async def _money(store: ListenedStore) -> list[Any]:
    """Every sum that the API shows."""
    session = {"owner": LOCAL_OWNER, "session_id": "s"}
    span = {"owner": LOCAL_OWNER, "from_us": 0, "to_us": 2**62, "limit": 99}
    place = {"at_us": -1, "task_id": "", "step": 0, "attempt": 0, "ended": 0, "limit": 99}

    def op(tx: Tx) -> list[Any]:
        found = [tx.all(f"usage_by_{kind}", **span) for kind in ("model", "session", "key", "day")]
        found += [tx.all("totals_of_session", **session)]
        found += [tx.all("ledger_of_session", **session, **place)]
        found += [tx.all("accounts_page", scope="", id="", limit=99)]
        return [[dict(cast("Any", row)) for row in rows] for rows in found]

    return await store.read(op)


async def _task_ids(store: ListenedStore) -> list[str]:
    rows = await store.read(lambda tx: tx.all("checkup_tasks", after="", limit=9_999))
    return [row["id"] for row in rows]


async def test_old_tasks_go_and_their_money_stays(
    store: ListenedStore, clock: FakeClock, look: Look
) -> None:
    """Rows, journals and results are gone; usage, sessions, ledger and balances are the same, without a drift."""
    await store.write(lambda tx: _ended(tx, "old"))
    await store.write(lambda tx: _ended(tx, "own", session_id="another"))
    clock.move(2 * DAY_S)
    await store.write(lambda tx: _ended(tx, "young"))
    before, before_us = await _money(store), clock.now_us() - DAY_S * US_PER_S
    assert await sweep(store, clock, before_us, PAUSE_S) == 2
    assert await _task_ids(store) == ["young"]
    assert look("SELECT DISTINCT subject FROM events") == [("young",)]
    assert await _money(store) == before
    report = await store.read(examine_store)
    assert (report.tasks, report.drifts, dict(report.findings.counts)) == (1, (), {})
    assert await sweep(store, clock, before_us, PAUSE_S) == 0


async def test_what_has_not_ended_stays(store: ListenedStore, clock: FakeClock) -> None:
    """However old: waiting, running, paused."""

    def op(tx: Tx) -> None:
        claim = _claimed(tx, "paused")
        verbs.pause(tx, claim.subject, _exhausted())
        _claimed(tx, "running")
        accept(tx, "waiting", spec())

    await store.write(op)
    clock.move(900 * DAY_S)
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 0
    assert await _task_ids(store) == ["paused", "running", "waiting"]


def _exhausted() -> BudgetExhausted:
    return BudgetExhausted(
        scope="task", scope_id="paused", limit_nano=1, spent_nano=1, reserved_nano=0, needed_nano=9
    )


async def test_a_task_ended_lately_stays(store: ListenedStore, clock: FakeClock) -> None:
    """Its end counts, not its beginning."""
    claim = await store.write(lambda tx: _claimed(tx, "long"))
    clock.move(30 * DAY_S)
    await store.write(lambda tx: _end(tx, claim))
    assert await sweep(store, clock, clock.now_us() - DAY_S * US_PER_S, PAUSE_S) == 0
    clock.move(1)
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 1


async def test_a_parent_waits_for_its_sub_tasks(store: ListenedStore, clock: FakeClock) -> None:
    """A sub-task draws on its account: it goes after the last of them."""

    def op(tx: Tx) -> Claim:
        _ended(tx, "a-parent")
        _ended(tx, "child-1", ancestors=("a-parent",))
        return _claimed(tx, "child-2", ancestors=("a-parent",))

    child = await store.write(op)
    clock.move(DAY_S)
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 1
    assert await _task_ids(store) == ["a-parent", "child-2"]
    await store.write(lambda tx: _end(tx, child))
    clock.move(1)
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 1
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 1
    assert await _task_ids(store) == []


async def test_each_write_is_small(store: ListenedStore, clock: FakeClock, look: Look) -> None:
    """A long journal goes bite by bite, from its end: what is left of it has no gap, and doctor knows."""
    length = 3 * ENTRIES_LIMIT
    await store.write(lambda tx: _ended(tx, "long", entries=length - 4))
    await store.write(lambda tx: _ended(tx, "next"))
    clock.move(1)
    before_us = clock.now_us()
    seen, taken = await store.write(lambda tx: take_away(tx, ["long", "next"], before_us))
    assert (seen, taken) == (1, 1)
    for left in (2 * ENTRIES_LIMIT, ENTRIES_LIMIT):
        found = look("SELECT COUNT(*), MIN(seq), MAX(seq) FROM events WHERE subject = 'long'")
        assert found == [(left, 1, left)]
        assert (await store.read(examine_store)).sound
        assert await store.write(drop_entries)
    assert not await store.write(drop_entries)
    assert look("SELECT DISTINCT subject FROM events") == [("next",)]
    assert await sweep(store, clock, before_us, PAUSE_S) == 1


async def test_a_sweep_that_was_interrupted(store: ListenedStore, clock: FakeClock) -> None:
    """The next one finishes what is left, also when nothing else is due."""
    await store.write(lambda tx: _ended(tx, "long", entries=100))
    clock.move(1)
    before_us = clock.now_us()
    await store.write(lambda tx: take_away(tx, ["long"], before_us))
    assert await sweep(store, clock, before_us, PAUSE_S) == 0
    assert not await store.write(drop_entries)


async def test_many_pages_and_owners(store: ListenedStore, clock: FakeClock) -> None:
    """Every page of every owner is looked at, with a pause after each write."""

    def op(tx: Tx) -> None:
        for number in range(450):
            _ended(tx, f"t-{number:04}")

    await store.write(op)
    clock.move(1)
    assert await sweep(store, clock, clock.now_us(), PAUSE_S) == 450
    assert await _task_ids(store) == []
    assert len(clock.slept) > 450 * 4 / (ENTRIES_LIMIT + 8)
    assert set(clock.slept) == {PAUSE_S}


async def test_a_task_that_is_not_due_any_more(store: ListenedStore, clock: FakeClock) -> None:
    """It is looked at again in the write that would take it away."""
    await store.write(lambda tx: _ended(tx, "young"))
    now_us = clock.now_us()
    assert await store.write(lambda tx: take_away(tx, ["young", "none"], now_us)) == (2, 0)
    assert await _task_ids(store) == ["young"]
