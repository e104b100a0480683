"""Hints between processes: who hears what, and what happens when one is lost."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from app.budget.turns import Turns
from app.domain.clock import SystemClock
from app.domain.errors import StoreUnavailable
from app.journal.feed import Feed
from app.journal.hints import ANYTHING, Hint
from app.replica import open_shared
from app.store.postgres import PostgresStore
from app.store.postgres_listener import Listener
from app.worker.hearing import Hearing
from tests.support.clock import yielded
from tests.support.loglines import LineChecker
from tests.support.postgres import Server
from tests.support.seeding import accepted

_CLOCK = SystemClock()


class Ear:
    """Keeps what was heard."""

    def __init__(self) -> None:
        self.heard: list[str | None] = []
        self._more = asyncio.Event()

    def __call__(self, text: str | None) -> None:
        self.heard.append(text)
        self._more.set()

    async def has(self, count: int) -> None:
        """Wait for so many in all."""
        async with asyncio.timeout(60):
            while len(self.heard) < count:
                self._more.clear()
                await self._more.wait()


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[PostgresStore]:
    """A store that tells the others of its commits."""
    opened = open_shared(database_url, None)
    yield opened
    await opened.close()


async def test_a_commit_is_heard_once_by_its_task_ids(store):
    """One notification a batch, with the writer's name and the ids of the tasks; reads and pings are not heard of."""
    ear = Ear()
    listener = Listener(store.url, _CLOCK, ear)
    listener.start()
    await ear.has(1)
    assert ear.heard == [None], "at first anything may have been missed"
    await store.write(lambda tx: tx.one("ping"))
    await asyncio.gather(accepted(store, "a"), accepted(store, "b"))
    await accepted(store, "c")
    while not (ear.heard[-1] or "").endswith(" c"):
        await ear.has(len(ear.heard) + 1)
    told = [text.split(" ") for text in ear.heard[1:] if text]
    assert {name for name, *_ in told} == {store.name}
    assert sorted(task_id for _, *ids in told for task_id in ids) == ["a", "b", "c"]
    await listener.stop()


async def test_a_lost_connection_is_made_again_and_says_so(
    store: PostgresStore, postgres: Server, log_lines: LineChecker
) -> None:
    """What was told meanwhile is lost: the listener hears that anything may have happened."""
    ear = Ear()
    listener = Listener(store.url, _CLOCK, ear)
    listener.start()
    await ear.has(1)
    postgres.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bursar-listener'"
    )
    await ear.has(2)
    assert ear.heard == [None, None]
    assert log_lines.entries("hints_lost")
    await listener.stop()


class Follower(Feed):
    """A feed that keeps the hints it hears."""

    def __init__(self) -> None:
        super().__init__()
        self.hints: list[Hint] = []

    def hear(self, hint: Hint) -> None:
        """As `Feed` has it."""
        self.hints.append(hint)


class Runs:
    """What runs here, as far as hints go."""

    def __init__(self) -> None:
        self.asked: asyncio.Queue[Hint] = asyncio.Queue()

    async def hear(self, hint: Hint) -> None:
        """As `WorkerPool` has it."""
        self.asked.put_nowait(hint)


async def test_without_any_hint_everything_is_looked_at_now_and_then():
    """Lost hints cost seconds, no more; those that come close together are attended to together."""
    feed, runs = Follower(), Runs()
    hearing = Hearing("me", feed, runs, Turns(), _CLOCK, poll_s=0.1)
    hearing.start()
    async with asyncio.timeout(60):
        assert await runs.asked.get() == ANYTHING
        assert feed.hints == [ANYTHING]
        for text in ("other t1", "me t2", "third t3"):
            hearing.heard(text)
        while (hint := await runs.asked.get()) == ANYTHING:
            pass
    assert hint == Hint(frozenset({"t1", "t3"}))
    await hearing.stop()


async def test_steady_hints_do_not_keep_it_from_looking_at_everything():
    """One that was lost among them would else be missed for as long as they come."""
    runs = Runs()
    hearing = Hearing("me", Follower(), runs, Turns(), _CLOCK, poll_s=0.1)
    hearing.start()
    everything = 0
    async with asyncio.timeout(60):
        while everything < 3:
            hearing.heard("other t1")
            everything += await runs.asked.get() == ANYTHING
    await hearing.stop()


@pytest.mark.parametrize("turns", range(5))
async def test_a_stop_comes_right_after_a_hint(turns: int) -> None:
    """However few turns of the loop lie between them, it ends: `wait_for` of Python 3.11 can swallow the cancel."""
    hearing = Hearing("me", Follower(), Runs(), Turns(), _CLOCK, poll_s=60)
    hearing.start()
    await yielded(5)
    hearing.heard("other t1")
    await yielded(turns)
    async with asyncio.timeout(20):
        await hearing.stop()


class Failing(Runs):
    """The rows cannot be asked at first."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error: Exception | None = error

    async def hear(self, hint: Hint) -> None:
        await super().hear(hint)
        error, self.error = self.error, None
        if error is not None:
            raise error


@pytest.mark.parametrize("error", [StoreUnavailable("away"), ValueError("a bug")])
async def test_a_hint_that_could_not_be_attended_to_is_not_lost(
    error: Exception, log_lines: LineChecker
) -> None:
    """Everything is looked at before long; a bug is told of, and does not end it."""
    runs = Failing(error)
    hearing = Hearing("me", Follower(), runs, Turns(), _CLOCK, poll_s=0.1)
    hearing.heard("other t1")
    hearing.start()
    async with asyncio.timeout(60):
        assert await runs.asked.get() == Hint(frozenset({"t1"}))
        assert await runs.asked.get() == ANYTHING
    await hearing.stop()
    name = "hints_failed" if isinstance(error, ValueError) else "hints_postponed"
    assert log_lines.entries(name)
