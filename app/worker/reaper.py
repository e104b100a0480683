"""The reaper: notices workers that renew their lease no more, and puts their tasks back.

Every process has one, and all of them may work at once: a worker's row is removed by one transaction, a task
is rescued by one. Who is dead is judged by this process's own monotonic clock as well as by the store's, so
that a clock that was set does not make the living look dead.
"""

import asyncio
import logging

from app.domain.clock import Clock
from app.domain.errors import StoreError
from app.domain.lease import Lease
from app.store.port import Row, Store, Tx
from app.worker.recovery import rescue_all

_log = logging.getLogger(__name__)
_SWEEPS_PER_LEASE = 6
_SILENT_SHARE = 2 / 3
"""An expired row that did not change for so much of a lease is a dead worker's."""
_SILENT_LEASES = 2.0
"""So is any row that did not change for so many leases, whatever the clocks say."""


class Reaper:
    """One a process; `start` once the process has its own lease."""

    def __init__(
        self, store: Store, clock: Clock, lease: Lease, *, lease_s: float, run_limit: int
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._lease_s = lease_s
        self._run_limit = run_limit
        self._seen: dict[str, tuple[int, float]] = {}
        """Worker → its latest beat, and when that was first seen."""
        self._sweeper: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Sweep every few seconds."""
        self._sweeper = asyncio.create_task(self._sweep_on(), name="reaper")

    async def stop(self) -> None:
        """Sweep no more."""
        if self._sweeper is not None:
            self._sweeper.cancel()
            await asyncio.wait({self._sweeper})

    async def sweep(self) -> int:
        """Look once; returns how many tasks were rescued.

        Raises:
            StoreError: the store failed; the next sweep finds what is left.
        """
        now_us, workers, orphaned = await self._store.read(_look)
        dead = self._dead(now_us, workers)
        for worker, beat_count in dead:
            if await self._removed(worker, beat_count):
                _log.warning("worker_lost", extra={"worker": worker})
        if not dead and not orphaned:
            return 0
        return await rescue_all(self._store, "lease_expired", self._run_limit)

    async def _removed(self, worker: str, beat_count: int) -> int:
        return await self._store.write(
            lambda tx: tx.run("remove_silent_worker", id=worker, beat_count=beat_count)
        )

    def _dead(self, now_us: int, workers: list[Row]) -> list[tuple[str, int]]:
        """Whose lease has run out, with the beat that was their last."""
        now_s, before, dead = self._clock.monotonic_s(), self._seen, []
        self._seen = {}
        for row in workers:
            worker, beat_count = row["id"], row["beat_count"]
            seen = before.get(worker)
            since_s = now_s if seen is None or seen[0] != beat_count else seen[1]
            self._seen[worker] = (beat_count, since_s)
            silent_s = now_s - since_s
            expired = row["expires_at_us"] <= now_us and silent_s >= self._lease_s * _SILENT_SHARE
            if worker != self._lease.worker and (
                expired or silent_s >= self._lease_s * _SILENT_LEASES
            ):
                dead.append((worker, beat_count))
        return dead

    async def _sweep_on(self) -> None:
        while True:
            await self._clock.sleep(self._lease_s / _SWEEPS_PER_LEASE)
            try:
                await self.sweep()
            except StoreError as error:
                _log.warning("reaping_postponed", extra={"error_message": str(error)})
            except Exception:  # noqa: BLE001  (a bug must not end the reaper in silence)
                _log.exception("reaping_failed")


def _look(tx: Tx) -> tuple[int, list[Row], bool]:
    """The store's instant, every worker, and whether there are orphans."""
    orphaned = tx.one("orphaned_tasks", limit=1) is not None
    return tx.now_us, list(tx.all("list_workers")), orphaned
