"""The service as its users run it: a process of its own, default settings, its log in a file."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic

from app.domain.clock import SystemClock
from bench.client import Connection, connected, get, submit_all
from bench.process import ChildFailedError, child, cpu_s, free_port
from bench.workload import CONCURRENCY

SUBMITTERS = 16
"""Connections that submit tasks."""
_READY_LIMIT_S = 180.0
_END_LIMIT_S = 60.0
_POLL_S = 0.01
_QUIET_S, _QUIET_SHARE = 0.5, 0.04
"""A service is quiet that has used so little of a processor for so long."""
_CLOCK = SystemClock()


@dataclass(frozen=True, slots=True)
class Service:
    """A running service."""

    pid: int
    port: int
    started_s: float
    """Wall seconds from exec to the first 200 of /readyz."""
    started_cpu_s: float

    async def settle(self) -> None:
        """Wait until it has done what it does after it was ready: the SDK is loaded beside the loop."""
        limit_s = monotonic() + _END_LIMIT_S
        while monotonic() < limit_s:
            used_s = cpu_s(self.pid)
            await _CLOCK.sleep(_QUIET_S)
            if cpu_s(self.pid) - used_s < _QUIET_S * _QUIET_SHARE:
                return

    async def run(self, body: bytes, count: int) -> int:
        """Submit `count` tasks and wait until all of them have ended; how many have no answer."""
        async with connected(self.port) as watch:
            before = await _ended(watch)
        last = json.loads(await submit_all(self.port, body, count, SUBMITTERS))
        async with connected(self.port) as watch:
            # Asking while the tasks run would be measured with them: wait for the last one first.
            await watch.ask(get(last["links"]["self"], "prefer: wait=60"))
            limit_s = monotonic() + _END_LIMIT_S
            while (now := await _ended(watch)).total() < before.total() + count:
                if monotonic() > limit_s:
                    break
                await _CLOCK.sleep(_POLL_S)
        return count - (now - before)["answered"]


async def _ended(connection: Connection) -> Counter[str]:
    """Tasks that have ended, by outcome."""
    _, text = await connection.ask(get("/metrics"))
    pattern = r'^bursar_tasks_total\{outcome="([^"]*)",[^}]*\} (\S+)$'
    samples = re.findall(pattern, text.decode(), re.MULTILINE)
    return Counter({outcome: int(float(value)) for outcome, value in samples})


@asynccontextmanager
async def serving(
    upstream_url: str,
    *,
    workers: int = CONCURRENCY,
    home: Path | None = None,
    ready_limit_s: float = _READY_LIMIT_S,
    role: str = "serve",
    **variables: str,
) -> AsyncIterator[Service]:
    """A service ready to take work, in `home` or a directory of its own; killed at the end."""
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        folder, port = home or Path(name), free_port()
        settings = {
            "ANTHROPIC_API_KEY": "bench",
            "ANTHROPIC_BASE_URL": upstream_url,
            "BURSAR_PORT": str(port),
            "BURSAR_WORKERS": str(workers),
            **variables,
        }
        with (folder / "log.jsonl").open("wb") as log:
            began_s = monotonic()
            async with child("-m", "app", role, folder=folder, stdout=log, **settings) as process:
                await _until_ready(process, port, ready_limit_s)
                ready_s = monotonic() - began_s
                yield Service(process.pid, port, ready_s, cpu_s(process.pid))


async def _until_ready(process: asyncio.subprocess.Process, port: int, limit_s: float) -> None:
    deadline_s = monotonic() + limit_s
    while process.returncode is None and monotonic() < deadline_s:
        with suppress(OSError):
            async with connected(port) as connection:
                status, _ = await connection.ask(get("/readyz"))
                if status == 200:
                    return
        await _CLOCK.sleep(_POLL_S)
    message = f"the service is not ready; exit code {process.returncode}"
    raise ChildFailedError(message)
