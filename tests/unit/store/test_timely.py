"""Whoever is waited for has an answer in time, and it is honest about what nobody knows."""

import asyncio

import pytest

from app.domain.errors import StoreSilent
from app.store.port import Operation, Store, T, Tx
from app.store.sqlite import SqliteStore
from app.store.timely import TimelyStore


class Hanging(Store):
    """A store that answers when it is told to."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.go_on = asyncio.Event()

    async def write(self, op: Operation[T]) -> T:
        await self.go_on.wait()
        return await self._inner.write(op)

    async def read(self, op: Operation[T]) -> T:
        await self.go_on.wait()
        return await self._inner.read(op)

    async def close(self) -> None:
        await self._inner.close()


async def test_no_answer_in_time(store: SqliteStore) -> None:
    """The caller hears that nobody knows; later callers are served as soon as there are answers."""
    hanging = Hanging(store)
    timely = TimelyStore(hanging, 0.01)
    for run in (timely.write, timely.read):
        with pytest.raises(StoreSilent, match=r"within 0\.01 s"):
            await run(lambda tx: tx.now_us)
    hanging.go_on.set()
    slow = TimelyStore(hanging, 60)
    assert await slow.write(lambda tx: tx.now_us) == await slow.read(lambda tx: tx.now_us)


async def test_an_operations_own_timeout(store: SqliteStore) -> None:
    """It is handed on as it is."""

    def op(_tx: Tx) -> None:
        raise TimeoutError("mine")

    timely = TimelyStore(store, 60)
    for run in (timely.write, timely.read):
        with pytest.raises(TimeoutError, match="mine"):
            await run(op)
