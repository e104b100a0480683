"""What a later call of a long conversation costs in CPU: Bursar's loop with its journal and ledger against the SDK's.

    python -m bench.later_calls [TURNS [ROUNDS]]       prints JSON: milliseconds of CPU a call, by side and round

One task calls a tool in each turn and reads a result of some kilobytes. Both sides talk to the same canned answers
through a transport without sockets. The CPU of a call is that of the whole process from one request's arrival to the next.
"""

import asyncio
import json
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anthropic
import httpx2
import orjson

from app.agent.caching import NO_CACHING, Caching
from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.transcript import Transcript
from app.budget.accounts import open_account
from app.budget.scopes import Payer, session_scope, task_scope
from app.budget.turns import Turns
from app.domain.clock import SystemClock
from app.domain.money import NANO_PER_USD
from app.domain.task import LOCAL_OWNER, Claim, Complexity, Conclusion, Subject, TaskSpec
from app.llm.anthropic import AnthropicProvider
from app.llm.caller import Caller, CallLimits
from app.llm.pricing import PriceBook
from app.queue import leases, verbs
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from bench.process import child, line

MODEL = "claude-sonnet-5-5"
SYSTEM = "You are careful. " * 600
RESULT = "A line of what the tool found. " * 100
ANYTHING = {"type": "object", "properties": {"x": {}}, "additionalProperties": False}
TURNS = 100
LATEST = 20
"""Calls at the end that are looked at."""
SDK, BURSAR, CACHING = "SDK's own loop", "Bursar", "Bursar, cache markers set"


@dataclass
class Canned(httpx2.AsyncBaseTransport):
    """Asks for the tool again and again, then answers; takes down when each request arrived, in CPU seconds."""

    turns: int
    arrived_s: list[float] = field(default_factory=list)
    bytes_sent: int = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        self.arrived_s.append(time.process_time())
        self.bytes_sent = len(request.content)
        number = len(self.arrived_s)
        call = {
            "type": "tool_use",
            "id": f"toolu_{number}",
            "name": "probe",
            "input": {"x": number},
        }
        last = number >= self.turns
        body = {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": MODEL,
            "content": [{"type": "text", "text": "Next. " * 20}, *([] if last else [call])],
            "stop_reason": "end_turn" if last else "tool_use",
            "stop_sequence": None,
            "usage": {
                "input_tokens": 20,
                "cache_read_input_tokens": 3_000 + 900 * (number - 1),
                "cache_creation": {"ephemeral_5m_input_tokens": 900},
                "output_tokens": 60,
            },
        }
        headers = {"content-type": "application/json", "request-id": "req_1"}
        return httpx2.Response(200, headers=headers, content=orjson.dumps(body))

    def later_ms(self) -> float:
        """CPU of one of the last calls, in milliseconds."""
        latest = self.arrived_s[-LATEST - 1 :]
        gaps = [after - before for before, after in pairwise(latest)]
        return statistics.median(gaps) * 1_000


async def probe(_arguments: object) -> str:
    """A tool that costs nothing."""
    return RESULT


async def bare(turns: int) -> Canned:
    """The SDK's client in a loop as one writes it by hand."""
    canned = Canned(turns)
    http_client = anthropic.DefaultAsyncHttpxClient(transport=canned)
    tools: list[Any] = [{"name": "probe", "description": "A probe.", "input_schema": ANYTHING}]
    messages: list[Any] = [{"role": "user", "content": "Go on."}]
    async with anthropic.AsyncAnthropic(api_key="bench", http_client=http_client) as client:
        while True:
            answer = await client.messages.create(
                model=MODEL, max_tokens=1_000, system=SYSTEM, messages=messages, tools=tools
            )
            if answer.stop_reason != "tool_use":
                return canned
            messages.append({"role": "assistant", "content": answer.content})
            results = [
                {
                    "type": "tool_result",
                    "tool_use_id": block.id,
                    "content": await probe(block.input),
                }
                for block in answer.content
                if block.type == "tool_use"
            ]
            messages.append({"role": "user", "content": results})


async def ours(turns: int, *, caching: bool) -> Canned:
    """Bursar's loop: journal, ledger and all."""
    canned, clock, prices = Canned(turns), SystemClock(), PriceBook.load()
    tool = Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=probe)
    provider = AnthropicProvider("bench", "http://bench.test", transport=canned)
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        store, tools = SqliteStore(Path(name), clock), ToolRegistry([tool])
        loop = AgentLoop(
            store,
            Caller(store, provider, prices, Turns(), clock, CallLimits()),
            tools,
            clock,
            tool_limits=ToolLimits(),
            stream_above_tokens=8_192,
            caching=Caching(lambda model: prices.row(model, date(2026, 11, 22)), clock)
            if caching
            else NO_CACHING,
        )
        claim = await store.write(lambda tx: _claim(tx, turns))
        subject = claim.subject

        def conclude(tx: Tx, conclusion: Conclusion) -> None:
            verbs.finish(tx, subject, conclusion)

        payer = Payer(subject.task_id, subject.session_id, subject.owner, (), None)
        await loop.run(Job(claim, Transcript.begin(claim.spec), payer, conclude))
        await provider.close()
        tools.close()
        await store.close()
    return canned


def _claim(tx: Tx, turns: int) -> Claim:
    spec = TaskSpec(
        text="Go on.",
        complexity=Complexity.MEDIUM,
        model=MODEL,
        model_reason="requested",
        max_steps=turns + 1,
        max_tokens=1_000,
        max_tokens_explicit=True,
        deadline_s=3_600,
        budget_nano=1_000 * NANO_PER_USD,
        system=SYSTEM,
        tools=("probe",),
    )
    subject = Subject("t", "s")
    tx.run("open_session", owner=LOCAL_OWNER, id="s", now_us=tx.now_us)
    for scope in (session_scope(LOCAL_OWNER, "s"), task_scope("t")):
        open_account(tx, scope, LOCAL_OWNER, spec.budget_nano)
    verbs.enqueue(tx, subject, spec, 0)
    leases.take(tx, "w", slots=1, lease_s=3_600)
    (claim,) = verbs.claim(tx, "w", 1)
    return claim


async def _measure(turns: int, rounds: int) -> dict[str, list[float]]:
    sides: dict[str, Callable[[], Awaitable[Canned]]] = {
        SDK: lambda: bare(turns),
        BURSAR: lambda: ours(turns, caching=False),
        CACHING: lambda: ours(turns, caching=True),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            found[name].append((await run()).later_ms())
    return found


async def measure(turns: int, rounds: int, folder: Path) -> dict[str, list[float]]:
    """CPU milliseconds a call at the end of so many turns, in a process of its own: by side, round by round."""
    ask = ("-m", "bench.later_calls", str(turns), str(rounds))
    async with child(*ask, folder=folder) as process:
        found: dict[str, list[float]] = json.loads(await line(process))
    return found


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    result = asyncio.run(_measure(*given, *(TURNS, 3)[len(given) :]))
    sys.stdout.write(json.dumps(result) + "\n")
