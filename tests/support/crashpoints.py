"""A service that kills itself, by SIGKILL, at one named point of a task's life.

    python -m tests.support.crashpoints

imports the service once and then forks a process for each job it reads on stdin (a `Job` as JSON, one a line);
for each it answers on stdout how that process ended. What a process came past stands in its trace, one point
a line, written before the kill. The points:

| point | the process dies |
|---|---|
| `before commit: <events>` | when the transaction is complete but for its COMMIT |
| `after commit: <events>` | when it is durable, before anybody was told |
| `before send: <step>/<attempt>` | when the reservation is durable and nothing has left |
| `in flight: <step>/<attempt>` | when the upstream has the request, before its answer is taken |
| `received: <step>/<attempt>` | when the answer is there, before anything of it is recorded |

Writes are made one operation a commit: the finest grain of what can be durable, and the same in every run.
"""

import asyncio
import gc
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import aiohttp as _aiohttp  # noqa: F401  (what a service loads late, loaded before the forks)
import anthropic as _anthropic  # noqa: F401
import httpx
import httpx2 as _httpx2  # noqa: F401
import orjson

from app import settings
from app.__main__ import main as command
from app.domain.clock import Clock
from app.llm.anthropic_line import REFERENCE_HEADER
from app.llm.pricing import PriceBook
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Provider
from app.main import Service, running
from app.opening import make_provider
from app.store.port import Operation, T, Tx
from app.store.sqlite import SqliteStore
from tests.support.process import NO_KEY

LIFE_S = 30
"""A process that lives longer is ended, by SIGALRM."""
ENDED = {"succeeded", "failed", "cancelled"}


@dataclass(frozen=True)
class Job:
    """One life of a service over the data in `folder`."""

    folder: str
    upstream: str
    body: dict[str, Any]
    """The task: submitted unless it is there already."""
    settings: dict[str, Any]
    trace: str
    """Name of a new file in `folder`."""
    target: str | None = None
    """The point to die at; None: live until the task has ended, then let `doctor` look at the books."""


class Fuse:
    """Writes down every point that is passed, and kills the process at the one."""

    def __init__(self, trace: Path, target: str | None) -> None:
        self.target = target
        self._file = os.open(trace, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
        self._passed: Counter[str] = Counter()
        self._lock = threading.Lock()

    def name(self, moment: str, what: str) -> str:
        """The name of the coming point; one that was passed before gets a number."""
        plain = f"{moment}: {what}"
        count = self._passed[plain] + 1
        return plain if count == 1 else f"{plain} #{count}"

    def at(self, moment: str, what: str) -> None:
        """Pass a point, or die there."""
        with self._lock:  # another thread must not pass one more meanwhile
            name = self.name(moment, what)
            self._passed[f"{moment}: {what}"] += 1
            os.write(self._file, f"{name}\n".encode())
            if name == self.target:
                os.kill(os.getpid(), signal.SIGKILL)


class _Watched:
    """The writer's connection, with a point on both sides of each COMMIT."""

    def __init__(self, connection: sqlite3.Connection, fuse: Fuse) -> None:
        self._connection = connection
        self._fuse = fuse
        self.noted: list[str] = []
        """What the transaction holds so far."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, parameters: Any = ()) -> sqlite3.Cursor:
        if statement != "COMMIT":
            return self._connection.execute(statement, parameters)
        what, self.noted = " + ".join(self.noted) or "nothing", []
        self._fuse.at("before commit", what)
        cursor = self._connection.execute(statement)
        self._fuse.at("after commit", what)
        return cursor


class CrashingStore(SqliteStore):
    """The embedded store, one operation a commit, with points around each."""

    batch_limit = 1

    def __init__(self, folder: Path, clock: Clock, fuse: Fuse) -> None:
        super().__init__(folder, clock)
        self._watched = _Watched(self._connection, fuse)
        self._connection = cast("sqlite3.Connection", self._watched)
        self._cursor = cast("sqlite3.Cursor", self._watched)

    def _enqueue(self, op: Operation[T]) -> asyncio.Future[T]:
        def noted(tx: Tx) -> T:
            value = op(tx)
            self._watched.noted = _names(op, tx)
            return value

        return super()._enqueue(noted)


def _names(op: Operation[Any], tx: Tx) -> list[str]:
    """The operation's events, in order; the operation itself when it has none."""
    found = [_event(fact.event) for fact in cast("Any", tx).facts]
    return found or [f"{op.__module__}.{op.__qualname__.replace('.<locals>', '')}"]


def _event(event: Any) -> str:
    step, attempt = getattr(event, "step", None), getattr(event, "attempt", None)
    if step is None:
        return str(event.name)
    return f"{event.name} {step}" if attempt is None else f"{event.name} {step}/{attempt}"


class CrashingProvider:
    """A provider with points around each send."""

    def __init__(self, inner: Provider, fuse: Fuse, upstream: str) -> None:
        self._inner = inner
        self._fuse = fuse
        self._upstream = upstream

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        assert request.reference is not None
        which = request.reference.partition("/")[2]
        self._fuse.at("before send", which)
        asked = asyncio.ensure_future(self._inner.ask(request))
        if self._fuse.name("in flight", which) == self._fuse.target:
            await self._arrived(request.reference)
        self._fuse.at("in flight", which)
        try:
            answer = await asked
        except ModelFailure:
            self._fuse.at("received", which)
            raise
        self._fuse.at("received", which)
        return answer

    async def count_tokens(self, request: ModelRequest) -> int:
        return await self._inner.count_tokens(request)

    async def close(self) -> None:
        await self._inner.close()

    async def _arrived(self, reference: str) -> None:
        """Wait until the upstream has the request in hand."""
        async with httpx.AsyncClient(base_url=self._upstream, trust_env=False) as client:
            while True:
                seen = (await client.get("/simulator/requests")).json()["requests"]
                if any(one["headers"].get(REFERENCE_HEADER) == reference for one in seen):
                    return


async def _live(job: Job) -> None:
    """Run the service until the task has ended."""
    folder = Path(job.folder)
    fuse = Fuse(folder / job.trace, job.target)
    chosen = settings.load(
        _env_file=None,
        data_dir=folder / "data",
        anthropic_api_key=NO_KEY,
        anthropic_base_url=job.upstream,
        heartbeat_s=600.0,  # a beat on the way would be a point that the next life does not pass
        lease_s=1_200.0,
        **job.settings,
    )
    async with running(
        chosen,
        open_store=lambda data, clock: CrashingStore(data, clock, fuse),
        open_provider=lambda given, own: CrashingProvider(
            make_provider(given, own), fuse, job.upstream
        ),
    ) as service:
        await _to_the_end(service, job)


async def _to_the_end(service: Service, job: Job) -> None:
    transport = httpx.ASGITransport(app=service.app)
    async with httpx.AsyncClient(transport=transport, base_url="http://bursar.test") as client:
        for task_id in _accepted(Path(job.folder)) or [await _submit(client, job.body)]:
            status = ""
            while status not in ENDED:
                answer = await client.get(f"/tasks/{task_id}", headers={"prefer": "wait=20"})
                status = answer.json()["status"]


def _accepted(folder: Path) -> list[str]:
    with sqlite3.connect(folder / "data" / "bursar.db") as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tasks")]


async def _submit(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    answer = await client.post("/tasks", json=body)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["id"]
    return task_id


def _child(job: Job) -> int:
    """One process's life; its exit code. What it says goes into a file beside its data."""
    signal.alarm(LIFE_S)
    os.chdir(job.folder)
    said = os.open(f"{job.trace}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(said, 1)
    os.dup2(said, 2)
    try:
        asyncio.run(_live(job))
        return command(["doctor"])
    except BaseException:  # noqa: BLE001  (nothing of the parent's may run in the child)
        traceback.print_exc()
        return 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


def _forked(job: Job) -> int:
    """Run the job in a process of its own; its exit code, or minus the signal that ended it."""
    pid = os.fork()
    if pid == 0:
        os._exit(_child(job))
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Serve until stdin ends."""
    PriceBook.load(None)
    assert threading.active_count() == 1, "a fork would leave threads behind"
    gc.collect()
    gc.freeze()
    for line in sys.stdin.buffer:
        code = _forked(Job(**orjson.loads(line)))
        sys.stdout.write(f"{code}\n")
        sys.stdout.flush()


def as_line(job: Job) -> bytes:
    """The job as the server reads it."""
    return orjson.dumps(asdict(job)) + b"\n"


if __name__ == "__main__":
    main()
