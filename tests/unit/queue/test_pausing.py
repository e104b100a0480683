"""Pausing: a task waits for its budget without a slot, and goes on by itself once it can be paid."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.budget.accounts import ServiceLimits, open_account, set_limit, set_service_limits
from app.budget.scopes import Scope, resets_at_us, service_windows, session_scope, task_scope
from app.domain.clock import US_PER_S
from app.domain.errors import BudgetExhausted, StaleLease, TaskFinished
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome, Subject, TaskStatus
from app.journal.events import TaskFinished as Finished
from app.journal.events import TaskPaused, TaskResumed
from app.journal.feed import Feed
from app.journal.journal import read_all
from app.queue import verbs
from app.queue.embedded import EmbeddedQueue
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from tests.support.clock import START_US, FakeClock, yielded
from tests.support.seeding import accepted, claim_now, claimed, lease_of, row_of

LIMIT, NEEDED = 1_000, 300
TASK, SESSION = task_scope("t"), session_scope(LOCAL_OWNER, "s")
DAY_S = 86_400
ANSWERED = Conclusion(Outcome.ANSWERED, "x")


def cause(scope: Scope = TASK, needed: int = NEEDED) -> BudgetExhausted:
    """All of the scope's budget but 200 is spent."""
    return BudgetExhausted(
        scope=scope.kind,
        scope_id=scope.id,
        limit_nano=LIMIT,
        spent_nano=800,
        reserved_nano=50,
        needed_nano=needed,
        resets_at_us=resets_at_us(scope),
    )


async def spend(store: SqliteStore, scope: Scope, nano: int = 800) -> None:
    """Let this much of a budget of 1,000 be spent."""

    def op(tx: Tx) -> None:
        open_account(tx, scope, LOCAL_OWNER, LIMIT)
        set_limit(tx, scope, LIMIT)
        booked = {"held_nano": 0, "spent_nano": nano, "surplus_nano": 0}
        tx.one("book", scope=scope.kind, id=scope.id, **booked)

    await store.write(op)


async def paused(office: Any, scope: Scope = TASK, **given: Any) -> Claim:
    """A task that waits for a budget of which 800 of 1,000 are spent."""
    claim = await claimed(office.store, **given)
    await spend(office.store, scope)
    assert await office.store.write(lambda tx: verbs.pause(tx, claim.subject, cause(scope)))
    return claim


async def resumed(office: Any) -> int:
    """How many tasks can go on."""
    found: int = await office.store.write(lambda tx: verbs.resume(tx, 9))
    return found


async def raise_to(office: Any, scope: Scope, nano: int) -> None:
    """Set a limit, as its endpoint does."""
    await office.store.write(lambda tx: set_limit(tx, scope, nano))


async def test_a_paused_task_says_why_and_holds_nothing(office):
    """No lease, no run; what it waits for is in its row and in the journal."""
    claim = await paused(office)
    row = await row_of(office.store)
    assert (row["status"], row["lease_owner"], row["outcome"]) == ("paused", None, None)
    told = orjson.loads(row["paused_json"])
    assert told == {
        "reason": "budget",
        "scope": "task",
        "scope_id": "t",
        "limit_nano": 1_000,
        "spent_nano": 800,
        "reserved_nano": 50,
        "needed_nano": 300,
        "resets_at_us": None,
    }
    event = (await read_all(office.store, claim.subject))[-1].event
    assert event == TaskPaused(**told)
    assert await office.store.write(lambda tx: claim_now(tx, 9)) == []


async def test_only_the_run_that_holds_it_can_pause_it(office):
    """Neither a stale run nor one that was asked to cancel; nothing is written then."""
    claim = await claimed(office.store)
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us))
    (again,) = await office.store.write(lambda tx: claim_now(tx, 1, "w2"))
    assert not await office.store.write(lambda tx: verbs.pause(tx, claim.subject, cause()))
    await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert not await office.store.write(lambda tx: verbs.pause(tx, again.subject, cause()))
    assert (await row_of(office.store))["status"] == "cancelling"
    events = [entry.event for entry in await read_all(office.store, claim.subject)]
    assert not any(isinstance(event, TaskPaused) for event in events)


@pytest.mark.parametrize(("limit", "count"), [(1_000, 0), (1_099, 0), (1_100, 1), (9_999, 1)])
async def test_the_budget_it_waits_for_must_pay_what_it_needs(office, limit, count):
    """A raise that is too small resumes nobody; one that pays the smallest call does."""
    await paused(office)
    await raise_to(office, TASK, limit)
    assert await resumed(office) == count
    assert (await row_of(office.store))["status"] == ("queued" if count else "paused")


async def test_another_budget_does_not_resume_it(office):
    """Only the one that was spent counts; then it can be claimed for a further run, its steps kept."""
    claim = await paused(office)
    await raise_to(office, SESSION, 10**12)
    assert await resumed(office) == 0
    await raise_to(office, TASK, 10**12)
    assert await resumed(office) == 1
    assert await resumed(office) == 0
    assert (await row_of(office.store))["paused_json"] is None
    (again,) = await office.store.write(lambda tx: claim_now(tx, 1))
    assert again.subject.run == claim.subject.run + 1
    names = [entry.event.name for entry in await read_all(office.store, claim.subject)]
    assert names[2:] == ["task_paused", "task_resumed", "task_claimed"]


async def test_paused_for_one_budget_and_then_for_another(office):
    """What it waits for is always the latest."""
    await paused(office)
    await raise_to(office, TASK, 10**12)
    await resumed(office)
    (again,) = await office.store.write(lambda tx: claim_now(tx, 1))
    await spend(office.store, SESSION)
    await office.store.write(lambda tx: verbs.pause(tx, again.subject, cause(SESSION)))
    assert orjson.loads((await row_of(office.store))["paused_json"])["scope"] == "session"
    await raise_to(office, TASK, 10**13)
    assert await resumed(office) == 0
    await raise_to(office, SESSION, 10**12)
    assert await resumed(office) == 1


async def test_the_deadline_stands_still(office):
    """It does not pass while the task waits, and has moved by the wait afterwards; each time anew."""
    claim = await paused(office, deadline_s=100.0)
    for count in (1, 2):
        office.clock.move(5_000)
        assert await office.store.write(lambda tx: verbs.expire(tx, 9)) == 0
        await raise_to(office, TASK, 10**12)
        await resumed(office)
        row = await row_of(office.store)
        assert row["deadline_at_us"] == claim.deadline_at_us + count * 5_000 * US_PER_S
        (again,) = await office.store.write(lambda tx: claim_now(tx, 1))
        await raise_to(office, TASK, LIMIT)
        await office.store.write(lambda tx, held=again: verbs.pause(tx, held.subject, cause()))
    told = [entry.event for entry in await read_all(office.store, claim.subject)]
    assert [e.paused_s for e in told if isinstance(e, TaskResumed)] == [5_000.0, 5_000.0]


async def test_a_clock_that_goes_back_takes_no_time_from_the_deadline(office):
    """A pause of less than nothing counts as none."""
    claim = await paused(office)
    office.clock.move(-60)
    await raise_to(office, TASK, 10**12)
    await resumed(office)
    assert (await row_of(office.store))["deadline_at_us"] == claim.deadline_at_us


async def test_cancel_of_a_paused_task_is_its_end(office):
    """Nobody runs it: it is cancelled at once, and no raise brings it back."""
    await paused(office)
    status = await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert status is TaskStatus.CANCELLED
    row = await row_of(office.store)
    assert (row["status"], row["outcome"], row["paused_json"]) == ("cancelled", "cancelled", None)
    await raise_to(office, TASK, 10**12)
    assert await resumed(office) == 0
    with pytest.raises(TaskFinished):
        await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))


@pytest.mark.parametrize(("month", "wait_days"), [(False, 1), (True, 9)])
async def test_a_window_that_is_over_resumes_it(office, month, wait_days):
    """Not a second before the next day, or month, begins."""
    window = service_windows(office.clock.now_us())[month]
    await paused(office, window)
    told = orjson.loads((await row_of(office.store))["paused_json"])
    office.clock.move(wait_days * DAY_S - DAY_S // 2 - 1)
    assert await resumed(office) == 0
    office.clock.move(1)
    assert office.clock.now_us() == told["resets_at_us"]
    assert await resumed(office) == 1


@pytest.mark.parametrize("limit", [None, 5_000])
async def test_a_service_budget_that_is_raised_or_gone_resumes_it(office, limit):
    """The settings of the next start count for the window that is open, too."""
    window = service_windows(office.clock.now_us())[0]
    await paused(office, window)
    await office.store.write(lambda tx: set_service_limits(tx, ServiceLimits(day_nano=limit)))
    assert await resumed(office) == 1


async def test_the_most_urgent_go_on_first(office):
    """As many as are asked for, by priority and age."""
    for number, priority in enumerate((5, 0, -5)):
        await accepted(office.store, f"t{number}", priority=priority)
    for claim in await office.store.write(lambda tx: claim_now(tx, 9)):
        await office.store.write(
            lambda tx, held=claim: verbs.pause(tx, held.subject, cause(SESSION))
        )
    assert await office.store.write(lambda tx: verbs.resume(tx, 2)) == 2
    statuses = [(await row_of(office.store, f"t{number}"))["status"] for number in range(3)]
    assert statuses == ["paused", "queued", "queued"]


async def test_the_queue_hands_it_out_again_by_itself(office):
    """Whoever raises the budget, in whatever way: within a sweep a worker has the task."""
    claim = await paused(office)
    await office.queue.start()
    waiting = asyncio.create_task(office.queue.next())
    await yielded(50)
    assert not waiting.done()
    await raise_to(office, TASK, 10**12)
    office.clock.move(1)
    again = await asyncio.wait_for(waiting, 10)
    assert again.subject.run == claim.subject.run + 1


async def test_a_resume_wakes_the_queue_at_once(office):
    """No sweep is needed when it was resumed together with the raise."""
    await paused(office)
    await office.queue.start()
    waiting = asyncio.create_task(office.queue.next())
    await yielded(50)
    assert office.queue.depth == 0
    await raise_to(office, TASK, 10**12)
    await resumed(office)
    again = await asyncio.wait_for(waiting, 10)
    assert again is not None
    assert again.subject.task_id == "t"


async def test_a_restart_finds_what_is_paused(office):
    """Another queue over the same store, and a raise long after it began."""
    await paused(office)
    lease = await lease_of(office.store, "w2")
    queue = EmbeddedQueue(office.store, office.clock, lease=lease, limit=5)
    office.store.listener = Feed(queue.on_event).publish
    await queue.start()
    try:
        waiting = asyncio.create_task(queue.next())
        await yielded(50)
        assert not waiting.done()
        await raise_to(office, TASK, 10**12)
        office.clock.move(1)
        again = await asyncio.wait_for(waiting, 10)
        assert again is not None
        assert again.subject.task_id == "t"
    finally:
        await queue.stop()


VERBS: dict[str, Callable[[Tx, Subject], Any]] = {
    "claim": lambda tx, _: claim_now(tx, 1),
    "pause": lambda tx, subject: verbs.pause(tx, subject, cause()),
    "resume": lambda tx, _: verbs.resume(tx, 9),
    "cancel": lambda tx, _: verbs.cancel(tx, LOCAL_OWNER, "t"),
    "expire": lambda tx, _: verbs.expire(tx, 9),
    "give_back": lambda tx, subject: verbs.give_back(tx, subject, "drain", tx.now_us),
    "raise": lambda tx, _: set_limit(tx, TASK, 10**9),
    "lower": lambda tx, _: set_limit(tx, TASK, LIMIT),
    "finish": lambda tx, subject: verbs.finish(tx, subject, ANSWERED),
}


@dataclass
class Walk:
    """One task, and how long it has stood still."""

    store: SqliteStore
    clock: FakeClock
    subject: Subject
    status: str = "queued"
    paused_at_us: int = 0
    stood_us: int = 0

    async def step(self, verb: str) -> None:
        """Ask for one verb, a while later; being refused is an answer, too."""
        self.clock.move(90)
        with suppress(TaskFinished, StaleLease):
            done = await self.store.write(lambda tx: VERBS[verb](tx, self.subject))
            if verb == "claim" and done:
                self.subject = done[0].subject
        row = await row_of(self.store)
        self._follow(row["status"])
        held = row["status"] in ("running", "cancelling")
        assert (row["lease_owner"] is not None) == held
        assert (row["paused_json"] is not None) == (row["status"] == "paused")
        assert row["deadline_at_us"] == START_US + 1_000 * US_PER_S + self.stood_us

    def _follow(self, status: str) -> None:
        before, self.status = self.status, status
        assert status == before or not TaskStatus(before).terminal
        if status == "paused" != before:
            assert before == "running"
            self.paused_at_us = self.clock.now_us()
        elif before == "paused" != status:
            assert status in ("queued", "cancelled", "succeeded")
            if status == "queued":
                self.stood_us += self.clock.now_us() - self.paused_at_us


async def _walked(folder: Path, steps: list[str]) -> None:
    store = SqliteStore(folder, clock := FakeClock())
    walk = Walk(store, clock, await accepted(store, deadline_s=1_000.0))
    await spend(store, TASK)
    for verb in steps:
        await walk.step(verb)
    entries = await read_all(store, walk.subject)
    ends = sum(isinstance(entry.event, Finished) for entry in entries)
    assert ends == int(TaskStatus(walk.status).terminal)
    await store.close()


@settings(max_examples=60)
@given(st.lists(st.sampled_from(sorted(VERBS)), max_size=30))
def test_any_order_of_verbs_keeps_the_drawing(steps: list[str]) -> None:
    """Paused or not, held or not, ended once, and never by a deadline that stood still."""
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(_walked(Path(folder), ["claim", "pause", *steps]))
