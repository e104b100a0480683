"""A store that fails on demand, around a real one."""

from app.store.port import Operation, Store, T


class FailingStore(Store):
    """Raises `error` from every write (and read, if `reads`) while it is set; else it is the inner store."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner
        self.error: Exception | None = None
        self.reads = False

    async def write(self, op: Operation[T]) -> T:
        if self.error is not None:
            raise self.error
        return await self._inner.write(op)

    async def read(self, op: Operation[T]) -> T:
        if self.error is not None and self.reads:
            raise self.error
        return await self._inner.read(op)

    async def close(self) -> None:
        await self._inner.close()
