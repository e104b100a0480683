"""What prompt caching saves or costs, workload by workload: the real loop, caller and ledger against the simulator.

    .venv/bin/python -m tests.support.cache_workloads       prints the table of docs/caching.md

Each workload runs twice, with caching and without, each time over an empty ledger and an empty cache. The
simulator caches by the documented rules and keeps its own bill; the ledger must say the same to the nano-dollar.
"""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from app.agent.caching import NO_CACHING, Caching
from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.transcript import Transcript
from app.budget.turns import Turns
from app.domain.clock import Clock, SystemClock
from app.domain.task import Claim, Conclusion
from app.llm.answers import parse_answer
from app.llm.body import request_body
from app.llm.caller import Caller, CallLimits
from app.llm.pricing import PriceRow
from app.llm.provider import ModelAnswer, ModelRequest
from app.queue import verbs
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.probe import ANYTHING
from tests.support.seeding import USD, accept, claim_now, lines_of, payer_of, spec

SONNET = "claude-sonnet-5-5"
BURST_LATENCY_S = 0.05


@dataclass(frozen=True, slots=True)
class Workload:
    """Some tasks of one kind."""

    name: str
    steps: int = 0
    """Rounds of tool calls before the answer."""
    tools: bool = True
    prefix_tokens: int = 10_000
    """Of the system prompt."""
    result_bytes: int = 800
    parallel: int = 1
    tasks: int = 1
    at_once: bool = False
    between_s: float = 10.0
    """From the end of one task to the start of the next."""
    tool_s: float = 1.0
    """How long a tool takes."""
    tool_limit_s: float = 30.0
    max_steps: int = 30
    model: str = SONNET


WORKLOADS = (
    Workload("20 steps, 10k prefix", 19),
    Workload("20 steps, 10k prefix, 4 KB results", 19, result_bytes=4_000),
    Workload("20 steps, no system prompt, 16 KB results", 19, prefix_tokens=0, result_bytes=16_000),
    Workload("5 steps, 10k prefix", 4),
    Workload("5 steps, 1k prefix", 4, prefix_tokens=1_000),
    Workload("5 steps, 300-token prefix", 4, prefix_tokens=300),
    Workload("3 steps, 1k prefix, 32 KB results", 2, prefix_tokens=1_000, result_bytes=32_000),
    Workload("2 steps, 10k prefix", 1),
    Workload("2 steps, 1k prefix, 64 KB result", 1, prefix_tokens=1_000, result_bytes=64_000),
    Workload("1 call without tools, 10k prefix", 0, tools=False),
    Workload("1 call without tools, 300-token prefix", 0, tools=False, prefix_tokens=300),
    Workload("1 call, `max_steps` 1, tools named, 10k prefix", 0, max_steps=1),
    Workload("4 steps, 25 parallel calls each, 10k prefix", 3, parallel=25),
    Workload("burst of 50 single calls, same 10k prefix", 0, tools=False, tasks=50, at_once=True),
    Workload("burst of 50 two-step tasks, same 10k prefix", 1, tasks=50, at_once=True),
    Workload("20 single calls one after another, same 10k prefix", 0, tools=False, tasks=20),
    Workload(
        "20 single calls 10 minutes apart, same 10k prefix",
        tools=False,
        tasks=20,
        between_s=600,
    ),
    Workload("10 steps, tools take 6 minutes, 10k prefix", 9, tool_s=360, tool_limit_s=900),
    Workload("2 steps, tools take 6 minutes, 10k prefix", 1, tool_s=360, tool_limit_s=900),
    Workload("10 steps, tools take 2 hours, 10k prefix", 9, tool_s=7_200, tool_limit_s=9_000),
    Workload(
        "20 two-step tasks an hour apart, 1k prefix, 64 KB result",
        1,
        prefix_tokens=1_000,
        result_bytes=64_000,
        tasks=20,
        between_s=3_600,
    ),
    Workload(
        "50 tasks an hour apart that name tools and never call one, 10k prefix",
        0,
        tasks=50,
        between_s=3_600,
    ),
    Workload("20 steps, 10k prefix, cheapest model", 19, model="claude-haiku-5-5"),
    Workload("20 steps, 10k prefix, dearest route", 19, model="claude-opus-5-5"),
)


@dataclass(slots=True)
class Bill:
    """What one run of a workload cost."""

    nano: int
    ledger_nano: int
    prompt_tokens: int
    read_tokens: int


@dataclass(slots=True)
class Compared:
    """A workload with caching and without."""

    workload: Workload
    cached: Bill
    plain: Bill

    @property
    def ratio(self) -> float:
        """What it costs with caching, for each dollar without."""
        return self.cached.nano / self.plain.nano


@dataclass(slots=True)
class _Upstream:
    """A `Provider`: the simulator without a network. Each answer takes a while by the clock."""

    simulator: Simulator
    clock: Clock
    bodies: list[bytes] = field(default_factory=list)

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        body = request_body(request)
        self.bodies.append(body)
        headers = {"x-api-key": "k", "x-bursar-attempt": request.reference or ""}
        reply = self.simulator.reply("POST", "/v1/messages", headers, body)
        assert reply.status == 200, reply.pieces
        await self.clock.sleep(reply.delay_s)
        ttl = "1h" if request.marks is None else request.marks.ttl
        return parse_answer(b"".join(reply.pieces), None, unsplit_writes=ttl)

    async def count_tokens(self, request: ModelRequest) -> int:
        raise NotImplementedError

    async def close(self) -> None:
        pass


async def compared(workload: Workload) -> Compared:
    """Run it both ways."""
    return Compared(
        workload, await bill_of(workload, caching=True), await bill_of(workload, caching=False)
    )


async def bill_of(workload: Workload, *, caching: bool) -> Bill:
    """Run it one way."""
    clock: Clock = SystemClock() if workload.at_once else FakeClock()
    simulator = Simulator(clock, seed=1)
    latency_s = BURST_LATENCY_S if workload.at_once else 4.0
    load_rules(simulator.faults, {"random": [{"kind": "latency", "delay_s": latency_s}]})
    with TemporaryDirectory() as folder:
        store = SqliteStore(Path(folder), clock)
        try:
            loop, tools = _loop(workload, store, simulator, clock, caching=caching)
            claims = await store.write(lambda tx: _claims(tx, workload))
            await _run(workload, loop, claims, clock)
            tools.close()
            ids = [claim.subject.task_id for claim in claims]
            ledger = [(await lines_of(store, task_id))["spent_nano"] for task_id in ids]
        finally:
            await store.close()
    lines = list(simulator.bill.lines)
    return Bill(
        simulator.bill.total.nano,
        sum(ledger),
        sum(line.meters.prompt for line in lines),
        sum(line.meters.cache_read for line in lines),
    )


def _loop(
    workload: Workload, store: SqliteStore, simulator: Simulator, clock: Clock, *, caching: bool
) -> tuple[AgentLoop, ToolRegistry]:
    async def run(_arguments: object) -> str:
        if not workload.at_once:
            await clock.sleep(workload.tool_s)
        return "result. " * (workload.result_bytes // 8)

    limit_s = workload.tool_limit_s
    tool = Tool(
        name="probe", description="A probe.", input_schema=ANYTHING, run=run, timeout_s=limit_s
    )
    tools = ToolRegistry([tool])
    upstream = _Upstream(simulator, clock)
    caller = Caller(store, upstream, prices(), Turns(), clock, CallLimits())
    loop = AgentLoop(
        store,
        caller,
        tools,
        clock,
        tool_limits=ToolLimits(timeout_limit_s=limit_s),
        stream_above_tokens=8_192,
        caching=Caching(_row, clock) if caching else NO_CACHING,
    )
    return loop, tools


def _row(model: str) -> PriceRow:
    return prices().row(model, FakeClock.today())


def _claims(tx: Tx, workload: Workload) -> list[Claim]:
    directive = f'[[sim {{"steps": {workload.steps}, "parallel": {workload.parallel}}}]]'
    for number in range(workload.tasks):
        asked = spec(
            text=f"Question {number}: what is the matter? {directive}",
            model=workload.model,
            system="You are careful. " * (workload.prefix_tokens * 4 // 17) or None,
            tools=("probe",) if workload.tools else (),
            max_steps=workload.max_steps,
            max_tokens=1_000,
            deadline_s=1e7,
            budget_nano=100 * USD,
        )
        accept(tx, f"t{number}", asked, session_nano=10_000 * USD)
    return claim_now(tx, workload.tasks)


async def _run(workload: Workload, loop: AgentLoop, claims: Sequence[Claim], clock: Clock) -> None:
    if workload.at_once:
        await asyncio.gather(*(loop.run(_job(claim)) for claim in claims))
        return
    for claim in claims:
        await loop.run(_job(claim))
        await clock.sleep(workload.between_s)


def _job(claim: Claim) -> Job:
    def conclude(tx: Tx, conclusion: Conclusion) -> None:
        verbs.finish(tx, claim.subject, conclusion)

    return Job(claim, Transcript.begin(claim.spec), payer_of(claim), conclude)


def table(found: Sequence[Compared]) -> str:
    """The table of docs/caching.md."""
    head = "| workload | without, USD | with, USD | with / without | read from the cache |"
    return "\n".join([head, "|---|---|---|---|---|", *map(row_of, found)]) + "\n"


def row_of(one: Compared) -> str:
    """Its row there."""
    share = one.cached.read_tokens / one.cached.prompt_tokens
    usd = f"{one.plain.nano / USD:.4f} | {one.cached.nano / USD:.4f}"
    return f"| {one.workload.name} | {usd} | {one.ratio:.3f} | {share:.0%} |"


async def _main() -> None:
    found = [await compared(workload) for workload in WORKLOADS]
    sys.stdout.write(table(found))


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        asyncio.run(_main())
