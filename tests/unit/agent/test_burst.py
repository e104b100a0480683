"""Tasks that come at once with the same prefix: who goes first, who waits, and for how long."""

import asyncio
from typing import Any

from app.agent.burst import HOLD_S, PREFIXES_LIMIT, STEADY, Bursts, Place
from app.domain.clock import SystemClock
from tests.support.clock import FakeClock, yielded

KEY = 7


def entering(bursts: Bursts, *, writes: bool = True) -> "asyncio.Task[Place]":
    """One more asker."""
    return asyncio.ensure_future(bursts.enter(KEY, writes=writes))


async def settled(*tasks: "asyncio.Task[Any]") -> None:
    """Let everybody go as far as they can."""
    del tasks
    for _ in range(5):
        await yielded()


async def test_one_goes_first_and_the_others_read() -> None:
    """They wait for its answer, not only until it has left."""
    bursts = Bursts(FakeClock(), 10.0)
    first = await entering(bursts)
    others = [entering(bursts) for _ in range(3)]
    await settled(*others)
    assert first.leads
    assert not any(other.done() for other in others)
    bursts.leave(first, cached=True)
    assert all([(await other).shared for other in others])


async def test_when_the_first_fails_the_next_goes_first() -> None:
    """One of them, not all."""
    bursts = Bursts(FakeClock(), 10.0)
    first, others = await entering(bursts), [entering(bursts) for _ in range(3)]
    await settled(*others)
    bursts.leave(first, cached=None)
    await settled(*others)
    (second,) = [await other for other in others if other.done()]
    assert second.leads
    bursts.leave(second, cached=True)
    assert [(await other).leads for other in others].count(True) == 1


async def test_nobody_waits_for_longer_than_that() -> None:
    """Who has waited long enough asks without."""
    bursts = Bursts(SystemClock(), 0.01)
    await bursts.enter(KEY, writes=True)
    late = await bursts.enter(KEY, writes=True)
    assert (late.leads, late.shared) == (False, False)


async def test_a_stop_lets_everybody_go() -> None:
    """And nobody waits after it."""
    bursts = Bursts(FakeClock(), 1_000.0)
    await bursts.enter(KEY, writes=True)
    waiting = entering(bursts)
    await settled(waiting)
    bursts.release()
    assert not (await waiting).shared
    assert not (await bursts.enter(KEY, writes=True)).leads


async def test_an_interrupted_wait_leaves_no_trace() -> None:
    """Neither of who waited for the first, nor of who looked out for others."""
    bursts = Bursts(FakeClock(), 1_000.0)
    plain = await bursts.enter(KEY, writes=False)
    looking = entering(bursts, writes=False)
    await settled(looking)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    again = entering(bursts, writes=False)
    await settled(again)
    assert not again.done()
    third = await bursts.enter(KEY, writes=False)
    assert (third.leads, third.shared) == (True, True)
    bursts.leave(plain, cached=None)
    bursts.leave(third, cached=True)
    assert (await again).shared


async def test_single_calls_write_only_what_is_surely_read() -> None:
    """The first asks plainly, the second looks out for a third for a moment, and that one writes for both."""
    bursts = Bursts(SystemClock(), 10.0)
    first = await bursts.enter(KEY, writes=False)
    assert (first.leads, first.shared) == (False, False)
    second = await bursts.enter(KEY, writes=False)
    assert (second.leads, second.shared) == (False, False)
    assert HOLD_S < 1


async def test_a_steady_flow_is_written_for_whoever_comes_next() -> None:
    """After so many within five minutes; a lull makes it forget them."""
    clock = FakeClock()
    bursts = Bursts(clock, 10.0)
    for _ in range(STEADY):
        place = await bursts.enter(KEY, writes=False)
        assert not place.shared
        bursts.leave(place, cached=None)
        clock.move(10)
    place = await bursts.enter(KEY, writes=False)
    assert (place.leads, place.shared) == (True, True)
    bursts.leave(place, cached=True)
    assert (await bursts.enter(KEY, writes=False)).shared
    clock.move(600)
    assert not (await bursts.enter(KEY, writes=False)).shared


async def test_what_was_not_there_is_not_believed_again() -> None:
    """An entry may be gone before its time."""
    bursts = Bursts(FakeClock(), 10.0)
    bursts.leave(await bursts.enter(KEY, writes=True), cached=True)
    bursts.leave(await bursts.enter(KEY, writes=True), cached=False)
    assert (await bursts.enter(KEY, writes=True)).leads


async def test_it_remembers_only_so_many_prefixes() -> None:
    """Names come from outside."""
    bursts = Bursts(FakeClock(), 10.0)
    for key in range(PREFIXES_LIMIT + 10):
        bursts.leave(await bursts.enter(key, writes=False), cached=None)
    assert len(bursts._prefixes) == PREFIXES_LIMIT


async def test_however_many_ask_it_remembers_only_so_many() -> None:
    """The oldest is still asking: it gets its answer, but nobody else is kept in mind for its sake."""
    bursts = Bursts(FakeClock(), 10.0)
    places = [await bursts.enter(key, writes=True) for key in range(PREFIXES_LIMIT + 10)]
    assert len(bursts._prefixes) == PREFIXES_LIMIT
    for place in places:
        bursts.leave(place, cached=True)
