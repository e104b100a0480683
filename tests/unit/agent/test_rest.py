"""What was left out of a long result: kept in the journal, and read slice by slice."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson

from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.domain.task import Claim, Conclusion
from app.journal.events import ToolFinished, ToolResultKept
from app.journal.journal import read_all
from app.queue import verbs
from app.store.port import Tx
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.rest import READ_RESULT, read_result_tool
from app.tools.run import ToolLimits
from tests.support.desk import Desk, open_desk
from tests.support.probe import ANYTHING
from tests.support.provider import Line, answer, calls, text, tool_use
from tests.support.seeding import claimed, payer_of

WHOLE = "".join(f"line {number}\n" for number in range(2_000))
LIMIT = 2_000


@asynccontextmanager
async def at_work(folder: Path, *script: Line) -> AsyncIterator[tuple[Desk, AgentLoop]]:
    """A loop with a tool whose results are long."""
    tools = ToolRegistry(
        [
            Tool(
                name="dump",
                description="A lot.",
                input_schema=ANYTHING,
                run=lambda _arguments: WHOLE,
                may_be_long=True,
                inline=True,
            ),
            Tool(name="brief", description="A bit.", input_schema=ANYTHING, run=str, inline=True),
            read_result_tool(),
        ]
    )
    async with open_desk(folder, *script) as desk:
        limits = ToolLimits(result_limit_bytes=LIMIT)
        yield (
            desk,
            AgentLoop(
                desk.store,
                desk.caller,
                tools,
                desk.clock,
                tool_limits=limits,
                stream_above_tokens=8_192,
            ),
        )
    tools.close()


def job_of(claim: Claim, transcript: Transcript | None = None) -> Job:
    """The claim, ready to be worked on."""

    def conclude(tx: Tx, conclusion: Conclusion) -> None:
        verbs.finish(tx, claim.subject, conclusion)

    return Job(claim, transcript or Transcript.begin(claim.spec), payer_of(claim), conclude)


def reads(**arguments: Any) -> Line:
    """The model reads on."""
    return calls(tool_use("r", READ_RESULT, {"call_id": "1", **arguments}))


def results(desk: Desk) -> list[Any]:
    """What the model was answered with, turn by turn."""
    return [message["content"][0] for message in orjson.loads(desk.provider.sent[-1])[2::2]]


async def test_the_rest_of_a_long_result_is_read(tmp_path: Path) -> None:
    """The hint says where it is; head, slices and tail put together are the whole."""
    script = (
        calls(tool_use("1", "dump")),
        reads(from_byte=1_100, max_bytes=16_384),
        reads(from_byte=17_484),
        answer(text("done")),
    )
    async with at_work(tmp_path, *script) as (desk, loop):
        claim = await claimed(desk.store, tools=("dump",))
        assert await loop.run(job_of(claim)) is None
        shown, first, second = results(desk)
        (kept,) = await desk.events(claim, ToolResultKept)
        finished = await desk.events(claim, ToolFinished)
    assert len(shown["content"].encode()) <= LIMIT
    assert "[read_result has bytes 1" in shown["content"]
    assert first["content"].startswith(WHOLE[1_100:1_200])
    assert first["content"].endswith("[bytes 1100 to 17484 of 18890; this goes on at byte 17484]")
    assert second["content"].endswith("[bytes 17484 to 18890 of 18890; this is the end]")
    pieces = first["content"].rpartition("\n")[0] + second["content"].rpartition("\n")[0]
    assert pieces == WHOLE[1_100:]
    assert (kept.call_id, kept.kept_bytes) == ("1", len(WHOLE))
    assert [one.outcome for one in finished] == ["truncated", "ok", "ok"]


async def test_it_is_offered_from_the_first_question_or_never(tmp_path: Path) -> None:
    """By the tools that a task names: their list may not change under way."""
    for number, (tools, expected) in enumerate(
        [
            (("dump",), ["dump", READ_RESULT]),
            (("brief",), ["brief"]),
            ((READ_RESULT, "dump"), [READ_RESULT, "dump"]),
            ((), []),
        ]
    ):
        async with at_work(tmp_path / str(number), answer(text("done"))) as (desk, loop):
            await loop.run(job_of(await claimed(desk.store, tools=tools)))
            (asked,) = desk.provider.asked
        assert [tool["name"] for tool in asked.tools] == expected


async def test_a_restart_reads_what_was_kept(tmp_path: Path) -> None:
    """The transcript is the same, and the rest is still there."""
    script = (calls(tool_use("1", "dump")), reads(from_byte=5_000), answer(text("done")))
    async with at_work(tmp_path, *script) as (desk, loop):
        claim = await claimed(desk.store, tools=("dump",))
        job = job_of(claim)
        await loop._step(job, loop._tools.definitions(claim.spec.tools))
        await loop._answer_tools(job)
        again = rebuild(claim.spec, await read_all(desk.store, claim.subject))
        assert again.messages == job.transcript.messages
        assert await loop.run(job_of(claim, again)) is None
        assert WHOLE[5_000:5_100] in results(desk)[1]["content"]


async def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    """Another call's name, arguments that do not fit, a place behind the end."""
    script = (
        calls(tool_use("1", "dump")),
        calls(tool_use("r", READ_RESULT, {"call_id": "2", "from_byte": 0})),
        reads(from_byte=-1),
        reads(from_byte=1_000_000),
        answer(text("done")),
    )
    async with at_work(tmp_path, *script) as (desk, loop):
        await loop.run(job_of(await claimed(desk.store, tools=("dump",))))
        _, unknown, bad, behind = results(desk)
    assert unknown["is_error"]
    assert "no such result" in unknown["content"]
    assert bad["is_error"]
    assert "Invalid arguments" in bad["content"]
    assert behind["content"].endswith("[bytes 18890 to 18890 of 18890; this is the end]")


async def test_without_it_nothing_is_kept(tmp_path: Path) -> None:
    """A task that was not offered it: its long results lose their middle for good."""
    script = (
        calls(tool_use("1", READ_RESULT, {"call_id": "1", "from_byte": 0})),
        answer(text("x")),
    )
    async with at_work(tmp_path, *script) as (desk, loop):
        claim = await claimed(desk.store, tools=("brief",))
        await loop.run(job_of(claim))
        (refused,) = results(desk)
        assert await desk.events(claim, ToolResultKept) == []
    assert refused["is_error"]
