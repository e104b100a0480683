"""Every adapter of the store goes through one suite. A new adapter is one more name here."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

import pytest

from app.domain.clock import Clock, SystemClock
from app.store.port import CommitListener, Store
from app.store.sqlite import SqliteStore


class AnyStore(Store, Protocol):
    """A store, and who hears of its commits."""

    listener: CommitListener


class OpenStore(Protocol):
    """Opens the test's one database, again after it was closed."""

    def __call__(self, clock: Clock | None = None) -> AnyStore: ...


ADAPTERS: dict[str, Callable[[Path, Clock], AnyStore]] = {
    "sqlite": lambda folder, clock: SqliteStore(folder / "data", clock),
}


@pytest.fixture(params=sorted(ADAPTERS))
async def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """The factory; what it opened is closed after the test."""
    opened: list[AnyStore] = []

    def make(clock: Clock | None = None) -> AnyStore:
        opened.append(ADAPTERS[request.param](tmp_path, clock or SystemClock()))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture
def store(open_store: OpenStore) -> AnyStore:
    """An empty store."""
    return open_store()
