"""The housekeeper empties the database's log after erasures, however often it must try."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.domain.errors import StoreFull
from app.domain.task import Subject
from app.journal.events import CancelRequested, Event, TaskErased
from app.journal.journal import Recorded
from app.worker.housekeeper import Housekeeper
from tests.support.clock import FakeClock
from tests.support.loglines import LineChecker


class Log:
    """A write-ahead log that can be emptied when it pleases."""

    def __init__(self, *answers: bool | Exception) -> None:
        self.answers = list(answers)
        self.tries = 0
        self.tried = asyncio.Event()

    async def empty(self) -> bool:
        """The next answer; then always yes."""
        self.tries += 1
        self.tried.set()
        answer = self.answers.pop(0) if self.answers else True
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def tries_become(self, count: int) -> None:
        """Wait for it."""
        while self.tries < count:
            self.tried.clear()
            await asyncio.wait_for(self.tried.wait(), 20)


def _told(event: Event) -> Recorded:
    return Recorded(1, 0, Subject("t", "s"), event)


@pytest.fixture
async def log() -> Log:
    """One that is emptied at once."""
    return Log()


@pytest.fixture
async def keeper(log: Log) -> AsyncIterator[Housekeeper]:
    """A housekeeper at work."""
    made = Housekeeper(FakeClock(), log.empty)
    made.start()
    yield made
    await made.stop()


async def test_at_the_start_and_after_each_erasure(keeper: Housekeeper, log: Log) -> None:
    """A process may have died between an erasure and the emptied log; other events do not matter."""
    await log.tries_become(1)
    keeper.on_event(_told(CancelRequested()))
    keeper.on_event(_told(TaskErased()))
    await log.tries_become(2)
    keeper.on_event(_told(TaskErased()))
    await log.tries_become(3)


async def test_a_reader_in_the_way(log_lines: LineChecker) -> None:
    """It is tried again, after a failure of the store and after a bug, too, until it works."""
    log = Log(False, StoreFull("full"), ValueError("bug"), False, True)
    keeper = Housekeeper(FakeClock(), log.empty)
    keeper.start()
    await log.tries_become(5)
    await keeper.stop()
    assert log.tries == 5
    assert len(log_lines.entries("erasure_postponed")) == 1
    assert len(log_lines.entries("housekeeping_failed")) == 1


async def test_never_started() -> None:
    """A service that could not start stops all the same."""
    await Housekeeper(FakeClock(), Log().empty).stop()
