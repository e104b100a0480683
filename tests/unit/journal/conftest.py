"""A store to keep journals in."""

import pytest

from app.store.port import ListenedStore
from tests.support.clock import FakeClock
from tests.support.stores import OpenStore


@pytest.fixture
def store(open_store: OpenStore) -> ListenedStore:
    """An empty store."""
    return open_store(FakeClock())
