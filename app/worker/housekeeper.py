"""What has time: tasks that ended long ago and answers that do not count any more are taken away, and what was erased is taken out of the database's log."""

import asyncio
import logging
from collections.abc import Awaitable, Callable

from app.domain.clock import Clock
from app.domain.errors import StoreError
from app.domain.period import DAY_US
from app.journal.events import TaskErased
from app.journal.journal import Recorded
from app.queue.answers import FORGET_LIMIT, forget
from app.queue.retention import sweep
from app.store.port import Store

RETRY_S = 1.0
"""How soon the log is tried again that a reader (a backup, say) kept from being emptied."""
SWEEP_INTERVAL_S = 600.0
"""How often old tasks are looked for."""
PAUSE_S = 0.05
"""Between two small writes of a sweep: the others go first."""
_log = logging.getLogger(__name__)


class Housekeeper:
    """Add `on_event` to the feed's views. Without `retention_days` every task is kept."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        empty_log: Callable[[], Awaitable[bool]],
        *,
        retention_days: int | None = None,
    ) -> None:
        self._store = store
        self._clock = clock
        self._empty_log = empty_log
        self._retention_days = retention_days
        self._erased = asyncio.Event()
        self._at_work: list[asyncio.Task[None]] = []

    def on_event(self, entry: Recorded) -> None:
        """Hear of erasures."""
        if isinstance(entry.event, TaskErased):
            self._erased.set()

    def start(self) -> None:
        """Begin; what a process before this one left is looked after first."""
        self._erased.set()
        self._at_work.append(asyncio.create_task(self._empty(), name="housekeeper"))
        if self._retention_days is not None:
            sweeping = self._sweep(self._retention_days)
            self._at_work.append(asyncio.create_task(sweeping, name="retention"))

        self._at_work.append(asyncio.create_task(self._forget(), name="forgetting"))

    async def stop(self) -> None:
        """Stop at once: nothing here is lost by that."""
        for work in self._at_work:
            work.cancel()
        await asyncio.gather(*self._at_work, return_exceptions=True)

    async def _empty(self) -> None:
        while True:
            await self._erased.wait()
            self._erased.clear()
            if not await self._tried(self._empty_log):
                self._erased.set()
                await self._clock.sleep(RETRY_S)

    async def _forget(self) -> None:
        """Answers of idempotency keys that do not count any more hold prompts: they go, a few at a time."""

        async def once() -> bool:
            while await self._store.write(forget) >= FORGET_LIMIT:
                await self._clock.sleep(PAUSE_S)
            return True

        while True:
            await self._clock.sleep(SWEEP_INTERVAL_S)
            await self._tried(once)

    async def _sweep(self, days: int) -> None:
        async def once() -> bool:
            before_us = self._clock.now_us() - days * DAY_US
            began_s = self._clock.monotonic_s()
            count = await sweep(self._store, self._clock, before_us, PAUSE_S)
            if count:
                seconds = round(self._clock.monotonic_s() - began_s, 3)
                _log.info("tasks_pruned", extra={"count": count, "duration_s": seconds})
                self._erased.set()  # what they held is in the log, too
            return True

        while True:
            await self._tried(once)
            await self._clock.sleep(SWEEP_INTERVAL_S)

    async def _tried(self, work: Callable[[], Awaitable[bool]]) -> bool:
        """Whether it is done; a failure is told, and the next try comes by itself."""
        try:
            return await work()
        except StoreError as error:
            _log.warning("housekeeping_postponed", extra={"error_message": str(error)})
        except Exception:  # noqa: BLE001  (a bug must not end the housekeeper in silence)
            _log.exception("housekeeping_failed")
        return False
