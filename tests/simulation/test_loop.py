"""The seeded loop: drawn order, virtual time, processes that freeze and die."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextvars import copy_context

import pytest

from tests.simulation.loop import PROCESS, STEP_LIMIT, Deadlock, Fate, SeededLoop, State
from tests.simulation.now import pause

Started = Callable[[int], SeededLoop]


@pytest.fixture
def started() -> Iterator[Started]:
    """Loops that are closed at the end."""
    made = list[SeededLoop]()

    def start(seed: int) -> SeededLoop:
        made.append(SeededLoop(seed))
        return made[-1]

    yield start
    for loop in made:
        if not loop.is_closed():
            loop.close()


async def _order(said: list[int]) -> None:
    async def say(number: int) -> None:
        said.append(number)

    await asyncio.gather(*(say(number) for number in range(8)))


def _drawn(loop: SeededLoop) -> list[int]:
    said = list[int]()
    loop.run_until_complete(_order(said))
    return said


def test_order_is_the_seeds(started: Started) -> None:
    """The same seed gives the same order, another one another."""
    assert _drawn(started(1)) == _drawn(started(1)) != _drawn(started(2))


def test_time_is_virtual(started: Started) -> None:
    """An hour passes at once."""
    loop = started(0)
    loop.run_until_complete(pause(3_600))
    assert loop.time() == pytest.approx(3_600)


def test_what_never_comes_is_noticed(started: Started) -> None:
    """Waiting for nothing is a finding, not a hang."""
    loop = started(0)
    never = loop.create_future()
    with pytest.raises(Deadlock):
        loop.run_until_complete(never)


def test_going_round_in_circles_is_noticed(started: Started) -> None:
    """Work that never lets time pass is a finding, too."""
    loop = started(0)
    loop.steps = STEP_LIMIT - 100

    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    with pytest.raises(Deadlock):
        loop.run_until_complete(loop.create_future())


def _within(loop: SeededLoop, fate: Fate, work: Awaitable[None]) -> asyncio.Task[None]:
    context = copy_context()
    context.run(PROCESS.set, fate)
    return loop.create_task(work, context=context)


def test_the_dead_do_nothing(started: Started) -> None:
    """A dead process's task never goes on, not even to clean up, until the run is over."""
    loop, fate, said = started(0), Fate(), list[str]()

    async def work() -> None:
        try:
            await pause(1)
            said.append("went on")
        finally:
            said.append("cleaned up")

    task = _within(loop, fate, work())
    loop.run_until_complete(pause(0.5))
    fate.state = State.DEAD
    loop.run_until_complete(pause(10))
    assert said == []
    loop.abandon([fate])
    assert said == ["cleaned up"]
    assert task.cancelled()


def test_the_frozen_wait(started: Started) -> None:
    """A frozen process goes on where it was, once it thaws."""
    loop, fate, said = started(0), Fate(), list[float]()

    async def work() -> None:
        await pause(1)
        said.append(loop.time())

    task = _within(loop, fate, work())
    loop.run_until_complete(pause(0.5))
    fate.state = State.FROZEN
    loop.run_until_complete(pause(10))
    assert said == []
    loop.thaw(fate)
    loop.run_until_complete(pause(1))
    assert said == [pytest.approx(10.5)]
    assert task.done()


def test_executor_work_is_a_step(started: Started) -> None:
    """Work for a thread runs on the loop, and its error is its caller's."""
    loop = started(0)

    async def ask() -> int:
        assert await loop.run_in_executor(None, len, "four") == 4
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        return 1

    assert loop.run_until_complete(ask()) == 1
