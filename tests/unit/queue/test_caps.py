"""Limits of sessions and keys: how many of their tasks run at once, and what becomes of the others."""

from collections.abc import Callable
from typing import Any

import pytest

from app.budget.keys import create_key
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome
from app.journal.feed import Feed
from app.queue import verbs
from app.queue.caps import Caps, release_held
from app.queue.embedded import EmbeddedQueue
from app.store.port import Tx
from tests.conformance.turns_story import task
from tests.support.seeding import accepted, row_of
from tests.unit.queue.test_verbs import ANSWERED

ONE_EACH = Caps(session=1)


async def claim(office: Any, limit: int = 9, caps: Caps = ONE_EACH) -> list[Claim]:
    """Who is claimed now."""
    found: list[Claim] = await office.store.write(lambda tx: verbs.claim(tx, "w", limit, caps))
    return found


async def ids(office: Any, limit: int = 9, caps: Caps = ONE_EACH) -> list[str]:
    """Their names, in order."""
    return [one.subject.task_id for one in await claim(office, limit, caps)]


async def end(office: Any, claimed: Claim) -> None:
    """The run ends well."""
    await office.store.write(lambda tx: verbs.finish(tx, claimed.subject, ANSWERED))


async def crowd(office: Any, count: int, session_id: str = "crowd", **given: Any) -> None:
    """So many tasks of one session."""
    for number in range(count):
        await accepted(office.store, f"{session_id}-{number:02}", session_id=session_id, **given)


async def test_a_crowded_session_lets_others_pass(office):
    """Two of it run; those of others behind its many are claimed all the same."""
    await crowd(office, 20)
    await crowd(office, 2, "quiet")
    await crowd(office, 1, "calm")
    found = await ids(office, caps=Caps(session=2))
    assert found == ["calm-00", "crowd-00", "crowd-01", "quiet-00", "quiet-01"]
    assert await ids(office, caps=Caps(session=2)) == []


async def test_the_next_one_follows_at_once(office):
    """Whoever leaves lets the next of its session in: the oldest, for however long the line is."""
    await crowd(office, 5)
    for number in range(5):
        (found,) = await claim(office)
        assert found.subject.task_id == f"crowd-{number:02}"
        assert await claim(office) == []
        await end(office, found)


LEAVING: dict[str, Callable[[Tx, Claim], object]] = {
    "finished": lambda tx, one: verbs.finish(tx, one.subject, ANSWERED),
    "failed": lambda tx, one: verbs.finish(tx, one.subject, Conclusion(Outcome.MAX_STEPS)),
    "given back": lambda tx, one: verbs.give_back(tx, one.subject, "retry_wait", tx.now_us + 10**9),
}


@pytest.mark.parametrize("how", LEAVING)
async def test_every_way_out_makes_room(office, how):
    """Finished, failed or given back for later: its place is free."""
    await crowd(office, 2)
    (first,) = await claim(office)
    assert await claim(office) == []
    await office.store.write(lambda tx: LEAVING[how](tx, first))
    assert await ids(office) == ["crowd-01"]


async def test_a_more_urgent_one_goes_first(office):
    """Held back or not, the order within a session is the order of the queue."""
    await crowd(office, 3, priority=5)
    (first,) = await claim(office)
    assert await claim(office) == []
    await accepted(office.store, "urgent", session_id="crowd", priority=0)
    await end(office, first)
    assert await ids(office) == ["urgent"]


async def test_what_is_held_can_be_cancelled_and_expires(office):
    """A held task is a waiting task: it can be cancelled, and its deadline counts."""
    await crowd(office, 3, deadline_s=60)
    await claim(office)
    status = await office.store.write(lambda tx: verbs.cancel(tx, "local", "crowd-01"))
    assert status.terminal
    office.clock.move(61)
    assert await office.store.write(lambda tx: verbs.expire(tx, 9)) == 1
    assert (await row_of(office.store, "crowd-02"))["outcome"] == "deadline"


async def test_one_by_name_keeps_to_the_limits(office):
    """Claimed by name, too, a task over its limit has to wait."""
    await crowd(office, 2)
    (first,) = await claim(office, 1)

    def second(tx: Tx) -> Claim | None:
        return verbs.claim_one(tx, "w", "crowd-01", ONE_EACH)

    assert await office.store.write(second) is None
    assert (await row_of(office.store, "crowd-01"))["held_by"] == "session"
    await end(office, first)
    assert (await row_of(office.store, "crowd-01"))["held_by"] is None
    assert await office.store.write(second) is not None


async def key_of(office: Any, limit: int | None = None) -> str:
    """A new key, with a limit of its own if one is named."""

    def op(tx: Tx) -> str:
        key_id, _ = create_key(tx, "local", "n")
        tx.run("set_key_concurrency", id=key_id, concurrency_limit=limit)
        return key_id

    found: str = await office.store.write(op)
    return found


async def test_keys_have_limits_too(office):
    """Across sessions; a key's own limit goes before the setting; tasks without a key have none."""
    plain, generous = await key_of(office), await key_of(office, 3)
    for number in range(5):
        await accepted(office.store, f"a{number}", session_id=f"s{number}", key_id=plain)
        await accepted(office.store, f"b{number}", session_id=f"t{number}", key_id=generous)
        await accepted(office.store, f"c{number}", session_id=f"u{number}")
    found = await ids(office, 99, Caps(key=1))
    assert sorted(found) == ["a0", "b0", "b1", "b2", "c0", "c1", "c2", "c3", "c4"]


async def test_a_keys_own_limit_needs_no_setting(office):
    """Whoever limits one key has limited it."""
    key = await key_of(office, 1)
    for number in range(3):
        await accepted(office.store, f"a{number}", session_id=f"s{number}", key_id=key)
    assert await ids(office, caps=Caps()) == ["a0"]


async def test_a_limit_that_is_lifted_lets_them_in(office):
    """After a restart with other settings nobody is left behind."""
    await crowd(office, 6)
    await claim(office)
    assert await office.store.write(lambda tx: release_held(tx, ONE_EACH)) == 0
    assert await office.store.write(lambda tx: release_held(tx, Caps(session=3))) == 2
    assert await office.store.write(lambda tx: release_held(tx, Caps())) == 3
    assert len(await ids(office, caps=Caps())) == 5


async def test_held_by_its_key_it_does_not_lose_its_session(office):
    """What one limit keeps out of a free place of the other is found again by the sweep."""
    key = await key_of(office, 1)
    await accepted(office.store, "other", session_id="elsewhere", key_id=key)
    (other,) = await claim(office)
    await accepted(office.store, "first", session_id="s")
    (first,) = await claim(office)
    await accepted(office.store, "keyed", session_id="s", key_id=key)
    office.clock.move(1)
    await accepted(office.store, "free", session_id="s")
    assert await claim(office) == []
    await end(office, first)  # makes room for "keyed", whose key is busy
    assert await claim(office) == []
    assert await office.store.write(lambda tx: release_held(tx, ONE_EACH)) == 1
    (free,) = await claim(office)
    assert free.subject.task_id == "free"
    await end(office, free)
    await end(office, other)
    assert await ids(office) == ["keyed"]


async def test_the_dispatcher_keeps_to_the_limits(office):
    """With many workers free, one of the session at a time, and each as soon as the one before has left."""
    queue = EmbeddedQueue(office.store, office.clock, lease=office.lease, limit=50, caps=ONE_EACH)
    office.store.listener = Feed(queue.on_event).publish
    await crowd(office, 4)
    await queue.start()
    try:
        for number in range(4):
            found = await queue.next()
            assert found is not None
            assert found.subject.task_id == f"crowd-{number:02}"
            (running,) = await office.store.read(
                lambda tx: tx.all("running_of_session", owner=LOCAL_OWNER, session_id="crowd")
            )
            assert running["running_count"] == 1
            await end(office, found)
    finally:
        await queue.stop()


@pytest.mark.parametrize("make_store", ["sqlite"], indirect=True)  # its own way to count steps
async def test_ten_thousand_held_tasks_cost_a_claim_nothing(office):
    """Each is looked at once. After that a claim takes as many steps of the database as with none of them."""
    await accepted(office.store, "template")
    spec = (await row_of(office.store, "template"))["spec"]
    assert await ids(office) == ["template"]
    empty = await steps_of(office)

    def burst(tx: Tx) -> None:
        for number in range(10_000):
            params = {**task("", tx.now_us).params, "session_id": "crowd", "spec": spec}
            tx.run("insert_task", **{**params, "id": f"crowd-{number:05}"})

    await office.store.write(burst)
    claims, rounds, more = 0, 0, True
    while more:
        found, more = await office.store.write(lambda tx: verbs.claim_some(tx, "w", 64, ONE_EACH))
        claims, rounds = claims + len(found), rounds + 1
    assert claims == 1
    assert rounds <= 11
    assert await steps_of(office) <= empty + 50


async def steps_of(office: Any) -> int:
    """How many instructions of the database's machine a claim takes that finds nothing."""
    steps = 0

    def count() -> None:
        nonlocal steps
        steps += 1

    def op(tx: Any) -> None:
        tx._cursor.connection.set_progress_handler(count, 1)
        try:
            assert verbs.claim(tx, "w", 64, ONE_EACH) == []
        finally:
            tx._cursor.connection.set_progress_handler(None, 0)

    await office.store.write(op)
    return steps
