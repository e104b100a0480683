"""Recorded agent loops, replayed step by step through the real loop, caller, ledger and store.

The recorded answers come from a scripted provider; the recorded tool results from fake tools. What our loop
then asks must have the shape of what the recorded client asked: same roles, same blocks, same ids, same text.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.transcript import Transcript
from app.budget.accounts import open_account
from app.budget.scopes import Payer, session_scope, task_scope
from app.budget.turns import Turns
from app.domain.clock import SystemClock
from app.domain.task import Claim, Complexity, Conclusion, Subject, TaskSpec
from app.journal.call_events import ReservationExceeded
from app.journal.journal import read_all
from app.llm.answers import parse_answer
from app.llm.caller import Caller, CallLimits
from app.llm.failures import status_failure
from app.llm.pricing import PriceBook
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Phase
from app.llm.stream import MessageStream
from app.queue import verbs
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from app.tools.errors import ToolError
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from tests.support.seeding import claim_now

pytestmark = pytest.mark.corpus
Json = dict[str, Any]
NANO_BUDGET = 1_000_000_000_000
SERVER_TOOL_LOOPS = [
    "pydantic-ai/test_pause_turn_web_search_streaming_vcr.yaml#0",
    "pydantic-ai/test_pause_turn_web_search_vcr.yaml#0",
]
ENDS = {
    "recording": 113,
    "the user went on, or sent more than tool results": 27,
    "a tool result that is not text": 17,
    "a step in between was not recorded, or a system turn was added": 11,
}
"""Why a task of ours ends where it does in a recorded loop."""


@dataclass
class Segment:
    """Recorded steps that one task of ours would make: from a first question to the end of the turn."""

    loop_id: str
    steps: list[Json]
    ended_by: str = "recording"


@dataclass
class Script:
    """A provider that answers with the recording and remembers what it was asked."""

    steps: list[Json]
    asked: list[ModelRequest] = field(default_factory=list)

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        """The next recorded answer; at the end of the recording a permanent failure."""
        snapshot = json.loads(json.dumps(request.messages))
        self.asked.append(ModelRequest(request.model, request.max_tokens, snapshot, request.system))
        if len(self.asked) > len(self.steps):
            raise ModelFailure("recording_ended", "", phase=Phase.RESPONSE, status=400)
        response = self.steps[len(self.asked) - 1]["response"]
        if response["status"] not in {200, None}:
            body = json.dumps(response["body"]).encode()
            raise status_failure(response["status"], response["headers"], body, now_us=0)
        if "sse" in response:
            stream = MessageStream()
            stream.feed(response["sse"].encode())
            return stream.answer()
        return parse_answer(json.dumps(response["body"]).encode(), None)

    async def count_tokens(self, request: ModelRequest) -> int:
        """Recordings have no counts."""
        raise ModelFailure("recording_ended", "", phase=Phase.RESPONSE, status=400)

    async def close(self) -> None:
        """Nothing to close."""


def messages_of(step: Json) -> list[Json]:
    """What the recorded client sent."""
    found: list[Json] = step["request"]["body"]["messages"]
    return found


def break_between(before: Json, after: Json) -> str | None:
    """Why `after` is not what one task of ours would ask next; None when it is."""
    added = messages_of(after)[len(messages_of(before)) :]
    if not added:
        return None if before["response"]["status"] == 429 else "asked again unchanged"
    roles = [message["role"] for message in merged(added)]
    if roles == ["assistant"]:
        return None
    if roles != ["assistant", "user"]:
        return "a step in between was not recorded, or a system turn was added"
    blocks = blocks_of(merged(added)[1])
    if any(block["type"] != "tool_result" for block in blocks):
        return "the user went on, or sent more than tool results"
    if not all(is_text_result(block) for block in blocks):
        return "a tool result that is not text"
    return None


def segments(loops: list[Json]) -> Iterator[Segment]:
    """Cut each recorded loop where a task of ours would end."""
    for loop in loops:
        current = Segment(loop["loop_id"], [loop["steps"][0]])
        for before, after in zip(loop["steps"], loop["steps"][1:], strict=False):
            reason = break_between(before, after)
            if reason is not None:
                current.ended_by = reason
                yield current
                current = Segment(loop["loop_id"], [])
            current.steps.append(after)
        yield current


def merged(messages: list[Json]) -> list[Json]:
    """Consecutive turns of one role as one: the API takes them so."""
    found: list[Json] = []
    for message in messages:
        if found and found[-1]["role"] == message["role"]:
            blocks = blocks_of(found[-1]) + blocks_of(message)
            found[-1] = {"role": message["role"], "content": blocks}
        else:
            found.append(message)
    return found


def blocks_of(message: Json) -> list[Json]:
    """A message's blocks; plain text is one."""
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def result_text(block: Json) -> str:
    """The text of a tool result."""
    content = block.get("content") or ""
    return content if isinstance(content, str) else "".join(part["text"] for part in content)


def is_text_result(block: Json) -> bool:
    """Our tools answer with text."""
    content = block.get("content") or ""
    return isinstance(content, str) or all(part["type"] == "text" for part in content)


def shape(messages: list[Json]) -> list[Any]:
    """What must agree between our request and the recorded one."""
    return [
        (message["role"], [shape_of(b) for b in blocks_of(message)]) for message in merged(messages)
    ]


def shape_of(block: Json) -> tuple[Any, ...]:
    """A block without what clients add or leave out on their own (cache marks, null fields)."""
    match block["type"]:
        case "text":
            return ("text", block["text"])
        case "tool_use":
            return ("tool_use", block["id"], block["name"], block["input"])
        case "tool_result" if is_text_result(block):
            failed = bool(block.get("is_error"))
            text = result_text(block) or "(no output)"
            if failed:  # we say which tool it was, on one line
                text = " ".join(text.rpartition(" failed: ")[2].split())
            return ("tool_result", block["tool_use_id"], text, failed)
        case other:
            return (other,)


def recorded_results(segment: Segment) -> dict[str, tuple[str, bool]]:
    """Tool call id → what the recorded client answered."""
    found = {}
    for step in segment.steps[1:]:
        for message in messages_of(step):
            for block in blocks_of(message):
                if block["type"] == "tool_result" and is_text_result(block):
                    found[block["tool_use_id"]] = (result_text(block), bool(block.get("is_error")))
    return found


def fake_tools(segment: Segment) -> ToolRegistry:
    """The recorded client's tools, answering with the recorded results."""
    results, queues = (
        recorded_results(segment),
        defaultdict[tuple[str, str], list[tuple[str, bool]]](list),
    )
    for step in segment.steps[1:]:
        for message in messages_of(step):
            for block in blocks_of(message):
                if block["type"] == "tool_use" and block["id"] in results:
                    key = (block["name"], json.dumps(block["input"], sort_keys=True))
                    queues[key].append(results.pop(block["id"]))

    def make(name: str) -> Tool:
        async def run(arguments: Json) -> str:
            waiting = queues[name, json.dumps(arguments, sort_keys=True)]
            text, is_error = waiting.pop(0) if waiting else ("not recorded", False)
            if is_error:
                raise ToolError(text)
            return text

        closed = {"type": "object", "additionalProperties": False}
        return Tool(
            name=name,
            description=name,
            input_schema=closed,
            run=run,
            empty_ok=True,
            validate=lambda a: a,
        )

    declared = {
        t["name"]
        for s in segment.steps
        for t in s["request"]["body"].get("tools", [])
        if "name" in t
    }
    called = {name for name, _ in queues}
    return ToolRegistry([make(name) for name in sorted(declared | called)])


async def replay(
    store: SqliteStore, prices: PriceBook, segment: Segment, number: int
) -> tuple[Script, Conclusion | None, Subject]:
    """Run the segment as a task of ours."""
    clock, first = SystemClock(), segment.steps[0]["request"]["body"]
    tools = fake_tools(segment)
    spec = TaskSpec(
        text="recorded",
        complexity=Complexity.MEDIUM,
        model=first["model"],
        model_reason="requested",
        max_steps=50,
        max_tokens=first["max_tokens"],
        max_tokens_explicit=True,
        deadline_s=60,
        budget_nano=NANO_BUDGET,
        tools=tools.names(),
    )
    subject = Subject(f"task_{number}", f"session_{number}", "local")
    payer = Payer(subject.task_id, subject.session_id, "local")
    scopes = (task_scope(subject.task_id), session_scope("local", subject.session_id))

    def accept(tx: Tx) -> Claim:
        for scope in scopes:
            open_account(tx, scope, "local", NANO_BUDGET)
        verbs.enqueue(tx, subject, spec, 5)
        (claim,) = claim_now(tx, 1, "worker")
        return claim

    claim = await store.write(accept)
    transcript = Transcript.begin(spec)
    transcript.messages = json.loads(json.dumps(messages_of(segment.steps[0])))
    script = Script(segment.steps)
    loop = AgentLoop(
        store,
        Caller(store, script, prices, Turns(), clock, CallLimits()),
        tools,
        clock,
        tool_limits=ToolLimits(result_limit_bytes=1_000_000),
        stream_above_tokens=1_000_000,
    )

    def conclude(tx: Tx, conclusion: Conclusion) -> None:
        verbs.finish(tx, claim.subject, conclusion)

    return script, await loop.run(Job(claim, transcript, payer, conclude)), claim.subject


async def test_recorded_loops_replay_with_our_requests_in_the_recorded_shape(
    corpus: Path, tmp_path: Path
) -> None:
    """Every step that a task of ours can make asks what the recorded client asked."""
    loops = [json.loads(line) for line in (corpus / "loops.jsonl").read_text().splitlines()]
    store, prices = SqliteStore(tmp_path, SystemClock()), PriceBook.load()
    compared, ended_by, overcharged = 0, Counter[str](), []
    try:
        for number, segment in enumerate(segments(loops)):
            script, _, subject = await replay(store, prices, segment, number)
            ended_by[segment.ended_by] += 1
            for asked, step in zip(script.asked, segment.steps, strict=False):
                assert shape(asked.messages) == shape(messages_of(step)), segment.loop_id
                compared += 1
            entries = await read_all(store, subject)
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            if any(isinstance(entry.event, ReservationExceeded) for entry in entries):
                overcharged.append(segment.loop_id)
            else:
                assert len(script.asked) >= len(segment.steps), segment.loop_id
    finally:
        await store.close()
    assert len(loops) == 113
    # The provider's own web search read far more than any bound of a request without server tools, which we
    # never send: the ledger raises its alarm and the task stops, one recorded step early each.
    assert overcharged == SERVER_TOOL_LOOPS
    assert compared == sum(len(loop["steps"]) for loop in loops) - len(overcharged) == 244
    assert ended_by == ENDS
