"""Who is measured: the service, the bare loops, and libraries of the field where they are installed (`make peers`).

Each in a process of its own, doing the same tasks against the same upstream.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from bench.process import ROOT, child, line, tell
from bench.service import serving
from bench.workload import submission

Run = Callable[[str, int], Awaitable[int]]
"""Run so many tasks of a workload to their ends; how many failed."""
SERVICE = "service"
BASELINE = "bare, default transport"
_BARE = {
    BASELINE: ("default", "asyncio"),
    "bare, default transport, uvloop": ("default", "uvloop"),
    "bare, aiohttp transport": ("aiohttp", "asyncio"),
    "bare, aiohttp transport, uvloop": ("aiohttp", "uvloop"),
}
PEERS_PYTHON = ROOT / ".venv-peers" / "bin" / "python"
"""They pin what we pin otherwise: they live in an environment of their own."""
_PEERS = {
    "agno": "agno",
    "langchain create_agent": "langchain",
    "pydantic-ai": "pydantic_ai",
}
_SILENT: dict[str, Any] = {"LANGSMITH_TRACING": "false", "AGNO_TELEMETRY": "false"}
"""Nothing is sent anywhere."""


def contenders() -> tuple[str, ...]:
    """Names, the service first."""
    return (SERVICE, *_BARE, *(_PEERS if PEERS_PYTHON.exists() else ()))


@asynccontextmanager
async def contender(
    name: str, url: str, folder: Path, at_a_time: int
) -> AsyncIterator[tuple[int, Run]]:
    """The process id of a contender that is ready, and how to make it work on `at_a_time` tasks side by side."""
    if name == SERVICE:
        async with serving(url, workers=at_a_time) as service:

            async def submit(what: str, count: int) -> int:
                return await service.run(submission(what), count)

            yield service.pid, submit
        return
    arguments: tuple[str, ...]
    if name in _BARE:
        python, arguments = sys.executable, ("-m", "bench.bare", url, *_BARE[name])
    else:
        python, arguments = str(PEERS_PYTHON), ("-m", "bench.peers", url, _PEERS[name])
    async with child(*arguments, folder=folder, python=python, **_SILENT) as process:
        await line(process)

        async def order(what: str, count: int) -> int:
            await tell(process, f"{what} {count} {at_a_time}".encode())
            return int((await line(process)).split()[1])

        yield process.pid, order


def in_turn(number: int) -> list[str]:
    """All of them, another one first in each round."""
    names = contenders()
    turn = number % len(names)
    return [*names[turn:], *names[:turn]]
