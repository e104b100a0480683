"""Fixtures every level shares."""

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from app.domain.clock import Clock, SystemClock
from app.queue.dispatch import Dispatch
from app.store.port import ListenedStore
from app.store.postgres_schema import prepare
from tests.support.loglines import LineChecker, checked
from tests.support.postgres import Server, server
from tests.support.stores import (
    ADAPTERS,
    Embedded,
    Look,
    MakeStore,
    OpenStore,
    SharedDatabase,
    shared_database,
)
from tests.support.tls import certificate

# How fast this machine is must not decide whether a test passes.
settings.register_profile("bursar", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("bursar")


@pytest.fixture(scope="session")
def corpus() -> Path:
    """The folder of recorded traffic; without it the test is left out, and the summary says so."""
    named = os.environ.get("BURSAR_CORPUS")
    if not named:
        pytest.skip("recorded traffic not available: set BURSAR_CORPUS to run this part")
    folder = Path(named)
    assert (folder / "recordings").is_dir(), f"BURSAR_CORPUS={named} has no recordings/"
    return folder


@pytest.fixture(scope="session", autouse=True)
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What the machine's environment says about the service is not for the tests."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("BURSAR_", "ANTHROPIC_")) and name != "BURSAR_CORPUS":
                patch.delenv(name)
        # Every service reads what it trusts when it starts: all the world's authorities take 50 ms, this one none.
        made, _ = certificate(tmp_path_factory.mktemp("trusted"))
        patch.setenv("SSL_CERT_FILE", str(made))
        yield


@pytest.fixture(autouse=True)
def log_lines() -> Iterator[LineChecker]:
    """Every log line of the test so far; each of them must be as `log.schema.json` says."""
    with checked() as lines:
        yield lines


@pytest.fixture(scope="session")
def postgres() -> Iterator[Server]:
    """A PostgreSQL server, started by the first test that needs it."""
    with server() as running:
        yield running


@pytest.fixture(scope="session")
def shared(postgres: Server) -> Iterator[SharedDatabase]:
    """The database that tests have one after the other."""
    with shared_database(postgres) as database:
        yield database


@pytest.fixture
def database_url(shared: SharedDatabase) -> str:
    """An empty database with the schema in it."""
    shared.empty()
    return shared.url


@pytest.fixture(params=ADAPTERS)
def make_store(request: pytest.FixtureRequest) -> MakeStore:
    """Every adapter in turn."""
    if request.param == "sqlite":
        return Embedded()
    database: SharedDatabase = request.getfixturevalue("shared")
    return database


@pytest.fixture
def look(make_store: MakeStore, tmp_path: Path) -> Look:
    """Reads the test's database past the store."""
    return lambda statement: make_store.look(tmp_path, statement)


@pytest.fixture
async def open_store(make_store: MakeStore, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Opens the test's store, on every adapter; what it opened is closed after the test."""
    opened: list[ListenedStore] = []

    def make(clock: Clock | None = None) -> ListenedStore:
        opened.append(make_store(tmp_path, clock or SystemClock()))
        return opened[-1]

    yield make
    for store in opened:
        await store.close()


@pytest.fixture(scope="session")
def replica_template(postgres: Server) -> str:
    """The name of a database that has the dispatcher's tables, too; a copy of it is made within a moment."""
    url = postgres.create()
    prepare(url)
    Dispatch.prepare(url)
    return url.rpartition("/")[2]


@pytest.fixture
def replica_url(postgres: Server, replica_template: str) -> Iterator[str]:
    """A database of the test's own that replicas can share."""
    url = postgres.create(replica_template)
    yield url
    postgres.drop(url)
