"""A worker pool with everything under it, over a scripted provider."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app.agent.job import HistoryLimits
from app.agent.loop import AgentLoop
from app.domain.lease import Lease
from app.domain.task import LOCAL_OWNER, TaskStatus
from app.journal.event import Event
from app.journal.feed import Feed
from app.journal.journal import Recorded
from app.queue import verbs
from app.queue.embedded import EmbeddedQueue
from app.store.port import Row
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from app.worker.pool import WorkerPool
from app.worker.recovery import take_over
from tests.support.clock import yielded
from tests.support.desk import Desk, open_desk
from tests.support.probe import ANYTHING, Probe
from tests.support.provider import Line
from tests.support.seeding import accepted, hold_lease, lease_of, row_of

RUN_LIMIT = 3


@dataclass
class Works:
    """One process's queue and pool, and what its journal has told so far."""

    desk: Desk
    queue: EmbeddedQueue
    pool: WorkerPool
    probe: Probe
    told: list[Recorded]
    lease: Lease

    async def accept(self, task_id: str = "t", **given: Any) -> None:
        """A waiting task that may use the probe."""
        given.setdefault("tools", ("probe",))
        await accepted(self.desk.store, task_id, **given)

    async def start(self) -> int:
        """What the service does at its start; how many tasks were left behind."""
        rescued = await take_over(self.desk.store.inner, RUN_LIMIT)
        await self.desk.store.inner.write(hold_lease)
        await self.queue.start()
        self.pool.start()
        return rescued

    async def stop(self, grace_s: float = 0.0) -> None:
        """What the service does at its end."""
        await self.queue.stop()
        await self.pool.stop(grace_s)

    async def crash(self) -> None:
        """From here on this process writes nothing any more, and everything in it ends."""
        self.desk.store.dead = True
        current = asyncio.current_task()
        async with asyncio.timeout(10):
            while doomed := [
                task
                for task in asyncio.all_tasks()
                if task is not current and task.get_name() != "store-flush"
            ]:
                for task in doomed:
                    task.cancel()
                await asyncio.wait(doomed, timeout=0.05)

    async def cancel(self, task_id: str = "t") -> TaskStatus:
        """Ask for a cancellation."""
        return await self.desk.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, task_id))

    async def ended(self, task_id: str = "t") -> Row:
        """The task once it has ended."""
        return await self.until(task_id, "succeeded", "failed", "cancelled")

    async def until(self, task_id: str, *statuses: str) -> Row:
        """The task once it stands like this."""
        async with asyncio.timeout(45):
            while (row := await row_of(self.desk.store, task_id))["status"] not in statuses:
                await yielded(3)
        # A reader may see a commit before it is told of: by the next write it has been told.
        await self.desk.store.inner.write(lambda _tx: None)
        return row

    def events(self, kind: type[Event], task_id: str = "t") -> list[Any]:
        """What was told of a task."""
        return [
            entry.event
            for entry in self.told
            if isinstance(entry.event, kind) and entry.subject.task_id == task_id
        ]


OpenWorks = Callable[..., Any]


@pytest.fixture
def open_works(tmp_path: Path) -> OpenWorks:
    """Opens works over the test's one data directory; the provider will say the given script."""

    @asynccontextmanager
    async def make(
        *script: Line,
        slots: int = 2,
        history_limits: HistoryLimits | None = None,
        **options: Any,
    ) -> AsyncIterator[Works]:
        probe = Probe()
        tools = ToolRegistry(
            [Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=probe.run)]
        )
        async with open_desk(tmp_path / "data", *script, **options) as desk:
            loop = AgentLoop(
                desk.store,
                desk.caller,
                tools,
                desk.clock,
                tool_limits=ToolLimits(),
                stream_above_tokens=8_192,
                history_limits=history_limits,
            )
            lease = await lease_of(desk.store.inner)
            queue = EmbeddedQueue(desk.store, desk.clock, lease=lease, limit=1_000)
            held = desk.store, queue, loop, desk.turns, desk.clock, lease
            pool = WorkerPool(*held, slots=slots, governor=desk.governor)
            told: list[Recorded] = []
            desk.store.inner.listener = Feed(queue.on_event, pool.on_event, told.append).publish
            works = Works(desk, queue, pool, probe, told, lease)
            try:
                yield works
            finally:
                if not desk.store.dead:
                    await works.stop()
                tools.close()

    return make
