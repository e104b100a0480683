"""The agent loop over a scripted provider, with tools that the test holds in its hand."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from app.agent.caching import NO_CACHING, Caching
from app.agent.escalation import NO_LADDER, Ladder
from app.agent.fallback import Fallback
from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.replay import rebuild
from app.agent.spent import Cheaper, no_cheaper
from app.agent.transcript import Transcript
from app.domain.task import Claim, Conclusion
from app.journal.journal import read_all
from app.llm.pricing import PriceRow
from app.queue import verbs
from app.store.port import Tx
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from tests.support.clock import FakeClock
from tests.support.desk import Desk, open_desk, prices
from tests.support.probe import ANYTHING, Probe
from tests.support.provider import Line
from tests.support.seeding import claim_now, claimed, payer_of


@dataclass
class Studio:
    """A loop and its surroundings."""

    desk: Desk
    loop: AgentLoop
    probe: Probe
    safe: Probe

    async def claim(self, **given: Any) -> Claim:
        """A running task that may use both tools."""
        given.setdefault("tools", ("probe", "safe"))
        return await claimed(self.desk.store, **given)

    def job(self, claim: Claim, transcript: Transcript | None = None) -> Job:
        """The claim, ready to be worked on."""

        def conclude(tx: Tx, conclusion: Conclusion) -> None:
            verbs.finish(tx, claim.subject, conclusion)

        begun = transcript or Transcript.begin(claim.spec)
        return Job(claim, begun, payer_of(claim), conclude)

    async def run(self, claim: Claim) -> Conclusion | None:
        """One run from the start."""
        return await self.loop.run(self.job(claim))

    async def resumed(self, claim: Claim) -> Job:
        """The job of the next run, after a crash of this one."""
        await self.desk.store.write(
            lambda tx: verbs.give_back(tx, claim.subject, "restart", tx.now_us)
        )
        (again,) = await self.desk.store.write(lambda tx: claim_now(tx, 1, "w2"))
        entries = await read_all(self.desk.store, claim.subject)
        return self.job(again, rebuild(claim.spec, entries))


OpenStudio = Callable[..., Any]


def row(model: str) -> PriceRow:
    """Its prices on the day of every test."""
    return prices().row(model, FakeClock.today())


def fallback_of(desk: Desk, after_s: float) -> Fallback:
    """Lets another model go on once one has been down for so long."""
    return Fallback(desk.store, desk.caller, desk.clock, row, after_s)


@pytest.fixture
def open_studio(tmp_path: Path) -> OpenStudio:
    """Opens a studio whose provider will say the given script."""

    @asynccontextmanager
    async def make(
        *script: Line,
        cheaper: Cheaper = no_cheaper,
        ladder: Ladder = NO_LADDER,
        cached: bool = False,
        fallback_after_s: float | None = None,
        **options: Any,
    ) -> AsyncIterator[Studio]:
        probe, safe = Probe(), Probe()
        tools = ToolRegistry(
            [
                Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=probe.run),
                Tool(
                    name="safe",
                    description="May be repeated.",
                    input_schema=ANYTHING,
                    run=safe.run,
                    idempotent=True,
                ),
            ]
        )
        async with open_desk(tmp_path / "data", *script, **options) as desk:
            loop = AgentLoop(
                desk.store,
                desk.caller,
                tools,
                desk.clock,
                tool_limits=ToolLimits(),
                stream_above_tokens=8_192,
                cheaper=cheaper,
                ladder=ladder
                if fallback_after_s is None
                else replace(ladder, fallback=fallback_of(desk, fallback_after_s)),
                caching=Caching(row, desk.clock) if cached else NO_CACHING,
            )
            yield Studio(desk, loop, probe, safe)
        tools.close()

    return make
