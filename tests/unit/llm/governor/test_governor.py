"""Calls at the governor: who leaves, who waits, who gives the slot back, and in which order they go on."""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import pytest

from app.budget.scopes import Payer
from app.domain.clock import US_PER_S
from app.domain.task import LOCAL_OWNER, Subject
from app.llm.call import Call, Parked, Tries
from app.llm.governor.breaker import OPENS_AT, BreakerState
from app.llm.governor.governor import (
    MODELS_LIMIT,
    PROMISE_S,
    ROADS_LIMIT,
    Governor,
    GovernorLimits,
    pool_of,
)
from app.llm.governor.lane import Reason, Told
from app.llm.governor.road import Permit
from app.llm.provider import ModelFailure, ModelRequest
from app.llm.rates import Rates
from tests.support.clock import SteppedClock, yielded
from tests.support.provider import HAIKU, status

POOL = pool_of(HAIKU)


def call(task_id: str, session: str = "s", *, key: str | None = None, made: int = 0) -> Call:
    """A task's question."""
    return Call(
        subject=Subject(task_id, session, run=1),
        step=1,
        request=ModelRequest(HAIKU, 100, []),
        payer=Payer(task_id, session, LOCAL_OWNER, key_id=key),
        prompt_tokens=100,
        min_tokens=1,
        deadline_s=1e9,
        tries=Tries(made),
    )


@dataclass
class Gate:
    """A governor with room for so many calls, and what becomes of those who ask."""

    governor: Governor
    clock: SteppedClock
    called: list[str] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    """Tasks in the order in which their calls left."""

    def passed(self, one: Call) -> Permit:
        """Nothing is in the call's way."""
        permit = self.governor.enter(one)
        assert permit is not None
        return permit

    def ask(self, one: Call) -> "asyncio.Task[Permit]":
        """A call that comes and may have to wait."""

        async def asking() -> Permit:
            permit = self.governor.enter(one) or await self.governor.wait(one)
            self.order.append(one.subject.task_id)
            return permit

        return asyncio.create_task(asking())

    async def parked(self, one: Call) -> Parked:
        """The call gives its slot back."""
        with pytest.raises(Parked) as caught:
            await self.ask(one)
        return caught.value

    @property
    def in_flight(self) -> int:
        (road,) = self.governor.roads()
        return road.lane.concurrency.in_flight


@pytest.fixture
def gate() -> Iterator[Callable[..., Gate]]:
    """Makes gates where nobody has asked yet."""
    opened: list[Governor] = []

    def make(*, room: int = 1, park_after_s: float = 5.0) -> Gate:
        clock = SteppedClock()
        governor = Governor(clock, GovernorLimits(room, room, park_after_s))
        opened.append(governor)
        made = Gate(governor, clock)
        governor.on_turn = made.called.append
        return made

    yield make
    for governor in opened:
        governor.begin_drain()


def limited(retry_after_s: float) -> ModelFailure:
    """A 429."""
    return status(429, "rate_limit_error", retry_after_s=retry_after_s)


async def one_by_one(at: Gate, first: Permit, waiting: "list[asyncio.Task[Permit]]") -> None:
    """Each call's end lets the next one leave."""
    first.answered(None, None)
    left = set(waiting)
    while left:
        done, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
        (permit,) = [task.result() for task in done]
        permit.answered(None, None)


async def test_a_burst_puts_a_single_call_back_by_one(gate):
    """A thousand calls of one session wait; another session's call leaves second."""
    at = gate()
    first = at.passed(call("first", "burst"))
    waiting = [at.ask(call(f"b{number}", "burst")) for number in range(1_000)]
    await yielded()
    waiting.append(at.ask(call("single", "other")))
    await yielded()
    await one_by_one(at, first, waiting)
    assert at.order.index("single") <= 1
    burst = [name for name in at.order if name != "single"]
    assert burst == [f"b{number}" for number in range(1_000)]


async def test_keys_have_their_turns_however_many_sessions_they_have(gate):
    """A hundred sessions of one key are one key: the other key's calls leave every second time."""
    at = gate()
    first = at.passed(call("first"))
    waiting = [at.ask(call(f"m{number}", f"s{number}", key="many")) for number in range(100)]
    await yielded()
    waiting += [at.ask(call(f"f{number}", "s", key="few")) for number in range(3)]
    await yielded()
    await one_by_one(at, first, waiting)
    assert [at.order.index(f"f{number}") for number in range(3)] == [1, 3, 5]


async def test_nobody_overtakes_those_who_wait(gate):
    """Room that becomes free is theirs, even for a moment."""
    at = gate()
    first = at.passed(call("first"))
    second = at.ask(call("second"))
    await yielded()
    first.answered(None, None)
    assert at.governor.enter(call("third")) is None
    (await second).answered(None, None)


async def test_one_429_holds_all_until_it_lifts(gate):
    """The others wait for it together; then they leave, without having met it."""
    at = gate(room=10)
    at.passed(call("a")).failed(limited(3.0), Rates((600, 0, *(-1,) * 6)))
    waiting = [at.ask(call(name)) for name in ("b", "c")]
    await yielded(3)
    assert at.order == []
    await at.clock.step(2.9)
    assert at.order == []
    await at.clock.step(0.2)
    assert at.order == ["b", "c"]
    for task in waiting:
        (await task).unused()


async def test_a_long_wait_gives_the_slot_back_at_once(gate):
    """It is known how long it lasts: no slot is held for it, and the reason is told."""
    at = gate(room=10)
    at.passed(call("a")).failed(limited(60.0), None)
    off = await at.parked(call("b"))
    assert off.reason == Reason.RATE_LIMITED
    assert off.available_at_us > at.clock.now_us() + 60 * US_PER_S
    assert at.in_flight == 0


async def test_a_thousand_parked_come_back_as_there_is_room(gate):
    """Sixty a minute: at the end of the wait they are called one by one, in turn, and nobody looks in vain."""
    at = gate(room=1_000)
    rates = Rates((60, 0, -1, -1, -1, -1, -1, -1))
    at.passed(call("a")).failed(limited(30.0), rates)
    for number in range(1_000):
        await at.parked(call(f"t{number}"))
    assert at.called == []
    await at.clock.step(31.0)
    room = len(at.called)
    assert 1 <= room <= 32
    for _ in range(100):
        await at.clock.step(1.0)
        for name in at.called[len(at.order) :]:
            at.passed(call(name)).answered(None, None)
            at.order.append(name)
    assert at.order == [f"t{number}" for number in range(len(at.order))]
    assert 100 <= len(at.order) <= 135
    assert len(at.clock.slept) <= 2 * len(at.order) + 10


async def test_who_is_called_finds_the_turn_held(gate):
    """While the task is on its way nobody takes its place; when it does not come, the next one is called."""
    at = gate(park_after_s=0.001)
    first = at.passed(call("first"))
    for name in ("a", "b", "c"):
        assert (await at.parked(call(name))).reason == Reason.BUSY
    first.answered(None, None)
    assert at.called == ["a"]
    assert at.governor.is_called("a")
    assert at.governor.enter(call("late")) is None
    at.passed(call("a")).answered(None, None)
    assert at.called == ["a", "b"]
    await at.clock.step(PROMISE_S + 0.1)
    assert at.called == ["a", "b", "c"]
    at.passed(call("c")).answered(None, None)
    assert at.in_flight == 0
    assert at.governor.enter(call("late")) is not None


async def test_a_parked_task_that_looks_by_itself_keeps_its_place(gate):
    """It was not called yet: it waits on where it stood, not behind those who came later."""
    at = gate(park_after_s=0.001)
    first = at.passed(call("first"))
    await at.parked(call("a"))
    await at.parked(call("b"))
    await at.parked(call("a"))
    first.answered(None, None)
    assert at.called == ["a"]


async def test_a_task_that_has_ended_is_called_no_more(gate):
    """It was cancelled while it was parked, or while its turn was held."""
    at = gate(park_after_s=0.001)
    first = at.passed(call("first"))
    for name in ("a", "b", "c"):
        await at.parked(call(name))
    at.governor.forget("a")
    first.answered(None, None)
    assert at.called == ["b"]
    at.governor.forget("b")
    assert at.called == ["b", "c"]
    at.governor.forget("c")
    assert at.in_flight == 0


async def test_a_cancelled_wait_leaves_nothing_behind(gate):
    """Whether its turn had come or not, room and place are free again."""
    at = gate()
    first = at.passed(call("first"))
    waiting = [at.ask(call(name)) for name in ("a", "b", "c")]
    await yielded(2)
    waiting[1].cancel()
    await yielded(3)
    first.answered(None, None)
    waiting[0].cancel()
    (await waiting[2]).answered(None, None)
    assert at.order == ["c"]
    assert at.in_flight == 0


async def test_a_stop_interrupts_every_wait(gate):
    """Tasks that wait go back to the queue at once; nobody is let in any more."""
    at = gate()
    first = at.passed(call("first"))
    waiting = [at.ask(call(name)) for name in ("a", "b")]
    await yielded(2)
    at.governor.begin_drain()
    for task in waiting:
        with pytest.raises(Parked, match="drain"):
            await task
    first.answered(None, None)
    assert (await at.parked(call("c"))).reason == "drain"
    assert at.in_flight == 0


async def test_half_open_exactly_one_of_many_leaves(gate):
    """Fifty wait for the end of an outage: one asks, the others wait for what it finds; then two, then more."""
    at = gate(room=50)
    down = status(529, "overloaded_error")
    permits = [at.passed(call(f"f{number}")) for number in range(OPENS_AT)]
    for permit in permits:
        permit.failed(down, None)
    (road,) = at.governor.roads()
    assert at.governor.outage_s(HAIKU) == 0
    assert at.governor.outage_s("claude-opus-5") is None
    waiting = [at.ask(call(f"w{number}")) for number in range(50)]
    await yielded(3)
    await at.clock.step(2.1)
    assert len(at.order) == 1
    assert at.governor.outage_s(HAIKU) > 2
    probe = next(task for task in waiting if task.done())
    assert probe.result().probe
    probe.result().failed(down, None)
    await at.clock.step(3.9)
    assert len(at.order) == 1
    await at.clock.step(0.2)
    assert len(at.order) == 2
    found = [task for task in waiting if task.done() and task is not probe]
    found[0].result().answered(None, None)
    assert road.lane.state(at.clock.monotonic_s()) is BreakerState.CLOSED
    await yielded(3)
    assert len(at.order) == 4
    for _ in range(100):
        for task in [w for w in waiting if w.done()]:
            task.result().answered(None, None)
        await yielded(2)
    assert len(at.order) == 50
    assert at.in_flight == 0


async def test_a_retried_call_does_not_go_to_the_back(gate):
    """Its session's line is long: it had its turn already, and failed through no fault of its own."""
    at = gate()
    first = at.passed(call("first"))
    waiting = [at.ask(call(name)) for name in ("a", "b")]
    await yielded()
    waiting.append(at.ask(call("again", made=1)))
    await yielded()
    await one_by_one(at, first, waiting)
    assert at.order == ["again", "a", "b"]


async def test_hints_of_other_processes_are_heeded(gate):
    """Another process met the limit: this one does not have to."""
    at = gate()
    at.governor.hear(POOL, Told(Reason.RATE_LIMITED, 3.0))
    one = at.ask(call("a"))
    await yielded(3)
    assert at.order == []
    await at.clock.step(3.1)
    (await one).unused()
    assert at.order == ["a"]


async def test_what_was_learned_is_told_once(gate):
    """A wait that others should know of; not each of its victims again."""
    at = gate(room=10)
    told: list[tuple[str, Told]] = []
    at.governor.tell = lambda pool, one: told.append((pool, one))
    permits = [at.passed(call(name)) for name in ("a", "b", "c")]
    for permit in permits:
        permit.failed(limited(10.0), None)
    assert told == [(POOL, Told(Reason.RATE_LIMITED, 10.0))]


@pytest.mark.parametrize(
    ("model", "pool"),
    [
        ("claude-haiku-4-5-20251001", "claude-haiku-4-5"),
        ("claude-opus-4-8", "claude-opus-4.x"),
        ("claude-opus-4-5-20251101", "claude-opus-4.x"),
        ("claude-sonnet-4-6", "claude-sonnet-4.x"),
        ("claude-opus-5", "claude-opus-5"),
        ("claude-opus-5-5", "claude-opus-5-5"),
        ("my-own-model", "my-own-model"),
    ],
)
def test_models_that_share_limits_share_a_pool(model, pool):
    """Versions 4.x of a family draw on one pool, all others have their own."""
    assert pool_of(model) == pool


def asking_for(model: str) -> Call:
    """A question to this model."""
    return replace(call("t"), request=ModelRequest(model, 100, []))


async def test_it_keeps_only_so_many_idle_pools(gate):
    """Clients choose the names of models; a pool that is used, or must not be asked, is not forgotten."""
    at = gate()
    held = at.passed(call("held"))
    at.governor.hear("limited", Told(Reason.RATE_LIMITED, 60.0))
    at.governor.hear("down", Told(Reason.OUTAGE, 60.0))
    for number in range(2 * ROADS_LIMIT):
        at.passed(asking_for(f"model-{number}")).answered(None, None)
    kept = {road.lane.pool: road for road in at.governor.roads()}
    assert len(kept) == len(at.governor._by_model) + 2 == ROADS_LIMIT
    assert {POOL, "limited", "down"} <= set(kept)
    assert at.governor.outage_s("down") is not None
    assert kept[POOL].lane.concurrency.in_flight == 1
    held.answered(None, None)
    assert kept[POOL].lane.concurrency.in_flight == 0


async def test_it_keeps_only_so_many_names_of_a_pool(gate):
    """One model has as many names as there are dates."""
    at = gate()
    for number in range(2 * MODELS_LIMIT):
        at.passed(asking_for(f"{HAIKU}-{20_000_000 + number}")).answered(None, None)
    (road,) = at.governor.roads()
    assert len(road.models) == len(at.governor._by_model) == MODELS_LIMIT
