"""Stores with a past and the services on them, on either database: what `bench.history` compares."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path
from time import monotonic
from typing import Any, Protocol

import psycopg

from app.domain.clock import SystemClock
from app.domain.task import LOCAL_OWNER
from app.store.port import Store
from app.store.postgres import PostgresStore
from app.store.sqlite import SqliteStore
from bench.client import Connection, connected, post
from bench.past import Copy, copies, fill_postgres, fill_sqlite
from bench.process import cpu_s
from bench.service import Service, serving
from bench.workload import submission
from tests.support.postgres import Server

WAIT = "prefer: wait=60"
SERVER_OPTIONS = ("autovacuum=on", "shared_buffers=512MB", "max_wal_size=4GB")
"""A database server as an operator has it: durable, and looking after itself."""
START_LIMIT_S = 600.0
_SAMPLE = 20_000
_CLOCK = SystemClock()
_PATTERN_SESSION = "patterns"


class Place(Protocol):
    """Where a store lies."""

    @property
    def variables(self) -> dict[str, Any]:
        """What its service must be told."""
        ...

    def fill(self, past: list[Copy]) -> None:
        """Write the past down."""
        ...

    def size_mb(self) -> float:
        """How large it is."""
        ...

    def open(self) -> Store:
        """The store, for this process."""
        ...

    def database_cpu_s(self) -> float:
        """CPU seconds that the processes of its database have used."""
        ...


@dataclass(frozen=True, slots=True)
class Embedded:
    """The file in the home's data directory."""

    home: Path

    @property
    def variables(self) -> dict[str, Any]:
        return {}

    def fill(self, past: list[Copy]) -> None:
        fill_sqlite(self.home / "data" / "bursar.db", iter(past))

    def size_mb(self) -> float:
        return sum(file.stat().st_size for file in (self.home / "data").iterdir()) / 2**20

    def open(self) -> Store:
        return SqliteStore(self.home / "data", _CLOCK)

    def database_cpu_s(self) -> float:
        return 0.0


_BACKENDS = """
SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
AND backend_type = 'client backend'
"""
"""Who works for us. Whoever vacuums comes and goes when it likes."""


@dataclass(frozen=True, slots=True)
class Shared:
    """A database of a PostgreSQL server."""

    server: Server
    url: str

    @property
    def variables(self) -> dict[str, Any]:
        return {"BURSAR_DATABASE_URL": self.url}

    def fill(self, past: list[Copy]) -> None:
        fill_postgres(self.url, iter(past))

    def size_mb(self) -> float:
        name = self.url.rpartition("/")[2]
        size: int = self.server.execute(f"SELECT pg_database_size('{name}')")[0][0]
        return size / 2**20

    def open(self) -> Store:
        return PostgresStore(self.url)

    def database_cpu_s(self) -> float:
        used_s = 0.0
        with psycopg.connect(self.url, autocommit=True) as connection:
            for (pid,) in connection.execute(_BACKENDS):
                with suppress(OSError):  # it has hung up meanwhile
                    used_s += cpu_s(pid)
        return used_s


@dataclass(slots=True)
class Side:
    """A store with a past, and the service on it."""

    name: str
    home: Path
    place: Place
    past: list[Copy]
    """Some of its tasks, oldest first."""
    service: Service | None = None
    connection: Connection | None = None
    chance: random.Random = field(default_factory=lambda: random.Random(7))  # noqa: S311

    def some(self) -> Copy:
        """Any task of the past that the API shows."""
        while (found := self.chance.choice(self.past)).owner != LOCAL_OWNER:
            pass
        return found

    async def ask(self, request: bytes) -> float:
        """Milliseconds until the answer.

        Raises:
            ConnectionError: it was an error.
        """
        assert self.connection is not None  # noqa: S101  (see `talking`)
        began_s = monotonic()
        status, body = await self.connection.ask(request)
        took_ms = (monotonic() - began_s) * 1e3
        if status >= 400:
            message = f"{request[:60]!r} answered {status}: {body[:300]!r}"
            raise ConnectionError(message)
        return took_ms

    @asynccontextmanager
    async def serving(self, url: str) -> AsyncIterator[None]:
        """Its service, ready; told how long that took."""
        async with self._service(url) as service:
            say(
                f"{self.name}: ready in {service.started_s:.2f} s, CPU {service.started_cpu_s:.2f} s"
            )
            self.service = service
            yield

    @asynccontextmanager
    async def talking(self) -> AsyncIterator[None]:
        """A connection to its service, which hangs up on those that say nothing for long."""
        assert self.service is not None  # noqa: S101  (see `serving`)
        async with connected(self.service.port) as self.connection:
            yield

    def _service(self, url: str) -> AbstractAsyncContextManager[Service]:
        return serving(url, home=self.home, ready_limit_s=START_LIMIT_S, **self.place.variables)


async def filled(name: str, home: Path, place: Place, url: str, count: int) -> Side:
    """A store with `count` finished tasks more than the few that its service ran; one that is there is used again."""
    sample = home / "sample.json"
    if await asyncio.to_thread(sample.exists):
        return Side(name, home, place, [Copy(*one) for one in json.loads(sample.read_bytes())])
    await asyncio.to_thread(home.mkdir)
    patterns = await _patterns(url, home, place.variables)
    began_s = monotonic()
    past = list(copies(count, _CLOCK.now_us(), patterns))
    await asyncio.to_thread(place.fill, past)
    size_mb = await asyncio.to_thread(place.size_mb)
    say(f"{name}: {count} tasks in {monotonic() - began_s:.0f} s, {size_mb:.0f} MB")
    chosen = sorted(random.Random(7).sample(past, min(_SAMPLE, count)), key=lambda c: c.number)  # noqa: S311
    sample.write_text(json.dumps([astuple(one) for one in chosen]), encoding="utf-8")
    return Side(name, home, place, chosen)


async def _patterns(url: str, home: Path, variables: dict[str, Any]) -> list[str]:
    """Let the service run the tasks that the past is copied from."""
    once: dict[str, Any] = {**json.loads(submission("w1")), "session_id": _PATTERN_SESSION}
    tools = {**once, "tools": ["calculator"]}
    found = []
    async with (
        serving(url, home=home, **variables) as service,
        connected(service.port) as connection,
    ):
        for body in (once, tools, {**tools, "max_steps": 1}):
            _, answer = await connection.ask(post("/tasks", json.dumps(body).encode(), WAIT))
            found.append(json.loads(answer)["id"])
    return found


def say(what: str) -> None:
    """To whoever waits for the results."""
    sys.stderr.write(what + "\n")
    sys.stderr.flush()
