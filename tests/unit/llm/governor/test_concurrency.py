"""Calls in flight: slowly more, quickly fewer."""

from itertools import pairwise

import pytest

from app.llm.governor.concurrency import FEWEST, Concurrency


def rounds(limit: Concurrency, count: int, now_s: float = 0.0) -> list[int]:
    """So many rounds of as many calls as may leave, all answered; the limit after each."""
    found = []
    for _ in range(count):
        calls = limit.free
        for _ in range(calls):
            limit.enter(now_s)
        for _ in range(calls):
            limit.answered(now_s)
            limit.leave(now_s)
        found.append(int(limit.limit))
    return found


def test_the_start_doubles_with_each_round():
    """A thousand workers do not begin with a thousand calls."""
    growing = rounds(Concurrency(start=10, most=1_000), 4)
    assert growing == sorted(growing)
    assert growing[0] <= 20
    assert growing[-1] <= 160
    assert growing[-1] > 30


def test_it_does_not_grow_while_it_is_not_used():
    """One call after the other says nothing of what many would do."""
    idle = Concurrency(start=10, most=1_000)
    for _ in range(100):
        idle.enter(0.0)
        idle.answered(0.0)
        idle.leave(0.0)
    assert idle.limit == 10


def test_trouble_halves_it_once_a_round():
    """Ten calls that meet the same trouble are one piece of news."""
    busy = Concurrency(start=10, most=1_000)
    epochs = [busy.enter(0.0) for _ in range(10)]
    assert [busy.overloaded(epoch) for epoch in epochs] == [True] + [False] * 9
    assert busy.limit == 5


def test_after_trouble_it_grows_by_one_a_round():
    """Half of what was too much is found quickly again; from there on step by step."""
    busy = Concurrency(start=64, most=1_000)
    epoch = [busy.enter(0.0) for _ in range(64)][-1]
    busy.overloaded(epoch)
    for _ in range(64):
        busy.leave(0.0)
    assert int(busy.limit) == 32
    for before, after in pairwise([32, *rounds(busy, 6)]):
        assert after - before <= 1


@pytest.mark.parametrize(("most", "left"), [(10, FEWEST), (1, 1)])
def test_a_few_calls_are_always_possible(most: int, left: float) -> None:
    """However bad it gets, those that follow do not stand in a queue for one another."""
    bad = Concurrency(start=8, most=most)
    for _ in range(20):
        bad.overloaded(bad.enter(0.0))
        bad.leave(0.0)
    assert bad.limit == left
    assert bad.free == left


def test_after_a_long_silence_it_begins_anew():
    """What held a minute ago may not hold now."""
    rested = Concurrency(start=10, most=1_000)
    rounds(rested, 5)
    assert rested.limit > 10
    rested.enter(61.0)
    assert rested.limit == 10


def test_an_outage_that_ended_is_not_stormed():
    """Two at first, then twice as many with each round up to half of what was, then slowly."""
    back = Concurrency(start=64, most=1_000)
    back.restart(2, 0.0)
    found = [rounds(back, 1, second)[0] for second in range(12)]
    assert found[0] <= 4
    assert all(after <= 2 * before for before, after in pairwise(found))
    assert found[-1] <= 40


def test_short_calls_do_not_speed_the_recovery_up():
    """Many rounds in one second double the limit once; an outage that has just ended may not have ended for all."""
    back = Concurrency(start=64, most=1_000)
    back.restart(2, 0.0)
    assert rounds(back, 50, 0.5)[-1] <= 4
    assert rounds(back, 50, 1.0)[-1] <= 8
    assert rounds(back, 50, 1.5)[-1] <= 8
    for second in range(2, 8):
        rounds(back, 50, float(second))
    assert int(back.limit) >= 32


def test_trouble_after_an_outage_does_not_raise_it():
    """It began with fewer than trouble ever leaves: more trouble is no reason for more calls."""
    back = Concurrency(start=64, most=1_000)
    back.restart(2, 0.0)
    assert back.overloaded(back.enter(0.0))
    assert back.limit == 2
