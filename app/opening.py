"""Opening what the settings name: the store, prices, tools, the provider."""

from datetime import UTC, date, datetime
from typing import TYPE_CHECKING

from app.budget.accounts import ServiceLimits
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock, DatabaseClock, SystemClock
from app.domain.errors import StoreUnavailable
from app.llm.anthropic import AnthropicProvider
from app.llm.batching.economy import Economy
from app.llm.batching.port import SellsBatches
from app.llm.call import Drain
from app.llm.price_overrides import PriceFileError
from app.llm.pricing import PriceBook, UnknownModel
from app.llm.provider import Provider
from app.llm.retry import RetryLimits
from app.observe.logs import Redactor
from app.settings import Settings, SettingsError, variable
from app.store.port import ListenedStore, Store
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME
from app.tools.builtin import builtin_tools
from app.tools.errors import ToolSetupError
from app.tools.registry import ToolRegistry
from app.worker.batch_rows import BatchLimits
from app.worker.batches import BatchKeeper

if TYPE_CHECKING:
    from app.simulator.server import RunningServer


def make_clock(settings: Settings) -> Clock:
    """Whose instants count: the machine's, or the database's where several machines share one."""
    return SystemClock() if settings.database_url is None else DatabaseClock()


def make_store(settings: Settings, clock: Clock | None = None) -> ListenedStore:
    """The store that the settings name. PostgreSQL has its own clock, which a `DatabaseClock` follows.

    Raises:
        StoreError: the data directory or the database cannot be used.
    """
    if settings.database_url is None:
        return SqliteStore(settings.data_dir, clock or SystemClock())
    from app.replica import open_shared  # noqa: PLC0415  (the dispatcher, where it is used)

    return open_shared(settings.database_url.get_secret_value(), clock)


def store_beside(settings: Settings, *, make: bool) -> ListenedStore:
    """The store for a short command, also while a service runs on it; without `make` it must be there already.

    Raises:
        StoreError: there is none, or the data directory or its database cannot be used.
    """
    if settings.database_url is not None:
        from app.store.postgres import PostgresStore  # noqa: PLC0415  (the driver, where it is used)

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
    day = today(clock)
    problems = []
    for complexity, model in settings.routes.items():
        try:
            prices.row(model, day)
        except UnknownModel as error:
            problems.append(f"{variable(f'route_{complexity}')}: {error}")
    for model in settings.fallback_models:
        try:
            prices.row(model, day)
        except UnknownModel as error:
            problems.append(f"{variable('fallback_models')}: {error}")
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


def make_provider(settings: Settings, simulator: "RunningServer | None") -> Provider:
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


def make_economy(  # noqa: PLR0917  (as in main: each part is named where it is made)
    settings: Settings,
    store: Store,
    provider: Provider,
    prices: PriceBook,
    turns: Turns,
    clock: Clock,
    drain: Drain,
    redactor: Redactor,
    service: ServiceLimits,
) -> Economy | None:
    """Who asks in batches, where the provider takes any."""
    if not isinstance(provider, SellsBatches):
        return None
    return Economy(
        store,
        provider.batches,
        prices,
        turns,
        clock,
        RetryLimits(settings.retry_attempts, settings.retry_total_s),
        wait_s=settings.park_after_s,
        drain=drain,
        redactor=redactor,
        service=service,
    )


def make_batch_keeper(
    settings: Settings, store: ListenedStore, provider: Provider, prices: PriceBook, clock: Clock
) -> BatchKeeper | None:
    """Who looks after batches, where the provider takes any."""
    if not isinstance(provider, SellsBatches):
        return None
    limits = BatchLimits(
        settings.batch_linger_s, settings.batch_items, settings.batch_bytes, settings.batch_poll_s
    )
    return BatchKeeper(store, provider.batches, prices, clock, limits, alone=store.alone)


def today(clock: Clock) -> date:
    """The day by the service's clock, UTC."""
    return datetime.fromtimestamp(clock.now_us() // US_PER_S, UTC).date()
