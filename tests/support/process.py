"""Real processes for acceptance tests: start one, wait for what it says, end it by its own id."""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from app.domain.clock import SystemClock

ROOT = Path(__file__).parents[2]
NO_KEY = "not-a-key"
_LINE_LIMIT = 1 << 22
_POLL_S = 0.02
_CLOCK = SystemClock()


def free_port() -> int:
    """A port of loopback that nobody uses right now."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
        return port


@dataclass(frozen=True)
class Ended:
    """What a process left."""

    code: int
    out: str
    err: str


class Child:
    """A running process. Its output is read as it comes, line by line."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid
        self.out: list[str] = []
        self.err: list[str] = []
        self._more = asyncio.Event()
        pipes = [(process.stdout, self.out), (process.stderr, self.err)]
        self._readers = [
            asyncio.create_task(self._read(pipe, found)) for pipe, found in pipes if pipe
        ]
        self._open = len(self._readers)

    @property
    def running(self) -> bool:
        """It has not ended."""
        return self._process.returncode is None

    async def line(
        self, wanted: Callable[[str], bool], *, after: int = 0, timeout_s: float = 20
    ) -> int:
        """Number of the first line on stdout, from number `after` on, that is wanted."""
        return await self._find(self.out, wanted, after, timeout_s)

    async def complaint(self, wanted: Callable[[str], bool], *, timeout_s: float = 20) -> str:
        """The first line on stderr that is wanted."""
        return self.err[await self._find(self.err, wanted, 0, timeout_s)]

    async def lines(self, count: int, *, timeout_s: float = 20) -> None:
        """Wait until stdout has `count` more lines than now."""
        wanted = len(self.out) + count
        await self.line(lambda _: len(self.out) >= wanted, after=len(self.out), timeout_s=timeout_s)

    def send(self, number: signal.Signals) -> None:
        """Send the process a signal; one that has ended gets none."""
        if self.running:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    async def stall(self, duration_s: float) -> None:
        """Stop it for a while, as a machine that is suspended does, and let it go on."""
        self.send(signal.SIGSTOP)
        try:
            await _CLOCK.sleep(duration_s)
        finally:
            self.send(signal.SIGCONT)

    async def ended(self, timeout_s: float) -> Ended:
        """Wait for the end.

        Raises:
            TimeoutError: it still runs after `timeout_s`.
        """
        async with asyncio.timeout(timeout_s):
            code = await self._process.wait()
            await asyncio.gather(*self._readers)
        return Ended(code, "\n".join(self.out), "\n".join(self.err))

    async def kill(self) -> Ended:
        """End it at once, as a crash does."""
        self.send(signal.SIGKILL)
        return await self.ended(10)

    async def _find(
        self, found: list[str], wanted: Callable[[str], bool], after: int, timeout_s: float
    ) -> int:
        async with asyncio.timeout(timeout_s):
            while True:
                for number in range(after, len(found)):
                    if wanted(found[number]):
                        return number
                after = len(found)
                assert self._open, "\n".join(["it ended without saying so:", *self.err, *self.out])
                self._more.clear()
                await self._more.wait()

    async def _read(self, stream: asyncio.StreamReader, found: list[str]) -> None:
        while raw := await stream.readline():
            found.append(raw.decode().rstrip("\n"))
            self._more.set()
        self._open -= 1
        self._more.set()


async def spawn(
    *arguments: str, cwd: Path, env: Mapping[str, str] | None = None, stdout: int | None = None
) -> Child:
    """Start `python -m app …` with nothing but `env` in its environment; `stdout` may go elsewhere."""
    clean = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **(env or {})}
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "app", *arguments),
        cwd=cwd,
        env=clean,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE if stdout is None else stdout,
        stderr=asyncio.subprocess.PIPE,
        limit=_LINE_LIMIT,
    )
    return Child(process)


async def run(
    *arguments: str,
    cwd: Path,
    env: Mapping[str, str] | None = None,
    stdout: int | None = None,
    timeout_s: float = 20,
) -> Ended:
    """Run `python -m app …` to its end."""
    child = await spawn(*arguments, cwd=cwd, env=env, stdout=stdout)
    try:
        return await child.ended(timeout_s)
    finally:
        if child.running:
            await child.kill()


async def answering(child: Child, url: str, *, timeout_s: float = 45) -> None:
    """Wait until `url` answers with success."""
    async with asyncio.timeout(timeout_s), httpx.AsyncClient(trust_env=False) as client:
        while True:
            with suppress(httpx.TransportError):
                if (await client.get(url)).is_success:
                    return
            assert child.running, "\n".join(["it ended early:", *child.err, *child.out[-20:]])
            await _CLOCK.sleep(_POLL_S)


@dataclass
class Service:
    """A service that can be killed and started again: same port, same data, same upstream."""

    folder: Path
    env: dict[str, str]
    port: int = field(default_factory=free_port)
    children: list[Child] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Base address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def child(self) -> Child:
        """The latest process."""
        return self.children[-1]

    @property
    def database(self) -> Path:
        """The embedded database's file."""
        return self.folder / "data" / "bursar.db"

    async def spawn(self) -> Child:
        """Start it, without waiting for anything."""
        child = await spawn("serve", "--port", str(self.port), cwd=self.folder, env=self.env)
        self.children.append(child)
        return child

    async def start(self) -> Child:
        """Start it and wait until it is ready."""
        child = await self.spawn()
        await answering(child, f"{self.url}/readyz")
        return child

    async def stop(self, timeout_s: float = 30) -> Ended:
        """End it in good order."""
        self.child.send(signal.SIGTERM)
        return await self.child.ended(timeout_s)

    def client(self) -> httpx.AsyncClient:
        """A client for the API."""
        return client_of(self.url)


def client_of(url: str) -> httpx.AsyncClient:
    """An HTTP client that waits as long as the API may hold a request, over many connections."""
    limits = httpx.Limits(max_connections=1_000, max_keepalive_connections=1_000)
    return httpx.AsyncClient(base_url=url, timeout=75, limits=limits, trust_env=False)


@asynccontextmanager
async def simulator(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator process of its own; the client is for its own endpoints (`base_url` is its address)."""
    url = f"http://127.0.0.1:{(port := free_port())}"
    child = await spawn("simulate", "--port", str(port), cwd=folder)
    try:
        await answering(child, f"{url}/simulator/bill?lines=0")
        async with client_of(url) as client:
            yield client
    finally:
        await child.kill()


@asynccontextmanager
async def service(folder: Path, upstream: str, **settings: str) -> AsyncIterator[Service]:
    """A service over `upstream`, not yet started. Its processes end with the block, whatever happens."""
    env = {"ANTHROPIC_API_KEY": NO_KEY, "ANTHROPIC_BASE_URL": upstream, **settings}
    made = Service(folder, env)
    try:
        yield made
    finally:
        for child in made.children:
            await child.kill()
