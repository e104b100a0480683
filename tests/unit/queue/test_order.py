"""Who is next: rank by age and priority, tasks that are not due yet, and one task by its name."""

from typing import Any

import pytest

from app.domain.clock import US_PER_S
from app.domain.task import LOCAL_OWNER
from app.journal.journal import read_all
from app.queue import verbs
from app.queue.verbs import AGEING_US
from app.store.queries import load_queries
from tests.support.clock import yielded
from tests.support.seeding import accepted, row_of

AGEING_S = AGEING_US // US_PER_S


async def claimed_ids(office: Any, limit: int = 1) -> list[str]:
    """Who is claimed now, in order."""
    claims = await office.store.write(lambda tx: verbs.claim(tx, "w", limit))
    return [claim.subject.task_id for claim in claims]


async def test_who_waits_long_enough_goes_before_newcomers(office):
    """Newcomers of priority 0 pass a task of priority 9 for nine intervals, and not any longer."""
    await accepted(office.store, "patient", priority=9)
    passed = 0
    while True:
        await accepted(office.store, f"newcomer-{passed}", priority=0)
        if await claimed_ids(office) == ["patient"]:
            break
        passed += 1
        office.clock.move(AGEING_S / 2)
    assert passed == 9 * 2 + 1  # the last of them came at the very instant, and its name goes first


@pytest.mark.parametrize(("waited_s", "first"), [(59, "urgent"), (61, "ordinary")])
async def test_one_level_is_worth_one_interval(office, waited_s, first):
    """A level of priority counts as much as a minute of waiting."""
    await accepted(office.store, "ordinary", priority=1)
    office.clock.move(waited_s)
    await accepted(office.store, "urgent", priority=0)
    assert (await claimed_ids(office))[0] == first


async def test_given_back_it_keeps_its_place(office):
    """A task that a stopping process gave back is not sent to the end of the line."""
    await accepted(office.store, "a")
    office.clock.move(1)
    await accepted(office.store, "b")
    (claim,) = await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    office.clock.move(1)
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us))
    assert await claimed_ids(office) == ["a"]


async def test_a_clock_set_back_turns_no_order_round(office):
    """What waited before the jump goes before what comes after it; who is to wait for an instant still waits."""
    await accepted(office.store, "old")
    await accepted(office.store, "put-off", run_at_us=run_at(office, 60))
    office.clock.move(-3_600)
    await office.store.write(lambda tx: tx.run("wake_parked", now_us=tx.now_us))
    office.clock.move(1)
    await accepted(office.store, "new")
    assert await claimed_ids(office, 9) == ["old", "new"]


def run_at(office: Any, seconds: float) -> int:
    """An instant from now."""
    return int(office.clock.now_us() + seconds * US_PER_S)


async def test_not_before_its_time(office):
    """A task that was put off is claimed at its instant and not before; its deadline counts from there."""
    await accepted(office.store, "later", run_at_us=run_at(office, 3_600), deadline_s=60)
    await accepted(office.store, "now")
    assert await claimed_ids(office, 9) == ["now"]
    office.clock.move(3_599.999)
    assert await claimed_ids(office) == []
    assert await office.store.write(lambda tx: verbs.expire(tx, 9)) == 0
    office.clock.move(0.001)
    (claim,) = await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    assert claim.deadline_at_us == office.clock.now_us() + 60 * US_PER_S
    event: Any = (await read_all(office.store, claim.subject))[-1].event
    assert event.waited_s == 0


async def test_an_instant_in_the_past_is_now(office):
    """Its deadline counts from the acceptance, and it gains no place by it."""
    await accepted(office.store, "first")
    office.clock.move(1)
    await accepted(office.store, "late", run_at_us=run_at(office, -86_400), deadline_s=60)
    assert await claimed_ids(office, 9) == ["first", "late"]
    row = await row_of(office.store, "late")
    assert row["deadline_at_us"] == office.clock.now_us() + 60 * US_PER_S


async def test_put_off_it_can_be_cancelled(office):
    """It ends at once, and is not started at its instant."""
    await accepted(office.store, "later", run_at_us=run_at(office, 60))
    status = await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "later"))
    assert status.terminal
    office.clock.move(61)
    assert await claimed_ids(office) == []


async def test_put_off_tasks_survive_a_restart(office):
    """The dispatcher finds them when it starts, and hands them out at their time."""
    await accepted(office.store, "later", run_at_us=run_at(office, 60))
    await office.queue.start()
    assert office.queue.depth == 1
    next_task = office.queue.next()
    office.clock.move(60)
    claim = await next_task
    assert claim.subject.task_id == "later"


@pytest.mark.parametrize("make_store", ["sqlite"], indirect=True)  # its own way to show a plan
async def test_many_put_off_tasks_are_not_looked_at(office):
    """Whoever is due is found without passing those that are not: they are in another index."""

    def op(tx: Any) -> list[str]:
        plan = tx._cursor.connection.execute(
            "EXPLAIN QUERY PLAN " + load_queries()["claimable_tasks"], {"limit": 1}
        )
        return [row["detail"] for row in plan]

    (step,) = await office.store.write(op)
    assert "tasks_ready" in step
    assert "SCAN" in step  # in the order of the index: no sorting follows


async def test_what_is_put_off_is_not_getting_old(office):
    """It counts as waiting, but not for the age of the queue."""
    await accepted(office.store, "later", run_at_us=run_at(office, 60))
    (state,) = await office.store.read(lambda tx: tx.all("queue_state"))
    assert (state["depth"], state["oldest_at_us"]) == (1, None)
    office.clock.move(60)
    await office.store.write(lambda tx: tx.run("release_due", now_us=tx.now_us, limit=9))
    (state,) = await office.store.read(lambda tx: tx.all("queue_state"))
    assert state["oldest_at_us"] == office.clock.now_us()


async def test_one_task_by_name(office):
    """Whatever its rank; a second time, or before its time, there is nothing to claim."""
    await accepted(office.store, "a")
    await accepted(office.store, "b", priority=9)
    await accepted(office.store, "later", run_at_us=run_at(office, 60))

    async def one(task_id: str) -> str | None:
        claim = await office.store.write(lambda tx: verbs.claim_one(tx, "w", task_id))
        return claim.subject.task_id if claim else None

    assert await one("b") == "b"
    assert await one("b") is None
    assert await one("later") is None
    assert await one("unknown") is None
    office.clock.move(60)
    assert await one("later") == "later"
    assert (await row_of(office.store, "b"))["run_count"] == 1


async def test_one_task_that_was_given_back_for_later(office):
    """A wait of its own counts as well."""
    await accepted(office.store, "a")
    (claim,) = await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    later_us = run_at(office, 30)
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "retry_wait", later_us))
    assert await office.store.write(lambda tx: verbs.claim_one(tx, "w", "a")) is None
    office.clock.move(30)
    again = await office.store.write(lambda tx: verbs.claim_one(tx, "w", "a"))
    assert again.subject.run == 2


async def test_dispatch_wakes_for_what_becomes_due(office):
    """Nobody has to ask: the timer of the acceptance does."""
    await office.queue.start()
    await accepted(office.store, "soon", run_at_us=run_at(office, 0.05))
    waiting = office.queue.next()
    await yielded(3)
    office.clock.move(0.05)
    claim = await waiting
    assert claim.subject.task_id == "soon"
