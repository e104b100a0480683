"""A running service for each test of the API; on every store where rows are what the tests are about."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Running, started
from tests.support.stores import ADAPTERS

ON_EVERY_STORE = {
    "test_budgets",
    "test_cancel",
    "test_erase",
    "test_events",
    "test_idempotency",
    "test_key_budgets",
    "test_ledger",
    "test_lists",
    "test_order",
    "test_retry",
    "test_retry_keys",
    "test_sessions",
    "test_strange_cursors",
    "test_subtasks",
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Those modules' tests run once on each store, all others on the embedded one."""
    module = metafunc.module.__name__.rpartition(".")[2]
    if metafunc.definition.get_closest_marker("before_the_store"):
        return
    if "bursar" in metafunc.fixturenames and module in ON_EVERY_STORE:
        metafunc.parametrize("bursar", ADAPTERS, indirect=True)


@pytest.fixture
async def bursar(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Running]:
    """A service with default settings."""
    given: dict[str, Any] = {}
    if getattr(request, "param", "sqlite") == "postgres":
        given["database_url"] = request.getfixturevalue("database_url")
    async with started(tmp_path, **given) as running:
        yield running
