"""A running service for each test of the API."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.service import Running, started


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service with default settings."""
    async with started(tmp_path) as running:
        yield running
