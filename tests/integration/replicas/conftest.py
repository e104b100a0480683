"""Dispatchers on a database of the test's own."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack

import pytest

from app.queue.dispatch import Dispatch

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
