"""Wiring: from settings to a running service. The only module that names adapters."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

from fastapi import FastAPI

from app import __version__
from app.agent.job import HistoryLimits
from app.agent.loop import AgentLoop
from app.agent.quote import QuoteLimits
from app.api.app import create_app
from app.api.gate import Gate
from app.api.services import Defaults, Services
from app.budget.accounts import ServiceLimits, set_service_limits
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock, SystemClock
from app.domain.errors import StoreUnavailable
from app.domain.ids import new_id
from app.domain.lease import Lease
from app.domain.money import nano_from_usd
from app.journal.feed import Feed
from app.journal.views import LogView, MetricsView
from app.llm.anthropic import AnthropicProvider
from app.llm.call import Drain
from app.llm.caller import Caller, CallLimits
from app.llm.catalog import retiring
from app.llm.price_overrides import PriceFileError
from app.llm.pricing import PriceBook, UnknownModel
from app.llm.provider import Provider
from app.llm.retry import RetryLimits
from app.llm.router import cheaper
from app.llm.routing.decide import Thresholds
from app.llm.routing.score import shipped
from app.observe.logs import Redactor
from app.observe.metrics import Metrics
from app.queue.caps import Caps
from app.queue.embedded import EmbeddedQueue
from app.settings import Settings, SettingsError, unknown_variables, variable
from app.simulator.core import Simulator
from app.simulator.server import RunningServer, start
from app.store.port import ListenedStore
from app.store.postgres import PostgresStore
from app.store.space import DiskSpace
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME
from app.tools.builtin import builtin_tools
from app.tools.errors import ToolSetupError
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from app.worker.housekeeper import Housekeeper
from app.worker.keeper import LeaseKeeper, LeaseTerms
from app.worker.pool import WorkerPool

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
    simulator: RunningServer | None
    housekeeper: Housekeeper
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
        await self.pool.stop(self.grace_s)
        await self.keeper.leave()

    async def close(self) -> None:
        """Let go of everything; call `drain` first."""
        await self.housekeeper.stop()
        await self.provider.close()
        self.tools.close()
        if self.simulator is not None:
            await self.simulator.close()
        await self.store.close()


@asynccontextmanager
async def running(
    settings: Settings,
    clock: Clock | None = None,
    *,
    open_store: Callable[[Path, Clock], ListenedStore] | None = None,
    open_provider: Callable[[Settings, RunningServer | None], Provider] | None = None,
) -> AsyncIterator[Service]:
    """A service that takes work until the block is left.

    `open_store` and `open_provider` (by default those the settings name) make its two ends.

    Raises:
        SettingsError: prices, routes or tools that cannot work.
        StoreError: the data directory or its database cannot be used.
    """
    given, clock = clock, clock or SystemClock()
    prices = load_prices(settings, clock)
    tools = load_tools(clock)
    if open_store is None:
        store = make_store(settings, given)
    else:
        store = open_store(settings.data_dir, clock)
    simulator = await start(Simulator(clock)) if settings.simulated else None
    provider = (open_provider or make_provider)(settings, simulator)
    service = wire(settings, clock, prices, tools, store, provider, simulator)
    try:
        await begin(service, settings)
        yield service
    finally:
        try:
            await service.drain()
        finally:
            await service.close()


def make_store(settings: Settings, clock: Clock | None = None) -> ListenedStore:
    """The store that the settings name. PostgreSQL has its own clock, unless one is given.

    Raises:
        StoreError: the data directory or the database cannot be used.
    """
    if settings.database_url is None:
        return SqliteStore(settings.data_dir, clock or SystemClock())
    return PostgresStore(settings.database_url.get_secret_value(), clock)


def store_beside(settings: Settings, *, make: bool) -> ListenedStore:
    """The store for a short command, also while a service runs on it; without `make` it must be there already.

    Raises:
        StoreError: there is none, or the data directory or its database cannot be used.
    """
    if settings.database_url is not None:
        return PostgresStore(settings.database_url.get_secret_value(), make=make)
    path = settings.data_dir / DATABASE_NAME
    if not make and not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    return SqliteStore(settings.data_dir, SystemClock(), alone=False)


def load_prices(settings: Settings, clock: Clock) -> PriceBook:
    """The price book; every route must have a price in it.

    Raises:
        SettingsError: a price file with mistakes, or a route without a price.
    """
    try:
        prices = PriceBook.load(settings.price_file)
    except PriceFileError as error:
        raise SettingsError(list(error.mistakes)) from error
    today = _today(clock)
    problems = []
    for complexity, model in settings.routes.items():
        try:
            prices.row(model, today)
        except UnknownModel as error:
            problems.append(f"{variable(f'route_{complexity}')}: {error}")
    if problems:
        raise SettingsError(problems)
    return prices


def load_tools(clock: Clock) -> ToolRegistry:
    """The built-in tools and those that installed packages bring.

    Raises:
        SettingsError: a package's tool that cannot work.
    """
    tools = ToolRegistry(builtin_tools(clock))
    try:
        tools.load_entry_points()
    except ToolSetupError as error:
        raise SettingsError([str(error)]) from error
    return tools


def make_provider(settings: Settings, simulator: RunningServer | None) -> Provider:
    """Who answers: the simulator, the Anthropic API, or whatever speaks it at the base URL.

    Raises:
        SettingsError: a key that no HTTP header can carry.
    """
    key = settings.anthropic_api_key
    if simulator is not None:
        return AnthropicProvider("simulated", simulator.url)
    try:
        return AnthropicProvider(
            key.get_secret_value() if key else None,
            settings.anthropic_base_url,
            connect_timeout_s=settings.connect_timeout_s,
            max_connections=max(settings.workers * 2, 100),
        )
    except ValueError as error:
        raise SettingsError([f"ANTHROPIC_API_KEY: {error}."]) from error


def wire(  # noqa: PLR0917  (each part is named where it is made)
    settings: Settings,
    clock: Clock,
    prices: PriceBook,
    tools: ToolRegistry,
    store: ListenedStore,
    provider: Provider,
    simulator: RunningServer | None,
) -> Service:
    """Put the parts together; nothing runs yet."""
    metrics, turns = Metrics(__version__), Turns()
    lease = Lease(new_id("worker", clock.now_us()))
    floor_bytes = settings.disk_floor_bytes if settings.database_url is None else 0
    space = DiskSpace(settings.data_dir, clock, floor_bytes=floor_bytes)
    queue = EmbeddedQueue(
        store,
        clock,
        lease=lease,
        limit=settings.queue_limit,
        paused_limit=settings.paused_limit,
        caps=Caps(settings.session_concurrency, settings.key_concurrency),
        space=space,
    )
    loop = _agent_loop(settings, clock, prices, tools, store, provider, turns)
    pool = WorkerPool(store, queue, loop, turns, clock, lease, slots=settings.workers)
    housekeeper = Housekeeper(clock, store.empty_log if isinstance(store, SqliteStore) else _no_log)
    feed = Feed(
        queue.on_event, pool.on_event, LogView(simulated=settings.simulated), MetricsView(metrics)
    )
    feed.add_view(housekeeper.on_event)
    store.listener = feed.publish
    services = Services(
        gate=Gate(store, clock, required=settings.auth == "required"),
        store=store,
        queue=queue,
        feed=feed,
        tools=tools,
        prices=prices,
        metrics=metrics,
        turns=turns,
        clock=clock,
        defaults=_defaults(settings),
        version=__version__,
        simulated=settings.simulated,
        space=space,
    )
    metrics.running.set_function(lambda: pool.running)
    app = create_app(__version__)
    app.state.services = services
    keeper = _keeper(settings, clock, store, lease, pool, metrics)
    return Service(
        app,
        services,
        pool,
        keeper,
        store,
        provider,
        tools,
        simulator,
        housekeeper,
        settings.grace_s,
    )


async def _no_log() -> bool:
    """PostgreSQL looks after its own."""
    return True


def _keeper(
    settings: Settings,
    clock: Clock,
    store: ListenedStore,
    lease: Lease,
    pool: WorkerPool,
    metrics: Metrics,
) -> LeaseKeeper:
    def on_lost() -> None:
        metrics.leases_lost.inc()
        pool.abandon()

    terms = LeaseTerms(settings.heartbeat_s, settings.lease_s, settings.run_limit)
    return LeaseKeeper(
        store, clock, lease, terms, slots=settings.workers, alone=store.alone, on_lost=on_lost
    )


def _agent_loop(  # noqa: PLR0917  (see `wire`)
    settings: Settings,
    clock: Clock,
    prices: PriceBook,
    tools: ToolRegistry,
    store: ListenedStore,
    provider: Provider,
    turns: Turns,
) -> AgentLoop:
    """What thinks, and how it asks a model."""
    retry = RetryLimits(settings.retry_attempts, settings.retry_total_s)
    limits = CallLimits(settings.call_timeout_s, settings.park_after_s, retry)
    drain, redactor = Drain(), Redactor(settings.secrets())
    caller = Caller(
        store,
        provider,
        prices,
        turns,
        clock,
        limits,
        drain=drain,
        redactor=redactor,
        service=service_limits(settings),
    )
    return AgentLoop(
        store,
        caller,
        tools,
        clock,
        tool_limits=ToolLimits(
            result_limit_bytes=settings.tool_result_limit_bytes,
            timeout_limit_s=settings.tool_timeout_s,
        ),
        stream_above_tokens=settings.stream_above_tokens,
        cheaper=_cheaper(settings, prices, clock),
        drain=drain,
        redactor=redactor,
        history_limits=HistoryLimits(settings.task_event_limit, settings.task_history_limit_bytes),
    )


async def begin(service: Service, settings: Settings) -> None:
    """Take over what a dead process left, then open the queue and the slots."""
    for sentence in unknown_variables():
        _log.warning("unknown_setting", extra={"error_message": sentence})
    for ending in retiring(settings.routes, _today(service.services.clock)):
        named = {"model": ending.model, "complexity": ending.complexity}
        if ending.retires_on is not None:
            named["retires_on"] = ending.retires_on.isoformat()
        _log.warning("model_retiring", extra=named)
    await service.store.write(lambda tx: set_service_limits(tx, service_limits(settings)))
    await service.keeper.start()
    await service.services.queue.start()
    service.pool.start()
    service.housekeeper.start()


def _today(clock: Clock) -> date:
    return datetime.fromtimestamp(clock.now_us() // US_PER_S, UTC).date()


def service_limits(settings: Settings) -> ServiceLimits:
    """The budgets of the whole service."""

    def nano(usd: Decimal | None) -> int | None:
        return None if usd is None else nano_from_usd(usd)

    return ServiceLimits(
        nano(settings.service_daily_budget_usd),
        nano(settings.service_monthly_budget_usd),
        nano(settings.service_budget_usd),
        settings.budget_warning_percent,
    )


def _cheaper(settings: Settings, prices: PriceBook, clock: Clock) -> Callable[[str], str | None]:
    """How a task is downgraded: to the next of the routes, by what a token in and a token out cost."""

    def price(model: str) -> int:
        rates = prices.row(model, _today(clock)).rates
        return rates.input + rates.output

    return lambda model: cheaper(model, settings.routes, price)


def _defaults(settings: Settings) -> Defaults:
    return Defaults(
        routes=settings.routes,
        complexity=settings.default_complexity,
        thresholds=Thresholds(settings.auto_medium_score, settings.auto_complex_score),
        weights=shipped(),
        task_budget_nano=nano_from_usd(settings.task_budget_usd),
        session_budget_nano=nano_from_usd(settings.session_budget_usd),
        service=service_limits(settings),
        quote=QuoteLimits(settings.retry_attempts, settings.tool_result_limit_bytes),
        max_steps=settings.max_steps,
        max_tokens=settings.max_tokens,
        deadline_s=settings.task_deadline_s,
        ageing_us=int(settings.priority_ageing_s * US_PER_S),
    )
