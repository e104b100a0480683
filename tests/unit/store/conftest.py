"""An embedded store of one's own."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A data directory that does not exist yet."""
    return tmp_path / "data"


@pytest.fixture
async def store(folder: Path) -> AsyncIterator[SqliteStore]:
    """An open store in it."""
    opened = SqliteStore(folder, FakeClock())
    yield opened
    await opened.close()
