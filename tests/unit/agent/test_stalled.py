"""A process that was stopped for longer than its lease: what it was about to start does not start."""

import pytest

from app.agent.loop import AgentLoop
from app.budget.turns import Turns
from app.domain.errors import StaleLease
from app.domain.lease import Lease
from app.llm.caller import Caller, CallLimits
from app.queue import leases
from app.store.port import Operation, Store, T
from app.tools.run import ToolLimits
from app.worker.recovery import rescue_all
from tests.support.desk import Desk, call_of, decide, open_desk, prices
from tests.support.provider import answer, calls, text, tool_use
from tests.support.seeding import claimed, drift, lines_of


class Stolen(Store):
    """A store from whose worker everything is taken away just before it is asked whether it still holds it."""

    def __init__(self, desk: Desk) -> None:
        self._inner = desk.store

    async def write(self, op: Operation[T]) -> T:
        return await self._inner.write(op)

    async def read(self, op: Operation[T]) -> T:
        await self._inner.write(lambda tx: leases.leave(tx, "w"))
        await rescue_all(self._inner, "lease_expired", 5)
        return await self._inner.read(op)

    async def close(self) -> None:
        """Somebody else's."""


def unsure() -> Lease:
    """A lease that was over by the clock when the process woke up."""
    lease = Lease("w")
    lease.sure_until_s = -1.0
    return lease


def caller_of(desk: Desk, lease: Lease) -> Caller:
    """What asks models for the process that was stopped."""
    store = Stolen(desk)
    return Caller(store, desk.provider, prices(), Turns(), desk.clock, CallLimits(), lease=lease)


async def test_no_call_leaves(tmp_path):
    """Stopped between the reservation and the request: it is never sent, and what was presumed is freed."""
    async with open_desk(tmp_path) as desk:
        claim = await claimed(desk.store)
        with pytest.raises(StaleLease):
            await caller_of(desk, unsure()).ask(call_of(claim), decide)
        assert desk.provider.asked == []
        lines = await lines_of(desk.store)
        assert (lines["calls"], lines["spent_nano"]) == (1, 0)
        assert await drift(desk.store) == []


async def test_a_call_leaves_when_nobody_has_taken_over(tmp_path):
    """The store's word counts, not the clock's."""
    async with open_desk(tmp_path, answer(text("hello"))) as desk:
        claim = await claimed(desk.store)
        caller = Caller(
            desk.store, desk.provider, prices(), Turns(), desk.clock, CallLimits(), lease=unsure()
        )
        await caller.ask(call_of(claim), decide)
        assert (await lines_of(desk.store))["calls"] == 1


async def test_no_tool_starts(open_studio):
    """Stopped after the answer was recorded: the tool that it asks for does not run."""
    async with open_studio(calls(tool_use("a", arguments={"x": 1}))) as studio:
        claim = await studio.claim()
        job, lease = studio.job(claim), unsure()
        await studio.loop._step(job, ())
        loop = AgentLoop(
            Stolen(studio.desk),
            caller_of(studio.desk, lease),
            studio.loop._tools,
            studio.desk.clock,
            tool_limits=ToolLimits(),
            stream_above_tokens=8_192,
            lease=lease,
        )
        with pytest.raises(StaleLease):
            await loop.run(job)
        assert studio.probe.calls == []
        assert (await studio.desk.events(claim))[-1].name == "task_requeued"
