"""A store for accounts and keys."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    """Stands at noon of 2026-11-22, UTC."""
    return FakeClock()


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "data", clock)
    yield opened
    await opened.close()
