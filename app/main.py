"""Wiring: from settings to a running service. Only this, `opening` and `replica` name adapters."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from app import __version__
from app.api.app import create_app
from app.api.gate import Gate
from app.api.services import Services
from app.api.upstream import UpstreamCollector
from app.budget.accounts import set_service_limits
from app.budget.turns import Turns
from app.domain.clock import Clock
from app.domain.ids import new_id
from app.domain.lease import Lease
from app.journal.feed import Feed
from app.journal.views import LogView, MetricsView
from app.llm.batching.items import give_up
from app.llm.catalog import retiring
from app.llm.live import Live
from app.llm.pricing import PriceBook
from app.llm.provider import Provider, WarmsUp
from app.observe.logs import lines_together
from app.observe.metrics import Metrics
from app.opening import (
    load_prices,
    load_tools,
    make_batch_keeper,
    make_clock,
    make_provider,
    make_store,
    today,
)
from app.parts import agent_loop, defaults_of, make_governor, service_limits
from app.queue.caps import Caps
from app.queue.embedded import EmbeddedQueue
from app.queue.port import Queue
from app.settings import Role, Settings, unknown_variables
from app.store.port import ListenedStore
from app.store.space import DiskSpace
from app.store.sqlite import SqliteStore
from app.store.timely import TimelyStore
from app.tools.registry import ToolRegistry
from app.worker.batches import BatchKeeper
from app.worker.ears import Ears
from app.worker.housekeeper import Housekeeper
from app.worker.keeper import LeaseKeeper, LeaseTerms
from app.worker.pool import WorkerPool

if TYPE_CHECKING:
    from app.simulator.server import RunningServer
    from app.store.postgres import PostgresStore

API_STORE_LIMIT_S = 20.0
"""How long a request waits for a store that may be far away."""
_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Service:
    """Everything of one process, running."""

    app: FastAPI
    services: Services
    pool: WorkerPool
    keeper: LeaseKeeper
    store: ListenedStore
    provider: Provider
    tools: ToolRegistry
    simulator: "RunningServer | None"
    housekeeper: Housekeeper
    batches: BatchKeeper | None
    ears: Ears | None
    grace_s: float

    async def drain(self) -> None:
        """Take no new work, end the streams, finish or hand back what runs. Within the grace period."""
        if self.services.stopping:
            return
        self.services.stopping = True
        self.pool.begin_drain()
        _log.info("draining", extra={"running": self.pool.running})
        self.services.feed.stop()
        await self.keeper.stop_rescuing()
        await self.services.queue.stop()
        if self.batches is not None:
            await self.batches.stop()
        await self.pool.stop(self.grace_s)
        await self.keeper.leave()

    async def close(self) -> None:
        """Let go of everything; call `drain` first."""
        if self.ears is not None:
            await self.ears.stop()
        await self.services.queue.close()
        await self.housekeeper.stop()
        await self.provider.close()
        self.tools.close()
        if self.simulator is not None:
            await self.simulator.close()
        await self.store.close()


OpenEars = Callable[[Settings, ListenedStore, Services, WorkerPool], Ears | None]


@asynccontextmanager
async def running(
    settings: Settings,
    clock: Clock | None = None,
    *,
    open_store: Callable[[Path, Clock], ListenedStore] | None = None,
    open_provider: Callable[[Settings, "RunningServer | None"], Provider] | None = None,
    open_ears: OpenEars | None = None,
    role: Role = Role.SERVE,
) -> AsyncIterator[Service]:
    """A service, or the part of one that has this role, at work until the block is left.

    `open_store` and `open_provider` (by default those the settings name) make its two ends, `open_ears` what hears of others.

    Raises:
        SettingsError: prices, routes or tools that cannot work.
        StoreError: the data directory or its database cannot be used.
    """
    clock = clock or make_clock(settings)
    prices = load_prices(settings, clock)
    tools = load_tools(clock)
    if open_store is None:
        store = make_store(settings, clock)
    else:
        store = open_store(settings.data_dir, clock)
    simulator = await _simulator(clock) if settings.simulated else None
    provider = (open_provider or make_provider)(settings, simulator)
    parts = settings, clock, prices, tools, store, provider, simulator
    service = wire(*parts, open_ears=open_ears, role=role)
    try:
        await begin(service, settings)
        if role is not Role.API and isinstance(provider, WarmsUp):
            provider.warm_up()
        yield service
    finally:
        try:
            await service.drain()
        finally:
            await service.close()


async def _simulator(clock: Clock) -> "RunningServer":
    from app.simulator.core import Simulator  # noqa: PLC0415  (and its HTTP server, where it is used)
    from app.simulator.server import start  # noqa: PLC0415

    return await start(Simulator(clock))


def wire(  # noqa: PLR0917  (each part is named where it is made)
    settings: Settings,
    clock: Clock,
    prices: PriceBook,
    tools: ToolRegistry,
    store: ListenedStore,
    provider: Provider,
    simulator: "RunningServer | None",
    *,
    open_ears: OpenEars | None = None,
    role: Role = Role.SERVE,
) -> Service:
    """Put the parts together; nothing runs yet."""
    metrics, turns, live = Metrics(__version__), Turns(), Live()
    governor = make_governor(settings, clock, turns)
    lease = Lease(new_id("worker", clock.now_us()))
    slots = 0 if role is Role.API else settings.workers
    floor_bytes = settings.disk_floor_bytes if settings.database_url is None else 0
    space = DiskSpace(settings.data_dir, clock, floor_bytes=floor_bytes)
    queue = _queue(settings, role, store, clock, lease, space)
    loop = agent_loop(settings, clock, prices, tools, store, provider, turns, lease, live, governor)
    pool = WorkerPool(store, queue, loop, turns, clock, lease, slots=slots, governor=governor)
    empty_log = store.empty_log if isinstance(store, SqliteStore) else _no_log
    kept_days = settings.retention_days if slots else None
    housekeeper = Housekeeper(store, clock, empty_log, retention_days=kept_days)
    views = LogView(simulated=settings.simulated), MetricsView(metrics)
    feed = Feed(queue.on_event, pool.on_event, *views, together=lines_together)
    feed.add_view(housekeeper.on_event)
    batches = make_batch_keeper(settings, store, provider, prices, clock) if slots else None
    if batches is not None:
        feed.add_view(batches.on_event)
    store.listener = feed.publish
    asked = store if store.alone else TimelyStore(store, API_STORE_LIMIT_S)
    services = Services(
        gate=Gate(asked, clock, required=settings.auth == "required"),
        store=asked,
        queue=queue,
        feed=feed,
        tools=tools,
        prices=prices,
        metrics=metrics,
        turns=turns,
        live=live,
        governor=governor,
        clock=clock,
        defaults=defaults_of(settings),
        version=__version__,
        simulated=settings.simulated,
        space=space,
        provider=provider,
    )
    metrics.running.set_function(lambda: pool.running)
    metrics.registry.register(UpstreamCollector(governor))
    app = create_app(__version__, probes_only=role is Role.WORKER)
    app.state.services = services
    terms = LeaseTerms(settings.heartbeat_s, settings.lease_s, settings.run_limit, slots)
    keeper = LeaseKeeper(store, clock, lease, terms, pool.abandon, metrics, alone=store.alone)
    ears = (open_ears or _ears)(settings, store, services, pool)
    held = app, services, pool, keeper, store, provider, tools, simulator
    return Service(*held, housekeeper, batches, ears, settings.grace_s)


def _queue(
    settings: Settings,
    role: Role,
    store: ListenedStore,
    clock: Clock,
    lease: Lease,
    space: DiskSpace,
) -> Queue:
    shared = _shared(settings, store)
    if shared is not None:
        from app.replica import shared_queue  # noqa: PLC0415  (the dispatcher, where it is used)

        return shared_queue(settings, role, shared, clock, lease)
    return EmbeddedQueue(
        store,
        clock,
        lease=lease,
        limit=settings.queue_limit,
        paused_limit=settings.paused_limit,
        caps=Caps(settings.session_concurrency, settings.key_concurrency),
        space=space,
        before_end=give_up,
    )


def _ears(
    settings: Settings, store: ListenedStore, services: Services, pool: WorkerPool
) -> Ears | None:
    shared = _shared(settings, store)
    if shared is None:
        return None  # nobody else writes
    from app.replica import ears_on  # noqa: PLC0415

    heard_by = services.feed, pool, services.turns, services.governor
    return ears_on(shared, *heard_by, services.clock, poll_s=settings.heartbeat_s)


def _shared(settings: Settings, store: ListenedStore) -> "PostgresStore | None":
    """The store, if other processes may share it."""
    if settings.database_url is None:
        return None
    from app.store.postgres import PostgresStore  # noqa: PLC0415  (the driver, where it is used)

    return store if isinstance(store, PostgresStore) else None


async def _no_log() -> bool:
    """PostgreSQL looks after its own."""
    return True


async def begin(service: Service, settings: Settings) -> None:
    """Take over what a dead process left, then open the queue and the slots."""
    for sentence in unknown_variables():
        _log.warning("unknown_setting", extra={"error_message": sentence})
    for ending in retiring(settings.routes, today(service.services.clock)):
        named = {"model": ending.model, "complexity": ending.complexity}
        if ending.retires_on is not None:
            named["retires_on"] = ending.retires_on.isoformat()
        _log.warning("model_retiring", extra=named)
    await service.store.write(lambda tx: set_service_limits(tx, service_limits(settings)))
    await service.keeper.start()
    await service.services.queue.start()
    service.pool.start()
    service.housekeeper.start()
    if service.batches is not None:
        service.batches.start()
    if service.ears is not None:
        service.ears.start()
