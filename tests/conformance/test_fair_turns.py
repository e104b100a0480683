"""A burst in the queue: how many claims another session's, or key's, single task waits for, on both stores."""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any

import pytest

from app.domain.task import LOCAL_OWNER
from app.queue import verbs
from app.store.port import ListenedStore
from tests.support.seeding import accepted, claim_now

BURST = 1_000


async def order(store: ListenedStore, count: int, at_once: int = 1) -> list[str]:
    """The next so many tasks, claimed so many at once."""
    found = list[str]()
    while len(found) < count:
        claims = await store.write(lambda tx: claim_now(tx, at_once))
        assert claims, f"only {len(found)} could be claimed"
        found += [claim.subject.task_id for claim in claims]
    return found


async def burst(store: ListenedStore, names: Iterable[str], **given: Any) -> None:
    """These tasks, one after the other."""
    for name in names:
        await accepted(store, name, **given)


def numbered(prefix: str, count: int) -> list[str]:
    """Names in their order."""
    return [f"{prefix}{number:04}" for number in range(count)]


async def test_a_single_task_waits_for_one_of_a_thousand(store):
    """A session has a thousand tasks waiting; another session's task is the second to be claimed."""
    await burst(store, numbered("b", BURST), session_id="burst")
    await accepted(store, "single", session_id="other")
    assert "single" in await order(store, 2)


async def test_a_burst_that_is_being_worked_on_is_no_different(store):
    """Claims have been made of it, in ones and in many: still no more than two go before the newcomer."""
    await burst(store, numbered("b", 60), session_id="burst")
    await order(store, 20)
    await order(store, 20, at_once=20)
    await accepted(store, "single", session_id="other")
    assert "single" in await order(store, 2)


async def test_bursts_take_turns(store):
    """Three sessions with many tasks are served one each a round, each in its own order."""
    for name in ("a", "b", "c"):
        await burst(store, numbered(name, 10), session_id=name)
    found = await order(store, 30)
    for begin in range(0, 30, 3):
        assert {name[0] for name in found[begin : begin + 3]} == {"a", "b", "c"}
    for name in ("a", "b", "c"):
        assert [one for one in found if one.startswith(name)] == numbered(name, 10)


async def test_the_burst_is_not_starved_either(store):
    """Newcomers of ever new sessions keep coming: the burst has its turn among them all the same."""
    await burst(store, numbered("b", 20), session_id="burst")
    found = list[str]()
    for number in range(40):
        await accepted(store, f"n{number:02}", session_id=f"n{number}")
        found += await order(store, 1)
    turns = [at for at, name in enumerate(found) if name.startswith("b")]
    waits = [later - earlier for earlier, later in pairwise(turns)]
    assert waits == sorted(waits)
    assert all(wait <= at + 2 for at, wait in enumerate(waits))  # one more waits in each round


async def test_a_key_cannot_win_by_many_sessions(store):
    """A hundred sessions of one key wait; another key's task is the second to be claimed, and its next the fourth."""
    for number in range(100):
        await accepted(store, f"m{number:03}", session_id=f"m{number}", key_id="many")
    await burst(store, ["f1", "f2"], session_id="few", key_id="few")
    found = await order(store, 102)
    assert found.index("f1") <= 1
    assert found.index("f2") <= 3
    assert [name for name in found if name.startswith("m")] == [f"m{n:03}" for n in range(100)]


async def test_within_a_key_its_sessions_take_turns(store):
    """A burst in one session of a key does not hold up its other session."""
    await burst(store, numbered("b", 50), session_id="burst", key_id="k")
    await accepted(store, "single", session_id="other", key_id="k")
    assert "single" in await order(store, 2)


@pytest.mark.parametrize("at_once", [1, 4])
async def test_priority_rules_within_a_session(store, at_once):
    """Whatever came first, the more urgent of a session's tasks goes first."""
    priorities = [5, 0, 9, 3, 0, 7]
    for number, priority in enumerate(priorities):
        await accepted(store, f"t{number}", priority=priority)
    found = await order(store, len(priorities), at_once)
    assert found == ["t1", "t4", "t3", "t0", "t5", "t2"]


async def test_who_is_in_front_and_is_cancelled_lets_the_next_one_up(store):
    """The place in front does not stay empty: the next of the session is not kept behind newcomers for ever."""
    await burst(store, ["b1", "b2", "b3"], session_id="burst")
    await store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "b1"))
    await accepted(store, "new", session_id="new")
    assert (await order(store, 1)) == ["b2"]


async def test_all_are_claimed_when_there_is_room(store):
    """Fairness leaves no slot empty: with room for all, all are claimed at once."""
    await burst(store, numbered("b", 30), session_id="burst")
    assert len(await store.write(lambda tx: claim_now(tx, 64))) == 30
