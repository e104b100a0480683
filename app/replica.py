"""Wiring of a process that shares PostgreSQL with others: its store, its queue, and what it hears of them."""

from dataclasses import dataclass

from app.budget.turns import Turns
from app.domain.clock import Clock
from app.domain.lease import Lease
from app.journal.feed import Feed
from app.journal.hints import UpstreamHint, hint_texts
from app.journal.journal import Recorded
from app.llm.batching.items import give_up
from app.llm.governor.governor import Governor
from app.queue.caps import Caps
from app.queue.dispatch import Dispatch
from app.queue.distributed import Bounds, DistributedQueue
from app.settings import Role, Settings
from app.store.postgres import PostgresStore
from app.store.postgres_listener import Listener
from app.worker.gossip import Gossip
from app.worker.hearing import Hearing
from app.worker.pool import WorkerPool


def open_shared(url: str, clock: Clock | None) -> PostgresStore:
    """The shared store; with each commit the other replicas hear which tasks it is about.

    Raises:
        StoreError: the database cannot be used.
    """
    return PostgresStore(url, clock, announce=_hints)


def shared_queue(
    settings: Settings, role: Role, store: PostgresStore, clock: Clock, lease: Lease
) -> DistributedQueue:
    """The queue of all replicas. In the role `api` nothing is taken from it."""
    takes = role is not Role.API
    dispatch = Dispatch(store.url, executor=lease.worker, slots=settings.workers if takes else 0)
    bounds = Bounds(
        settings.queue_limit,
        settings.paused_limit,
        Caps(settings.session_concurrency, settings.key_concurrency),
        give_up,
    )
    return DistributedQueue(store, clock, dispatch, bounds, lease if takes else None)


@dataclass(slots=True)
class Ears:
    """What brings the other replicas' hints, and what attends to them."""

    listener: Listener
    hearing: Hearing
    gossip: Gossip

    def start(self) -> None:
        """Listen from now on."""
        self.hearing.start()
        self.listener.start()

    async def stop(self) -> None:
        """Listen no more."""
        await self.listener.stop()
        await self.hearing.stop()
        await self.gossip.stop()


def ears_on(
    store: PostgresStore,
    feed: Feed,
    pool: WorkerPool,
    turns: Turns,
    governor: Governor,
    clock: Clock,
    *,
    poll_s: float,
) -> Ears:
    """Ears for the database of that store; not open yet."""
    gossip = Gossip(store, governor, clock)
    hearing = Hearing(
        store.name,
        feed,
        pool,
        turns,
        clock,
        poll_s=poll_s,
        on_upstream=gossip.hear,
    )
    return Ears(Listener(store.url, clock, hearing.heard), hearing, gossip)


def _hints(origin: str, facts: list[object]) -> list[str]:
    tasks = (entry.subject.task_id for entry in facts if isinstance(entry, Recorded))
    return hint_texts(origin, tasks, (met for met in facts if isinstance(met, UpstreamHint)))
