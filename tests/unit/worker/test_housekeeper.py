"""The housekeeper empties the database's log after erasures, and takes old tasks away, however often it must try."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import US_PER_S
from app.domain.errors import StoreFull
from app.domain.task import Conclusion, Outcome, Subject
from app.journal.event import Event
from app.journal.events import CancelRequested, TaskErased
from app.journal.journal import Recorded
from app.queue import verbs
from app.queue.answers import FORGET_LIMIT, KEPT_S, forget
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from app.worker.housekeeper import PAUSE_S, SWEEP_INTERVAL_S, Housekeeper
from tests.support.clock import FakeClock, yielded
from tests.support.failing_store import FailingStore
from tests.support.loglines import LineChecker
from tests.support.seeding import claimed


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


class Paced(FakeClock):
    """A clock whose sleepers wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = asyncio.Event()
        self._sleeping = asyncio.Event()

    async def sleep(self, duration_s: float) -> None:
        """Note it, and wait."""
        self.slept.append(duration_s)
        self._sleeping.set()
        await self.go_on.wait()
        self.move(duration_s)

    async def slept_become(self, count: int) -> None:
        """Wait for it."""
        while len(self.slept) < count:
            self._sleeping.clear()
            await asyncio.wait_for(self._sleeping.wait(), 20)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[FailingStore]:
    """A store that can fail."""
    inner = SqliteStore(tmp_path, FakeClock())
    yield FailingStore(inner)
    await inner.close()


@pytest.fixture
async def log() -> Log:
    """One that is emptied at once."""
    return Log()


@pytest.fixture
async def keeper(store: FailingStore, log: Log) -> AsyncIterator[Housekeeper]:
    """A housekeeper at work."""
    made = Housekeeper(store, FakeClock(), log.empty)
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


async def test_a_reader_in_the_way(store: FailingStore, log_lines: LineChecker) -> None:
    """It is tried again, after a failure of the store and after a bug, too, until it works."""
    log = Log(False, StoreFull("full"), ValueError("bug"), False, True)
    keeper = Housekeeper(store, FakeClock(), log.empty)
    keeper.start()
    await log.tries_become(5)
    await keeper.stop()
    assert log.tries == 5
    assert len(log_lines.entries("housekeeping_postponed")) == 1
    assert len(log_lines.entries("housekeeping_failed")) == 1


async def test_never_started(store: FailingStore) -> None:
    """A service that could not start stops all the same."""
    await Housekeeper(store, FakeClock(), Log().empty).stop()


async def test_old_tasks_go_by_themselves(store: FailingStore, log_lines: LineChecker) -> None:
    """At the start and again and again; a store that fails puts it off; then the log is emptied, too."""
    claim = await claimed(store)
    await store.write(lambda tx: verbs.finish(tx, claim.subject, Conclusion(Outcome.CANCELLED)))
    store.error, store.reads = StoreFull("full"), True
    clock, log = Paced(), Log()
    clock.move(3 * 86_400)
    keeper = Housekeeper(store, clock, log.empty, retention_days=2)
    keeper.start()
    await clock.slept_become(2)  # for old tasks, and for old answers
    store.error = None
    clock.go_on.set()
    await log.tries_become(2)
    await keeper.stop()
    assert clock.slept[0] == SWEEP_INTERVAL_S
    (counts,) = await store.read(lambda tx: tx.all("count_tasks"))
    assert counts["task_count"] == 0
    (line,) = log_lines.entries("tasks_pruned")
    assert line["count"] == 1
    assert len(log_lines.entries("housekeeping_postponed")) == 1


async def test_old_answers_go(store: FailingStore) -> None:
    """Those that count no more, a bounded number in a write; the others stay."""
    answer = {"digest": "d", "status": 202, "headers": "{}", "body": "{}", "expired_us": 0}

    def remember(tx: Tx) -> None:
        for number in range(FORGET_LIMIT + 10):
            name = f"k{number:04}"
            tx.run(
                "remember_answer",
                owner="o",
                key=name,
                task_id=name,
                now_us=tx.now_us + number * US_PER_S - KEPT_S * US_PER_S,
                **answer,
            )

    await store.write(remember)
    assert await store.write(lambda tx: forget(tx, 3)) == 1
    clock = Paced()
    keeper = Housekeeper(store, clock, Log().empty)
    keeper.start()
    await clock.slept_become(1)
    inner: Any = store._inner
    inner._clock.move(FORGET_LIMIT + 1)
    clock.go_on.set()
    await clock.slept_become(3)  # between two writes, and again until the next round
    await keeper.stop()
    left = await store.read(
        lambda tx: [
            tx.one("read_answer", owner="o", key=f"k{n:04}", expired_us=0)
            for n in range(FORGET_LIMIT, FORGET_LIMIT + 10)
        ]
    )
    assert [row is None for row in left] == [True] * 2 + [False] * 8


async def test_without_retention_all_is_kept(
    keeper: Housekeeper, store: FailingStore, log: Log
) -> None:
    """Nothing is even looked for."""
    store.error, store.reads = StoreFull("full"), True
    await log.tries_become(1)
    await yielded(20)


async def test_old_answers_go_however_many_were_stored_in_one_commit(store: FailingStore) -> None:
    """A commit's answers have one instant: a write that forgets more than its number is not the last one."""
    answer = {"digest": "d", "status": 202, "headers": "{}", "body": "{}", "expired_us": 0}
    count = 4 * FORGET_LIMIT

    def remember(tx: Tx) -> None:
        for number in range(count):
            tx.run(
                "remember_answer",
                owner="o",
                key=f"k{number:04}",
                task_id=f"t{number}",
                now_us=tx.now_us + number // 3 * US_PER_S - KEPT_S * US_PER_S,
                **answer,
            )

    await store.write(remember)
    clock = Paced()
    keeper = Housekeeper(store, clock, Log().empty)
    keeper.start()
    await clock.slept_become(1)
    inner: Any = store._inner
    inner._clock.move(count)
    clock.go_on.set()
    await clock.slept_become(5)
    await keeper.stop()
    assert clock.slept[:5] == [SWEEP_INTERVAL_S, PAUSE_S, PAUSE_S, PAUSE_S, SWEEP_INTERVAL_S]
