"""Writes that must not be given up: an answer that was paid for, an end that was reached."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from app.domain.clock import Clock
from app.domain.errors import StoreClosed, StoreError
from app.store.port import Operation, Store, T

_RETRY_S = 1.0
_log = logging.getLogger(__name__)


async def shielded(store: Store, op: Operation[T]) -> T:
    """Write even while being cancelled: the cancellation goes on once the write has ended.

    Raises:
        StoreError: the write failed.
    """
    return await _to_the_end(store.write(op))


async def persist(store: Store, clock: Clock, op: Operation[T]) -> T:
    """Write, and while the store fails (a full disk, a locked file), try again until it works.

    What is to be written has happened already; forgetting it would mean buying it again. Only the end of
    the process stops the tries, and then recovery books the open reservation.

    Raises:
        StoreClosed: that end has come.
    """

    async def until_written() -> T:
        while True:
            try:
                return await store.write(op)
            except StoreClosed:
                raise
            except StoreError as error:
                _log.error("write_postponed", extra={"error_message": str(error)})
                await clock.sleep(_RETRY_S)

    return await _to_the_end(until_written())


async def _to_the_end(work: Coroutine[Any, Any, T]) -> T:
    write = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(write)
    except asyncio.CancelledError:
        if not write.done():
            await asyncio.wait({write})
        if not write.cancelled() and write.exception() is not None:
            _log.error("write_lost", exc_info=write.exception())
        raise
