"""A store for accounts and keys."""

import pytest

from app.store.port import ListenedStore
from tests.support.clock import FakeClock
from tests.support.stores import OpenStore


@pytest.fixture
def clock() -> FakeClock:
    """Stands at noon of 2026-11-22, UTC."""
    return FakeClock()


@pytest.fixture
def store(open_store: OpenStore, clock: FakeClock) -> ListenedStore:
    """An empty store."""
    return open_store(clock)
