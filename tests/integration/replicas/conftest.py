"""Dispatchers on a database of the test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.queue import leases
from app.queue.dispatch import Dispatch
from app.store.postgres import PostgresStore
from tests.support.office import Office

MakeDispatch = Callable[..., Awaitable[Dispatch]]


@pytest.fixture
async def make_dispatch(replica_url: str) -> AsyncIterator[MakeDispatch]:
    """Opens dispatchers; one at a time may listen. They are closed after the test."""
    async with AsyncExitStack() as opened:

        async def make(executor: str = "here", *, slots: int = 4) -> Dispatch:
            dispatch = Dispatch(replica_url, executor=executor, slots=slots)
            opened.push_async_callback(dispatch.close)
            await dispatch.open()
            return dispatch

        yield make


@pytest.fixture
async def office(replica_url: str) -> AsyncIterator[Office]:
    """An empty database."""
    store, dispatch = PostgresStore(replica_url), Dispatch(replica_url, executor="here", slots=0)
    await dispatch.open()
    await store.write(lambda tx: leases.take(tx, "w", slots=4, lease_s=600))
    yield Office(replica_url, store, dispatch)
    await dispatch.close()
    await store.close()
