"""A store with the embedded queue over it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from app.domain.lease import Lease
from app.journal.feed import Feed
from app.queue.embedded import EmbeddedQueue
from app.store.port import ListenedStore
from tests.support.clock import FakeClock
from tests.support.seeding import lease_of
from tests.support.stores import OpenStore

LIMIT = 50


@dataclass
class Office:
    """The queue, its store, its clock."""

    store: ListenedStore
    queue: EmbeddedQueue
    clock: FakeClock
    lease: Lease


@pytest.fixture
async def office(open_store: OpenStore) -> AsyncIterator[Office]:
    """A queue that hears of every commit; not started yet, stopped afterwards."""
    clock = FakeClock()
    store = open_store(clock)
    lease = await lease_of(store)
    queue = EmbeddedQueue(store, clock, lease=lease, limit=LIMIT)
    store.listener = Feed(queue.on_event).publish
    yield Office(store, queue, clock, lease)
    await queue.stop()
