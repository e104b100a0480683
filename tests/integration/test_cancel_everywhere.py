"""A cancel at every boundary of a task's steps: once it is acknowledged, nothing new begins."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import settings
from app.domain.clock import Clock
from app.llm.provider import ModelAnswer, ModelRequest, Provider
from app.main import Service, running
from app.opening import make_provider
from app.settings import Settings
from app.simulator.server import RunningServer
from app.store.port import Operation, Store, T
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME
from app.tools.port import Tool
from tests.acceptance.books import check_all, read_books
from tests.support.clock import yielded
from tests.support.probe import ANYTHING

TERMINAL = {"succeeded", "failed", "cancelled"}


@dataclass
class _Points:
    """The boundaries that a task comes past, counted; at the `target`-th somebody else acts."""

    target: int = 0
    passed: list[str] = field(default_factory=list)
    act: Callable[[], Awaitable[None]] | None = None
    outside: asyncio.Task[Any] | None = None
    """The test's own task: what it writes is no boundary."""

    async def at(self, name: str) -> None:
        """Come past one; the action ends before the task goes on, even if it interrupts the task."""
        self.passed.append(name)
        if len(self.passed) != self.target or self.act is None:
            return
        acting = asyncio.ensure_future(self.act())
        acting.set_name("acting")
        try:
            await asyncio.shield(acting)
        except asyncio.CancelledError:
            await acting
            raise

    def counts_here(self) -> bool:
        """Whether it is the task's run that writes, not the service around it."""
        current = asyncio.current_task()
        assert current is not None
        if current is self.outside:
            return False
        return current.get_name().startswith(("task_", "Task-"))


class _Store(SqliteStore):
    def __init__(self, folder: Path, clock: Clock, points: _Points) -> None:
        super().__init__(folder, clock)
        self._points = points

    begin_write = Store.begin_write  # by way of `write`

    async def write(self, op: Operation[T]) -> T:
        if not self._points.counts_here():
            return await super().write(op)
        name = op.__qualname__.replace(".<locals>", "")
        await self._points.at(f"before {name}")
        value = await super().write(op)
        await self._points.at(f"after {name}")
        return value


class _Provider:
    def __init__(self, inner: Provider, points: _Points) -> None:
        self._inner = inner
        self._points = points

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        await self._points.at("before the call")
        asked = asyncio.ensure_future(self._inner.ask(request))
        try:
            await self._points.at("in the call")
            answer = await asked
        except asyncio.CancelledError:
            asked.cancel()
            raise
        await self._points.at("after the call")
        return answer

    async def count_tokens(self, request: ModelRequest) -> int:
        return await self._inner.count_tokens(request)

    async def close(self) -> None:
        await self._inner.close()


@dataclass
class _Stage:
    service: Service
    client: httpx.AsyncClient
    points: _Points
    tools_begun: list[str] = field(default_factory=list)

    async def tool(self, _arguments: dict[str, Any]) -> str:
        """A tool with a boundary in its middle."""
        self.tools_begun.append("probe")
        await self.points.at("in the tool")
        return "done"

    @property
    def asked(self) -> int:
        """Requests that the upstream has had."""
        simulator = self.service.simulator
        assert simulator is not None
        return len(simulator.simulator.log.seen)

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's journal."""
        answer = await self.client.get(f"/tasks/{task_id}/events", params={"limit": 1_000})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found


@asynccontextmanager
async def _stage(folder: Path) -> AsyncIterator[_Stage]:
    points = _Points(outside=asyncio.current_task())

    def provider(given: Settings, own: RunningServer | None) -> Provider:
        return _Provider(make_provider(given, own), points)

    chosen = settings.load(
        _env_file=None, simulator="on", data_dir=folder, grace_s=0.0, session_budget_usd=1_000
    )
    async with running(
        chosen, open_store=lambda data, clock: _Store(data, clock, points), open_provider=provider
    ) as service:
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://bursar.test") as client:
            stage = _Stage(service, client, points)
            service.tools.register(
                Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=stage.tool)
            )
            yield stage


_BODIES: dict[str, dict[str, Any]] = {
    "two rounds of two tools": {
        "task": 'Work. [[sim {"steps": 2, "parallel": 2}]]',
        "tools": ["probe"],
        "complexity": "simple",
    },
    "a streamed answer": {"task": "At length.", "max_tokens": 9_000, "complexity": "simple"},
}


@dataclass
class _Acted:
    """What was so when the cancel was acknowledged."""

    status: int = 0
    asked: int = 0
    tools: int = 0


async def _life(stage: _Stage, body: dict[str, Any], target: int) -> tuple[str, _Acted]:
    """One task, cancelled at the `target`-th boundary (0: nowhere), to its end."""
    acted, done = _Acted(), asyncio.Event()
    stage.points.passed.clear()
    stage.points.target = target
    task_id = (await stage.client.post("/tasks", json=body)).json()["id"]

    async def cancel() -> None:
        answer = await stage.client.post(f"/tasks/{task_id}/cancel")
        acted.status, acted.asked = answer.status_code, stage.asked
        acted.tools = len(stage.tools_begun)
        done.set()

    stage.points.act = cancel
    shown = await stage.client.get(f"/tasks/{task_id}", headers={"prefer": "wait=20"})
    assert shown.json()["status"] in TERMINAL, stage.points.passed
    if target:  # the last boundary lies behind the end that was just seen
        async with asyncio.timeout(20):
            await done.wait()
    await yielded(20)  # whatever else it might still begin
    return task_id, acted


@pytest.mark.parametrize("name", _BODIES)
async def test_at_every_boundary(tmp_path: Path, name: str) -> None:
    """No call and no tool begins after the acknowledgement, whatever the moment; the books are right to the end."""
    ends: Counter[str] = Counter()
    accepted = set()
    async with _stage(tmp_path) as stage:
        task_id, _ = await _life(stage, _BODIES[name], 0)
        accepted.add(task_id)
        boundaries = list(stage.points.passed)
        assert len(boundaries) >= 7
        for target in range(1, len(boundaries) + 1):
            task_id, acted = await _life(stage, _BODIES[name], target)
            where = f"cancelled {boundaries[target - 1]} ({target} of {len(boundaries)})"
            accepted.add(task_id)
            task = (await stage.client.get(f"/tasks/{task_id}")).json()
            ends[task["status"]] += 1
            _check_end(task, acted, where)
            assert len(stage.tools_begun) == acted.tools, where
            kinds = [event["type"] for event in await stage.events(task_id)]
            begun = {"attempt_started", "tool_started", "task_claimed"}
            if "cancel_requested" in kinds:
                after = kinds[kinds.index("cancel_requested") :]
                assert not begun & set(after), f"{where}: {after}"
        simulator = stage.service.simulator
        assert simulator is not None
        bill = simulator.simulator.bill.as_json(with_lines=True)
    check_all(read_books(tmp_path / DATABASE_NAME, bill), accepted)
    assert ends["cancelled"] > ends["succeeded"]
    assert set(ends) <= {"cancelled", "succeeded"}


def _check_end(task: dict[str, Any], acted: _Acted, where: str) -> None:
    """Cancelled when that was promised, unless its last answer was there already; a 409 says how it ended."""
    assert acted.status in {200, 202, 409}, where
    assert task["reserved_usd"] == 0, where
    if acted.status == 409:
        assert task["status"] == "succeeded", where
    elif task["status"] != "cancelled":
        assert task["outcome"] == "answered", where
