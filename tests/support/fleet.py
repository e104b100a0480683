"""Replicas as real processes on one PostgreSQL: an API, workers, and whatever becomes of them."""

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.support.process import NO_KEY, Child, Ended, answering, client_of, free_port, spawn

NONE: Mapping[str, str] = {}
_START_S = 240
"""A worker loads a second's worth of libraries; on a busy machine that takes a while."""


@dataclass
class Replica:
    """One process, and where it answers probes."""

    child: Child
    port: int

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.port}"


@dataclass
class Fleet:
    """Replicas that can be started, killed, stopped and frozen, each by its own process id."""

    folder: Path
    env: dict[str, str]
    all: list[Replica] = field(default_factory=list)

    async def start(
        self, role: str, *, port: int | None = None, settings: Mapping[str, str] = NONE
    ) -> Replica:
        """Another replica, ready; `settings` are its own."""
        replica = await self.launch(role, port=port, settings=settings)
        try:
            await answering(replica.child, f"{replica.url}/readyz", timeout_s=_START_S)
        except TimeoutError:
            said = "\n".join([*replica.child.err, *replica.child.out[-20:]])
            raise AssertionError(f"{role} is not ready after {_START_S} s:\n{said}") from None
        return replica

    async def launch(
        self, role: str, *, port: int | None = None, settings: Mapping[str, str] = NONE
    ) -> Replica:
        """Another replica, not waited for."""
        port, env = port or free_port(), {**self.env, **settings}
        child = await spawn(role, "--port", str(port), cwd=self.folder, env=env)
        self.all.append(Replica(child, port))
        return self.all[-1]

    async def workers(self, count: int) -> list[Replica]:
        """So many workers, started at the same time."""
        return await self.several("worker", count)

    async def several(self, role: str, count: int) -> list[Replica]:
        """So many of one role, started at the same time."""
        return await asyncio.gather(*(self.start(role) for _ in range(count)))

    async def stop(self, replica: Replica, timeout_s: float = 30) -> Ended:
        """End it in good order."""
        replica.child.send(signal.SIGTERM)
        return await replica.child.ended(timeout_s)

    def client(self, replica: Replica) -> httpx.AsyncClient:
        """A client for its API."""
        return client_of(replica.url)


@asynccontextmanager
async def fleet(
    folder: Path, database_url: str, upstream: str, **settings: str
) -> AsyncIterator[Fleet]:
    """No replica runs yet; none is left after the block."""
    env = {
        "ANTHROPIC_API_KEY": NO_KEY,
        "ANTHROPIC_BASE_URL": upstream,
        "BURSAR_DATABASE_URL": database_url,
        **settings,
    }
    made = Fleet(folder, env)
    try:
        yield made
    finally:
        for replica in made.all:
            replica.child.send(signal.SIGCONT)
            await replica.child.kill()
