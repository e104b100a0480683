"""The heartbeat: one row a process, renewed every few seconds, is the lease on all tasks it runs."""

import asyncio
import logging
import math
from collections.abc import Callable
from contextlib import suppress

from app.domain.clock import Clock
from app.domain.errors import StoreError
from app.domain.ids import new_id
from app.domain.lease import Lease
from app.queue import leases
from app.store.port import Store, Tx, Urgent

_log = logging.getLogger(__name__)
_RETRY_S = 1.0
_PATIENCE_S = 1.0
"""How long a renewal may take although the lease is over by the clock: after a stall the store's word counts."""
_LEAVE_S = 2.0
"""How long the last word to the store may take."""


class Heartbeat:
    """Keeps the process's lease; when it is lost, tells `on_lost` and takes a fresh one under a new id.

    A process that is `alone` with its store loses it only when its row is gone: nobody else takes over because
    of the time that went by.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: Lease,
        *,
        heartbeat_s: float,
        lease_s: float,
        slots: int,
        alone: bool,
        on_lost: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._heartbeat_s = heartbeat_s
        self._lease_s = lease_s
        self._slots = slots
        self._alone = alone
        self._on_lost = on_lost
        self._beating: asyncio.Task[None] | None = None
        self._stopping = False

    async def start(self) -> None:
        """Take the lease, and keep it from now on.

        Raises:
            StoreError: it could not be taken.
        """
        await self._take(None)
        self._beating = asyncio.create_task(self._beat_on(), name="heartbeat")

    async def stop(self) -> None:
        """Leave: what is still held may be taken over at once."""
        if self._beating is None:
            return
        self._stopping = True
        self._beating.cancel()
        await asyncio.wait({self._beating})
        worker = self._lease.worker
        with suppress(StoreError, TimeoutError):  # else the lease runs out by itself
            async with asyncio.timeout(_LEAVE_S):
                await self._store.write(lambda tx: leases.leave(tx, worker))

    async def beat(self) -> None:
        """Renew once; a lease that is lost is replaced.

        Raises:
            StoreError: it could not be renewed; it is not lost yet.
        """
        begun_s, worker = self._clock.monotonic_s(), self._lease.worker
        try:
            held = await self._renewed(worker)
        except (StoreError, TimeoutError) as error:
            if self._alone or self._lease.is_sure(self._clock.monotonic_s()):
                raise
            await self._lost(f"not renewed in time ({type(error).__name__})")
            return
        if held:
            self._lease.sure_until_s = begun_s + self._lease_s
        else:
            await self._lost("taken over by another process")

    async def _renewed(self, worker: str) -> bool:
        """Whether the row was still there; TimeoutError when the lease is over before the store has answered."""
        lease_s = self._lease_s
        left_s = self._lease.sure_until_s - self._clock.monotonic_s()
        async with asyncio.timeout(None if self._alone else max(left_s, _PATIENCE_S)):
            return await self._store.write(Urgent(lambda tx: leases.renew(tx, worker, lease_s)))

    async def _lost(self, reason: str) -> None:
        """Stop all runs at once, then go on as somebody else."""
        old = self._lease.worker
        self._lease.worker = (
            self._new_worker()
        )  # from here on nothing is claimed, and no claim is good
        self._lease.sure_until_s = -math.inf
        _log.warning("lease_lost", extra={"worker": old, "reason": reason})
        self._on_lost()
        while True:
            try:
                await self._take(old)
            except StoreError as error:
                _log.warning("renewal_postponed", extra={"error_message": str(error)})
                await self._clock.sleep(_RETRY_S)
            else:
                return

    async def _take(self, instead_of: str | None) -> None:
        begun_s, worker, lease_s = (
            self._clock.monotonic_s(),
            self._lease.worker,
            self._lease_s,
        )

        def op(tx: Tx) -> None:
            leases.take(tx, worker, slots=self._slots, lease_s=lease_s, instead_of=instead_of)

        await self._store.write(Urgent(op))
        self._lease.sure_until_s = begun_s + lease_s

    def _new_worker(self) -> str:
        return new_id("worker", self._clock.now_us())

    async def _beat_on(self) -> None:
        pause_s = self._heartbeat_s
        while not self._stopping:  # Python 3.11's `wait_for` can swallow the cancel
            await self._lease.wanted(pause_s)
            try:
                await self.beat()
                pause_s = self._heartbeat_s
            except (StoreError, TimeoutError) as error:
                _log.warning("renewal_postponed", extra={"error_message": str(error)})
                pause_s = min(_RETRY_S, self._heartbeat_s)
            except Exception:  # noqa: BLE001  (a bug must not end the heartbeat in silence)
                _log.exception("heartbeat_failed")
                pause_s = self._heartbeat_s
