"""What a process that runs tasks does about leases: keep its own, and rescue what the dead have left."""

from collections.abc import Callable

from app.domain.clock import Clock
from app.domain.lease import Lease
from app.domain.record import record
from app.observe.metrics import Metrics
from app.store.port import Store
from app.worker.heartbeat import Heartbeat
from app.worker.reaper import Reaper
from app.worker.recovery import take_over


@record(frozen=True, slots=True)
class LeaseTerms:
    """How long a lease lasts, how often it is renewed, how often a task may crash; how many the process runs."""

    heartbeat_s: float = 5.0
    lease_s: float = 15.0
    run_limit: int = 5
    slots: int = 1


class LeaseKeeper:
    """A heartbeat and a reaper. `alone`: what is held at the start was left by a dead process."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        lease: Lease,
        terms: LeaseTerms,
        stop_runs: Callable[[], None],
        metrics: Metrics,
        *,
        alone: bool,
    ) -> None:
        def on_lost() -> None:
            metrics.leases_lost.inc()
            stop_runs()

        self._store = store
        self._run_limit = terms.run_limit
        self._alone = alone
        self.heartbeat = Heartbeat(
            store,
            clock,
            lease,
            heartbeat_s=terms.heartbeat_s,
            lease_s=terms.lease_s,
            slots=terms.slots,
            alone=alone,
            on_lost=on_lost,
        )
        self.reaper = Reaper(store, clock, lease, lease_s=terms.lease_s, run_limit=terms.run_limit)

    async def start(self) -> None:
        """Take over what is there to be taken over, take the lease, keep it. Call before the first claim.

        Raises:
            StoreError: the lease could not be taken.
        """
        if self._alone:
            await take_over(self._store, self._run_limit)
        await self.heartbeat.start()
        self.reaper.start()

    async def stop_rescuing(self) -> None:
        """The process stops: it puts nothing back any more, but still keeps what it has."""
        await self.reaper.stop()

    async def leave(self) -> None:
        """The last word: what is still held belongs to nobody now."""
        await self.heartbeat.stop()
