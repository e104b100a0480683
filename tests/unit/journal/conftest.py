"""A store to keep journals in."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "data", FakeClock())
    yield opened
    await opened.close()
