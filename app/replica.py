"""Wiring of a process that shares PostgreSQL with others: its store, its queue, and what it hears of them."""

from collections.abc import Callable

from app.budget.turns import Turns
from app.domain.clock import Clock
from app.domain.lease import Lease
from app.journal.feed import Feed
from app.llm.batching.items import give_up
from app.llm.governor.governor import Governor
from app.queue.caps import Caps
from app.queue.dispatch import Dispatch
from app.queue.distributed import Bounds, DistributedQueue
from app.settings import Role, Settings
from app.store.postgres import PostgresStore
from app.store.postgres_listener import Listener
from app.worker.ears import Ears, announced
from app.worker.pool import WorkerPool


def open_shared(url: str, clock: Clock | None) -> PostgresStore:
    """The shared store; with each commit the other replicas hear which tasks it is about.

    Raises:
        StoreError: the database cannot be used.
    """
    return PostgresStore(url, clock, announce=announced)


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

    def listen(heard: Callable[[str | None], None]) -> Listener:
        return Listener(store.url, clock, heard)

    return Ears(
        store.name,
        listen,
        store=store,
        feed=feed,
        pool=pool,
        turns=turns,
        governor=governor,
        clock=clock,
        poll_s=poll_s,
    )
