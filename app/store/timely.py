"""A store for callers who are waited for: each of them has an answer within a time."""

import asyncio

from app.domain.errors import StoreSilent
from app.store.port import Operation, Store, T


class TimelyStore(Store):
    """The inner store, but nobody waits longer than `limit_s` for it.

    The database may be away in the middle of a commit, and nobody can say for minutes whether it was kept.
    """

    def __init__(self, inner: Store, limit_s: float) -> None:
        self._inner = inner
        self._limit_s = limit_s

    async def write(self, op: Operation[T]) -> T:
        """As `Store.write`.

        Raises:
            StoreSilent: no answer in time; what was asked may be kept, now or later.
        """
        waiting = asyncio.timeout(self._limit_s)
        try:
            async with waiting:
                return await self._inner.write(op)
        except TimeoutError as error:
            raise self._silent(waiting, error) from error

    async def read(self, op: Operation[T]) -> T:
        """As `Store.read`.

        Raises:
            StoreSilent: no answer in time.
        """
        waiting = asyncio.timeout(self._limit_s)
        try:
            async with waiting:
                return await self._inner.read(op)
        except TimeoutError as error:
            raise self._silent(waiting, error) from error

    async def close(self) -> None:
        await self._inner.close()

    def _silent(self, waiting: asyncio.Timeout, error: TimeoutError) -> Exception:
        if not waiting.expired():
            return error  # the operation's own
        return StoreSilent(f"The store has not answered within {self._limit_s:g} s.")
