"""A run that others overtake: just before one of its writes they take its task over, and it knows nothing of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

from app.agent.escalation import NO_LADDER
from app.agent.fallback import Fallback
from app.agent.loop import AgentLoop
from app.budget.turns import Turns
from app.domain.lease import Lease
from app.domain.task import Claim
from app.llm.batching.economy import Economy
from app.llm.caller import Caller, CallLimits
from app.llm.pricing import PriceRow
from app.llm.retry import RetryLimits
from app.queue.embedded import EmbeddedQueue
from app.simulator.core import Simulator
from app.store.port import Operation, Store, T
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from app.worker.pool import WorkerPool
from tests.support.batching import DirectBatches
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.probe import ANYTHING, Probe
from tests.support.provider import Hang, Line, ScriptedProvider


class OvertakenStore(Store):
    """Before its write number `at` comes `others`. Until then it notes which functions write."""

    def __init__(
        self,
        inner: Store,
        at: int | None = None,
        others: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._inner = inner
        self._at = at
        self._others = others
        self.writers: list[str] = []

    async def write(self, op: Operation[T]) -> T:
        if len(self.writers) == self._at and self._others is not None:
            others, self._others = self._others, None
            await others()
        if self._at is None or self._others is not None:
            self.writers.append(op.__qualname__.partition(".<locals>")[0])
        return await self._inner.write(op)

    async def read(self, op: Operation[T]) -> T:
        return await self._inner.read(op)

    async def close(self) -> None:
        """Somebody else's."""


@dataclass
class Runner:
    """A process that runs one task."""

    pool: WorkerPool
    provider: ScriptedProvider
    probe: Probe

    async def run(self, claim: Claim, *, interrupt: str | None = None) -> bool:
        """One run of the task, interrupted in its first call if that hangs: to `cancel` it, or else for a drain."""
        hanging = [line for line in self.provider.script if isinstance(line, Hang)]
        running = asyncio.create_task(self.pool._run(claim))
        if hanging:
            entered = asyncio.create_task(hanging[0].entered.wait())
            await asyncio.wait({running, entered}, return_when=asyncio.FIRST_COMPLETED)
            entered.cancel()
            if interrupt == "cancel":
                self.pool._interrupt(claim.subject.task_id)
            else:
                running.cancel("drain")
        return await running


@asynccontextmanager
async def open_runner(
    store: Store, script: Sequence[Line], worker: str = "w"
) -> AsyncIterator[Runner]:
    """A process over that store whose provider will say the script."""
    clock, turns, lease, probe = FakeClock(), Turns(), Lease(worker), Probe()
    provider, retry = ScriptedProvider(*script), RetryLimits(max_attempts=2)
    tools = ToolRegistry(
        [Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=probe.run)]
    )
    caller = Caller(store, provider, prices(), turns, clock, CallLimits(retry=retry))
    loop = AgentLoop(
        store,
        caller,
        tools,
        clock,
        tool_limits=ToolLimits(),
        stream_above_tokens=8_192,
        economy=Economy(
            store, DirectBatches(Simulator(clock)), prices(), turns, clock, retry, wait_s=5.0
        ),
        ladder=replace(NO_LADDER, fallback=Fallback(store, caller, clock, row_of_model, 10.0)),
    )
    queue = EmbeddedQueue(store, clock, lease=lease, limit=10)
    try:
        yield Runner(WorkerPool(store, queue, loop, turns, clock, lease, slots=1), provider, probe)
    finally:
        tools.close()


def row_of_model(model: str) -> PriceRow:
    """Its prices on the day of every test."""
    return prices().row(model, FakeClock.today())
