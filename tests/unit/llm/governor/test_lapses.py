"""Turns that are held for tasks that do not come: they lapse, or are given up, and nobody waits behind them."""

from collections.abc import Iterator

import pytest

from app.llm.governor.breaker import OPENS_AT, BreakerState
from app.llm.governor.governor import PROMISE_S, Governor, GovernorLimits
from tests.support.clock import SteppedClock
from tests.support.provider import HAIKU, status
from tests.unit.llm.governor.test_governor import Gate, call

NAMES = [f"t{number}" for number in range(5)]


@pytest.fixture
def wide() -> Iterator[Gate]:
    """A gate with room for fifty, whose tasks give their slots back at once."""
    yield from _gate(50)


@pytest.fixture
def narrow() -> Iterator[Gate]:
    """A gate with room for one."""
    yield from _gate(1)


def _gate(room: int) -> Iterator[Gate]:
    clock = SteppedClock()
    governor = Governor(clock, GovernorLimits(room, room, 0.001))
    made = Gate(governor, clock)
    governor.on_turn = made.called.append
    yield made
    governor.begin_drain()


async def test_a_probe_that_nobody_makes_goes_round(wide: Gate) -> None:
    """Half open, each of the waiting is called to ask, one at a time, and none comes; whoever comes then asks alone."""
    for permit in [wide.passed(call(f"f{number}")) for number in range(OPENS_AT)]:
        permit.failed(status(529, "overloaded_error"), None)
    for name in NAMES:
        await wide.parked(call(name))
    (road,) = wide.governor.roads()
    await wide.clock.step(2.1)
    for count in range(1, len(NAMES) + 1):
        assert wide.called == NAMES[:count]
        assert list(road.promised) == [NAMES[count - 1]]
        assert (wide.in_flight, road.lane.concurrency.in_flight) == (1, 1)
        assert wide.governor.enter(call("other")) is None, "one asks"
        await wide.clock.step(PROMISE_S + 0.1)
    assert (wide.in_flight, len(road.promised), len(road.line)) == (0, 0, 0)
    assert wide.governor.outage_s(HAIKU) is not None, "nobody has found out"
    probe = wide.passed(call(NAMES[0]))
    assert probe.probe
    assert wide.governor.enter(call("other")) is None
    probe.answered(None, None)
    assert road.lane.state(wide.clock.monotonic_s()) is BreakerState.CLOSED
    wide.passed(call("other")).unused()


async def test_a_probe_whose_task_has_gone_on_elsewhere_is_the_next_ones(wide: Gate) -> None:
    """A hint gives up the turn: the next is called at once, not when it would have lapsed."""
    for permit in [wide.passed(call(f"f{number}")) for number in range(OPENS_AT)]:
        permit.failed(status(529, "overloaded_error"), None)
    for name in NAMES:
        await wide.parked(call(name))
    await wide.clock.step(2.1)
    for count in range(1, len(NAMES)):
        wide.governor.forget(NAMES[count - 1])
        assert wide.called == NAMES[: count + 1]
    assert wide.passed(call(NAMES[-1])).probe
    assert wide.in_flight == 1


async def test_a_late_permit_of_a_lapsed_turn_ends_nothing_twice(narrow: Gate) -> None:
    """Its room was given to the next; whoever held it and ends it now takes none away."""
    first = narrow.passed(call("first"))
    for name in NAMES[:2]:
        await narrow.parked(call(name))
    first.answered(None, None)
    (road,) = narrow.governor.roads()
    late = road.promised[NAMES[0]].permit
    await narrow.clock.step(PROMISE_S + 0.1)
    assert narrow.called == NAMES[:2]
    late.unused()
    late.lapsed()
    assert narrow.in_flight == 1
    narrow.passed(call(NAMES[1])).answered(None, None)
    assert narrow.in_flight == 0


async def test_many_are_forgotten_at_once(narrow: Gate) -> None:
    """A thousand have gone, the one whose turn is held among them: none of them is called, who is left is."""
    first = narrow.passed(call("first"))
    gone = [f"g{number}" for number in range(1_000)]
    for number, name in enumerate([*gone[:500], "left", *gone[500:]]):
        await narrow.parked(call(name, f"s{number % 7}"))
    first.answered(None, None)
    assert narrow.called == gone[:1]
    narrow.governor.forget(*gone)
    assert narrow.called == ["g0", "left"]
    assert list(narrow.governor.kept()) == ["left"]
    narrow.passed(call("left")).answered(None, None)
    assert narrow.in_flight == 0
    assert narrow.governor.enter(call("late")) is not None
