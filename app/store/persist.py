"""Writes that must not be given up: an answer that was paid for, an end that was reached."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial

from app.domain.clock import Clock
from app.domain.errors import StaleLease, StoreClosed, StoreError
from app.store.port import Operation, Store, T

_RETRY_S = 1.0
_log = logging.getLogger(__name__)


async def shielded(store: Store, op: Operation[T]) -> T:
    """Write even while being cancelled: the cancellation goes on once the write has ended.

    Raises:
        StoreError: the write failed.
    """
    write = store.begin_write(op)
    try:
        return await asyncio.shield(write)
    except asyncio.CancelledError:
        await _ended(write)
        raise


def _ignored(_result: object) -> None:
    """Nobody wants to hear of it."""


async def persist(
    store: Store, clock: Clock, op: Operation[T], *, abandoned: Callable[[T], None] = _ignored
) -> T:
    """Write, and while the store fails (a full disk, a locked file), try again until it works.

    What is to be written has happened already; forgetting it would mean buying it again. Only the end of
    the process stops the tries, and then recovery books the open reservation. `abandoned` hears what the write
    has given when the caller is cancelled meanwhile.

    Raises:
        StoreClosed: that end has come.
    """
    first = store.begin_write(op)
    try:
        return await asyncio.shield(first)  # mostly: it needs no task of its own
    except asyncio.CancelledError:
        await _ended(asyncio.ensure_future(_until_written(first, store, clock, op)), abandoned)
        raise
    except StoreClosed:
        raise
    except StoreError:
        pass
    tries = asyncio.ensure_future(_until_written(first, store, clock, op))
    try:
        return await asyncio.shield(tries)
    except asyncio.CancelledError:
        await _ended(tries, abandoned)
        raise


async def _until_written(
    write: asyncio.Future[T], store: Store, clock: Clock, op: Operation[T]
) -> T:
    """What a write has given, or another one after it."""
    while True:
        try:
            return await write
        except StoreClosed:
            raise
        except StoreError as error:
            _log.error("write_postponed", extra={"error_message": str(error)})
            await clock.sleep(_RETRY_S)
        write = store.begin_write(op)


async def _ended(write: asyncio.Future[T], told: Callable[[T], None] = _ignored) -> None:
    """Wait for the end of a write that nobody else waits for any more. It is told of even if this wait is cancelled, too."""
    if write.done():
        _tell(told, write)
    else:
        write.add_done_callback(partial(_tell, told))
        await asyncio.wait({write})


def _tell(told: Callable[[T], None], write: asyncio.Future[T]) -> None:
    if write.cancelled():
        return
    error = write.exception()
    if isinstance(error, StaleLease):  # as it must be when others have taken over
        _log.warning("write_refused", extra={"error_message": str(error)})
    elif error is not None:
        _log.error("write_lost", exc_info=error)
    else:
        told(write.result())
