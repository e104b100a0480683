"""The loop: asks, runs tools, asks again, until a verdict ends the task; none of it for ever."""

import asyncio
from typing import Any

import orjson
import pytest

from app.agent.replay import rebuild
from app.agent.transcript import INTERRUPTED, NUDGE, TOOL_CALLS_LIMIT
from app.agent.verdict import CONTINUATIONS_LIMIT
from app.domain.errors import StaleLease
from app.domain.task import Outcome
from app.journal.call_events import ModelAnswered
from app.journal.events import TaskFinished, ToolFinished, ToolStarted
from app.journal.journal import read_all
from app.llm.call import Parked
from app.queue import verbs
from tests.support.clock import yielded
from tests.support.provider import (
    answer,
    calls,
    lost,
    status,
    text,
    thinking,
    tool_use,
    usage,
)
from tests.support.seeding import claim_now, row_of


def sent(studio: Any, number: int) -> list[Any]:
    """The messages of one request, as they were then."""
    found: list[Any] = orjson.loads(studio.desk.provider.sent[number])
    return found


async def test_answer_and_end_are_one_transaction(open_studio):
    """The last answer, its cost and the task's end are recorded together; the run has nothing to add."""
    async with open_studio(answer(thinking(), text("42"))) as studio:
        claim = await studio.claim()
        assert await studio.run(claim) is None
        row = await row_of(studio.desk.store)
        assert (row["status"], row["outcome"]) == ("succeeded", "answered")
        assert orjson.loads(row["result_json"]) == "42"
        answered, finished = (await read_all(studio.desk.store, claim.subject))[-2:]
        assert isinstance(answered.event, ModelAnswered)
        assert isinstance(finished.event, TaskFinished)
        assert finished.event.cost_nano == answered.event.cost_nano > 0
        assert finished.event.steps == 1


async def test_parallel_calls_are_answered_in_one_message(open_studio):
    """Calls run side by side; however they finish, their results go out together in call order."""
    first = calls(tool_use("a", arguments={"x": 1}), tool_use("b", "safe", {"x": 2}))
    async with open_studio(first, answer(text("done"))) as studio:
        studio.probe.gates[1] = asyncio.Event()
        claim = await studio.claim()
        running = asyncio.create_task(studio.run(claim))
        async with asyncio.timeout(10):
            while not await studio.desk.events(claim, ToolFinished):
                await yielded()
        assert (studio.probe.calls, studio.safe.calls) == ([1], [2])
        studio.probe.gates[1].set()
        await running
        finished = await studio.desk.events(claim, ToolFinished)
        assert [event.call_id for event in finished] == ["b", "a"]
        messages = sent(studio, 1)
        assert [message["role"] for message in messages] == ["user", "assistant", "user"]
        assert messages[1]["content"] == first.content
        assert messages[2]["content"] == [
            {"type": "tool_result", "tool_use_id": "a", "content": "ran 1"},
            {"type": "tool_result", "tool_use_id": "b", "content": "ran 2"},
        ]


async def test_a_tools_start_is_written_before_it_runs(open_studio):
    """The intent is in the journal, with the answer that asked for it, before the tool does anything."""
    async with open_studio(calls(tool_use("a", arguments={"x": 1})), answer(text("."))) as studio:
        seen: list[Any] = []
        claim = await studio.claim()

        async def look() -> str:
            seen.extend(await studio.desk.events(claim, ToolStarted))
            return "ok"

        studio.probe.body = look
        await studio.run(claim)
        assert [(event.call_id, event.input_keys) for event in seen] == [("a", ("x",))]


@pytest.mark.parametrize("explicit", [True, False])
async def test_truncated_tool_call_is_never_executed(open_studio, explicit):
    """A tool call in a cut-off answer is not run, also when the client named max_tokens itself."""
    cut = answer(tool_use("a", arguments={"x": 1}), stop_reason="max_tokens")
    script = [cut] if explicit else [cut, cut]
    async with open_studio(*script) as studio:
        claim = await studio.claim(max_tokens_explicit=explicit)
        assert await studio.run(claim) is None
        assert studio.probe.calls == []
        assert await studio.desk.events(claim, ToolStarted) == []
        row = await row_of(studio.desk.store)
        assert (row["status"], row["outcome"]) == ("failed", "truncated")


async def test_cut_off_answer_is_asked_once_more_with_twice_the_tokens(open_studio):
    """The same question again, with more room; the cut-off answer is not in it."""
    cut = answer(text("half"), stop_reason="max_tokens")
    async with open_studio(cut, answer(text("whole"))) as studio:
        claim = await studio.claim()
        await studio.run(claim)
        assert [request.max_tokens for request in studio.desk.provider.asked] == [2_048, 4_096]
        assert sent(studio, 0) == sent(studio, 1)
        assert orjson.loads((await row_of(studio.desk.store))["result_json"]) == "whole"


async def test_empty_answer_is_nudged_once(open_studio):
    """The nudge goes out as a user message; a second empty answer is a typed failure."""
    async with open_studio(answer(), answer(thinking())) as studio:
        await studio.run(await studio.claim())
        assert sent(studio, 1)[-1]["content"] == [text(NUDGE)]
        assert (await row_of(studio.desk.store))["outcome"] == "empty_answer"


async def test_paused_turn_is_continued_as_it_was_and_not_for_ever(open_studio):
    """The paused content goes back unchanged; after the bound the task fails."""
    pause = answer(text("searching"), stop_reason="pause_turn")
    script = [pause] * (CONTINUATIONS_LIMIT + 1)
    async with open_studio(*script) as studio:
        await studio.run(await studio.claim(max_steps=50))
        assert len(studio.desk.provider.asked) == CONTINUATIONS_LIMIT + 1
        assert sent(studio, 1)[-1] == {"role": "assistant", "content": pause.content}
        row = await row_of(studio.desk.store)
        assert (row["status"], row["result_partial"]) == ("failed", 1)


async def test_steps_are_bounded(open_studio):
    """A model that asks for tools for ever is stopped at max_steps, its last text kept as partial."""
    script = [calls(tool_use(f"c{n}"), before=[text(f"step {n}")]) for n in range(3)]
    async with open_studio(*script) as studio:
        claim = await studio.claim(max_steps=3)
        await studio.run(claim)
        assert len(studio.desk.provider.asked) == 3
        assert len(studio.probe.calls) == 2
        row = await row_of(studio.desk.store)
        assert (row["outcome"], row["result_partial"], row["step_count"]) == ("max_steps", 1, 3)
        assert orjson.loads(row["result_json"]) == "step 2"


async def test_a_resumed_task_without_steps_left_asks_nothing(open_studio):
    """A restart gives no extra steps: the end is concluded without a call."""
    async with open_studio(calls(tool_use("a"))) as studio:
        claim = await studio.claim(max_steps=2)
        job = studio.job(claim)
        await studio.loop._step(job, ())
        job.transcript.step = 2
        conclusion = await studio.loop.run(job)
        assert conclusion is not None
        assert conclusion.outcome is Outcome.MAX_STEPS
        assert len(studio.desk.provider.asked) == 1


@pytest.mark.parametrize(
    ("use", "words"),
    [
        ({**tool_use("a"), "input": "cut of"}, "did not run"),
        (tool_use("a", arguments={"y": 1}), "did not run"),
        (tool_use("a", "no_such_tool"), "no tool named"),
        (tool_use("a", "safe"), "may not use"),
    ],
    ids=["malformed", "wrong arguments", "unknown", "not allowed"],
)
async def test_calls_that_cannot_run_are_answered_with_an_error(open_studio, use, words):
    """The model is told what is wrong and goes on; nothing ran."""
    async with open_studio(calls(use), answer(text("sorry"))) as studio:
        claim = await studio.claim(tools=("probe",))
        await studio.run(claim)
        (block,) = sent(studio, 1)[-1]["content"]
        assert block["is_error"] is True
        assert words in block["content"]
        assert (studio.probe.calls, studio.safe.calls) == ([], [])
        assert (await row_of(studio.desk.store))["outcome"] == "answered"


async def test_calls_beyond_the_limit_are_answered_but_not_run(open_studio):
    """Of very many calls in one answer the first ones run; every one gets its result."""
    uses = [tool_use(f"c{n}", arguments={"x": n}) for n in range(TOOL_CALLS_LIMIT + 3)]
    async with open_studio(calls(*uses), answer(text("done"))) as studio:
        await studio.run(await studio.claim())
        assert sorted(studio.probe.calls) == list(range(TOOL_CALLS_LIMIT))
        blocks = sent(studio, 1)[-1]["content"]
        assert [block["tool_use_id"] for block in blocks] == [use["id"] for use in uses]
        assert [block.get("is_error", False) for block in blocks] == [
            n >= TOOL_CALLS_LIMIT for n in range(len(uses))
        ]


async def test_a_tool_that_raises_is_a_result(open_studio):
    """A bug in a tool is told to the model; the task goes on."""
    async with open_studio(calls(tool_use("a")), answer(text("well"))) as studio:

        async def broken() -> str:
            raise ZeroDivisionError("by nothing")

        studio.probe.body = broken
        await studio.run(await studio.claim())
        (block,) = sent(studio, 1)[-1]["content"]
        assert block["is_error"] is True
        assert "ZeroDivisionError" in block["content"]
        assert "Traceback" not in block["content"]


async def test_overcharge_stops_the_task(open_studio):
    """An answer that cost more than its reservation is booked, and nothing more is done for the task."""
    dear = answer(tool_use("a"), stop_reason="tool_use", report=usage(900_000, 9_000))
    async with open_studio(dear) as studio:
        claim = await studio.claim()
        assert await studio.run(claim) is None
        row = await row_of(studio.desk.store)
        assert (row["status"], row["outcome"]) == ("failed", "upstream_failed")
        assert studio.probe.calls == []
        assert orjson.loads(row["error_json"])["type"] == "reservation_exceeded"


async def test_spent_budget_ends_the_task_between_steps(open_studio):
    """When the next call cannot be paid, the task fails as exhausted, with what there is, and no call."""
    dear = answer(
        text("thinking aloud"),
        tool_use("a"),
        stop_reason="tool_use",
        report=usage(1_000, 2_048),
    )
    async with open_studio(dear) as studio:
        conclusion = await studio.run(await studio.claim(budget_nano=1_400_000))
        assert conclusion.outcome is Outcome.BUDGET_EXHAUSTED
        assert (conclusion.result, conclusion.partial) == ("thinking aloud", True)
        assert "No call was made" in conclusion.error.message
        assert studio.probe.calls == [None]
        assert len(studio.desk.provider.asked) == 1


@pytest.mark.parametrize(
    ("failure", "outcome", "error_type"),
    [
        (status(400, "invalid_request_error"), Outcome.UPSTREAM_REJECTED, "invalid_request_error"),
        (
            status(429, "rate_limit_error", error_code="enforced_spend_limit_reached"),
            Outcome.UPSTREAM_SPEND_CAP,
            "rate_limit_error",
        ),
        (lost("timeout"), Outcome.UPSTREAM_FAILED, "timeout"),
    ],
)
async def test_failed_calls_end_the_task_with_their_error(
    open_studio, failure, outcome, error_type
):
    """The outcome follows from the failure, and the error names the upstream's own type."""
    async with open_studio(failure, max_attempts=1) as studio:
        conclusion = await studio.run(await studio.claim())
        assert conclusion.outcome is outcome
        assert conclusion.error.type == error_type
        assert (conclusion.result, conclusion.partial) == (None, False)


async def test_draining_hands_back_at_the_next_step(open_studio):
    """A stopping service finishes the tools of a step, then gives the task back before the next call."""
    async with open_studio(calls(tool_use("a", arguments={"x": 1}))) as studio:
        studio.probe.gates[1] = asyncio.Event()
        claim = await studio.claim()
        running = asyncio.create_task(studio.run(claim))
        async with asyncio.timeout(10):
            while not studio.probe.calls:
                await yielded()
        studio.loop.begin_drain()
        studio.probe.gates[1].set()
        with pytest.raises(Parked) as parked:
            await running
        assert parked.value.reason == "drain"
        assert len(await studio.desk.events(claim, ToolFinished)) == 1
        assert len(studio.desk.provider.asked) == 1


async def test_interrupted_tools_are_told_as_interrupted(open_studio):
    """After a crash a call that may have run is not repeated, unless it is declared idempotent."""
    uses = [tool_use("a"), tool_use("b", "safe"), tool_use("c", arguments={"x": 3})]
    async with open_studio(calls(*uses), answer(text("on we go"))) as studio:
        studio.probe.gates[None] = studio.safe.gates[None] = asyncio.Event()
        claim = await studio.claim()
        running = asyncio.create_task(studio.run(claim))
        async with asyncio.timeout(10):
            while not await studio.desk.events(claim, ToolFinished):
                await yielded()
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert (studio.probe.calls, studio.safe.calls) == ([None, 3], [None])
        studio.safe.gates.clear()
        assert await studio.loop.run(await studio.resumed(claim)) is None
        assert (studio.probe.calls, studio.safe.calls) == ([None, 3], [None, None])
        a, b, c = sent(studio, 1)[-1]["content"]
        assert (a["content"], a["is_error"]) == (INTERRUPTED, True)
        assert "is_error" not in b
        assert b["content"] == "ran None"
        assert c["content"] == "ran 3"
        assert studio.safe.keys == [f"{claim.subject.task_id}/1/b"] * 2, "its idempotency key"
        assert studio.probe.keys == [f"{claim.subject.task_id}/1/{name}" for name in "ac"]


async def test_a_run_that_lost_its_task_writes_nothing_more(open_studio):
    """When another run holds the task by now, a tool's late result is refused and the run stops."""
    async with open_studio(calls(tool_use("a", arguments={"x": 1}))) as studio:
        studio.probe.gates[1] = asyncio.Event()
        claim = await studio.claim()
        running = asyncio.create_task(studio.run(claim))
        async with asyncio.timeout(10):
            while not studio.probe.calls:
                await yielded()
        await studio.resumed(claim)
        before = await studio.desk.events(claim)
        studio.probe.gates[1].set()
        with pytest.raises(StaleLease):
            await running
        assert await studio.desk.events(claim) == before
        assert len(studio.desk.provider.asked) == 1


async def test_an_answer_to_a_run_that_lost_its_task_is_refused(open_studio):
    """A stale run's late answer changes no state: neither step nor result is recorded."""
    async with open_studio() as studio:
        claim = await studio.claim()

        def lose(_request: object) -> Any:
            return answer(text("too late"))

        studio.desk.provider.script = [lose]
        store = studio.desk.store
        await store.write(lambda tx: verbs.give_back(tx, claim.subject, "restart", tx.now_us))
        (again,) = await store.write(lambda tx: claim_now(tx, 1, "w2"))
        with pytest.raises(StaleLease):
            await studio.run(claim)
        assert studio.desk.provider.asked == []
        assert await studio.run(again) is None


async def test_journal_tells_what_was_sent(open_studio):
    """After each step of a real run, the journal rebuilds the very bytes the provider was sent."""
    script = [
        calls(tool_use("a", arguments={"x": "ä\x00"}), tool_use("b"), before=[thinking("hm")]),
        answer(),
        answer(text("cut"), stop_reason="max_tokens"),
        calls(tool_use("c", "nobody"), before=[text("again")]),
        answer(text("done")),
    ]
    async with open_studio(*script) as studio:
        claim = await studio.claim()
        await studio.run(claim)
        entries = await read_all(studio.desk.store, claim.subject)
        at = [n for n, entry in enumerate(entries) if isinstance(entry.event, ModelAnswered)]
        assert len(at) == 5
        for number, position in enumerate(at):
            rebuilt = rebuild(claim.spec, entries[:position])
            assert orjson.dumps(rebuilt.messages) == studio.desk.provider.sent[number]
            asked = studio.desk.provider.asked[number]
            assert asked.max_tokens == rebuilt.max_tokens
