"""A store with the embedded queue over it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.journal.feed import Feed
from app.queue.embedded import EmbeddedQueue
from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock

LIMIT = 50


@dataclass
class Office:
    """The queue, its store, its clock."""

    store: SqliteStore
    queue: EmbeddedQueue
    clock: FakeClock


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """A queue that hears of every commit; not started yet, stopped afterwards."""
    clock = FakeClock()
    store = SqliteStore(tmp_path / "data", clock)
    queue = EmbeddedQueue(store, clock, worker="w", limit=LIMIT)
    store.listener = Feed(queue.on_event).publish
    yield Office(store, queue, clock)
    await queue.stop()
    await store.close()
