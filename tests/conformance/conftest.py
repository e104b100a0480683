"""Every adapter of the store goes through one suite."""

import pytest

from app.store.port import ListenedStore
from tests.support.stores import OpenStore


@pytest.fixture
def store(open_store: OpenStore) -> ListenedStore:
    """An empty store."""
    return open_store()
