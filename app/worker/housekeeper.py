"""What has time: after an erasure, the database's log is emptied, so that what was erased is in no file any more."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress

from app.domain.clock import Clock
from app.domain.errors import StoreError
from app.journal.events import TaskErased
from app.journal.journal import Recorded

RETRY_S = 1.0
"""How soon the log is tried again that a reader (a backup, say) kept from being emptied."""
_log = logging.getLogger(__name__)


class Housekeeper:
    """Add `on_event` to the feed's views."""

    def __init__(self, clock: Clock, empty_log: Callable[[], Awaitable[bool]]) -> None:
        self._clock = clock
        self._empty_log = empty_log
        self._erased = False
        self._woken = asyncio.Event()
        self._working: asyncio.Task[None] | None = None

    def on_event(self, entry: Recorded) -> None:
        """Hear of erasures."""
        if isinstance(entry.event, TaskErased):
            self._erased = True
            self._woken.set()

    def start(self) -> None:
        """Begin; what a process before this one left is looked after first."""
        self._erased = True
        self._woken.set()
        self._working = asyncio.create_task(self._work(), name="housekeeper")

    async def stop(self) -> None:
        """Stop at once: nothing here is lost by that."""
        if self._working is not None:
            self._working.cancel()
            with suppress(asyncio.CancelledError):
                await self._working

    async def _work(self) -> None:
        while True:
            await self._woken.wait()
            self._woken.clear()
            while self._erased:
                self._erased = False
                if not await self._emptied():
                    self._erased = True
                    await self._clock.sleep(RETRY_S)

    async def _emptied(self) -> bool:
        try:
            return await self._empty_log()
        except StoreError as error:
            _log.warning("erasure_postponed", extra={"error_message": str(error)})
        except Exception:  # noqa: BLE001  (a bug must not end the housekeeper in silence)
            _log.exception("housekeeping_failed")
        return False
