"""The classifier's call: what it asks, what its answer decides, what it costs, and that it is asked once."""

import asyncio
from typing import Any

import orjson
import pytest

from app.agent.classify import HEAD_CHARS, OUTPUT_TOKENS, TAIL_CHARS, question
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.budget.accounts import set_limit
from app.budget.scopes import session_scope, task_scope
from app.domain.errors import StaleLease
from app.domain.task import Alternative, Complexity, Routing, Signal
from app.journal.call_events import AttemptStarted, ModelAnswered
from app.journal.events import ModelRouted
from app.journal.journal import read_all
from app.llm.call import Parked
from app.llm.governor.governor import pool_of
from app.llm.governor.lane import Reason, Told
from app.llm.retry_budget import RetryTerms
from tests.support.provider import HAIKU, Hang, answer, calls, status, text, tool_use, usage
from tests.support.seeding import drift, row_of, spec

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
ROUTING = Routing(
    0.62,
    (Signal("3 tools", 0.15),),
    (
        Alternative(Complexity.SIMPLE, HAIKU, 10, 100),
        Alternative(Complexity.MEDIUM, SONNET, 20, 200),
        Alternative(Complexity.COMPLEX, OPUS, 30, 300),
    ),
)
AUTO: dict[str, Any] = {
    "classify": True,
    "routing": ROUTING,
    "complexity": Complexity.MEDIUM,
    "model": SONNET,
    "model_reason": "auto: score 0.62 >= 0.45 (3 tools +0.15)",
}
DONE = answer(text("done"), model=OPUS)


def says(words: str) -> Any:
    """The classifier's answer."""
    return answer(text(words), report=usage(200, 2))


def models(studio: Any) -> list[str]:
    """Who was asked."""
    return [request.model for request in studio.desk.provider.asked]


@pytest.mark.parametrize(
    ("words", "model"),
    [("simple", HAIKU), ("Medium.", SONNET), ("**complex**", OPUS), ("It is complex", OPUS)],
)
async def test_its_word_goes_before_the_router_s(open_studio: Any, words: str, model: str) -> None:
    """The cheapest route is asked first; then the route it named works on the task, and only that is its answer."""
    async with open_studio(says(words), DONE) as studio:
        claim = await studio.claim(**AUTO)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, model]
        (told,) = await studio.desk.events(claim, ModelRouted)
        assert (told.by, told.model) == ("classifier", model)
        assert told.reason.startswith("classifier: ")
        assert told.reason.endswith("(router: medium, score 0.62)")
        assert (told.score, told.signals, told.complex_worst_nano) == (
            0.62,
            ("3 tools +0.15",),
            300,
        )
        row = await row_of(studio.desk.store)
        assert (row["outcome"], row["step_count"]) == ("answered", 2)
        assert orjson.loads(studio.desk.provider.sent[1]) == [
            {"role": "user", "content": claim.spec.text}
        ]
        moves = [event.move for event in await studio.desk.events(claim, ModelAnswered)]
        assert moves == ["classify", "finish"]
        assert await drift(studio.desk.store) == []


@pytest.mark.parametrize("words", ["", "hard", "simple or complex", "complexity"])
async def test_without_one_word_the_router_s_stands(open_studio: Any, words: str) -> None:
    """An answer that names none, or several, is paid for and decides nothing."""
    said = says(words) if words else answer()
    async with open_studio(said, DONE) as studio:
        claim = await studio.claim(**AUTO)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, SONNET]
        (told,) = await studio.desk.events(claim, ModelRouted)
        assert (told.by, told.model, told.complexity) == ("fallback", SONNET, "medium")
        assert told.reason == AUTO["model_reason"] + "; classifier: it named no complexity"


async def test_a_failure_costs_the_task_nothing_but_time(open_studio):
    """A call that fails for good leaves the task to the router's choice, with its own retries untouched."""
    soon = status(529, "overloaded_error", retry_after_s=0.001)
    async with open_studio(soon, soon, soon, DONE, max_attempts=2) as studio:
        claim = await studio.claim(**AUTO)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, HAIKU, SONNET, SONNET]
        (told,) = await studio.desk.events(claim, ModelRouted)
        assert (told.by, told.reason.rpartition("; ")[2]) == ("fallback", "classifier: it failed")
        attempts = await studio.desk.events(claim, AttemptStarted)
        assert [(event.step, event.attempt) for event in attempts] == [(1, n) for n in (1, 2, 3, 4)]


async def test_a_failure_that_a_run_hears_of_too_late(open_studio):
    """Others have the task by now: what this one falls back to is not written, and nothing is asked."""
    soon = status(529, "overloaded_error", retry_after_s=0.001)
    async with open_studio(soon, soon, DONE, max_attempts=2) as studio:
        claim = await studio.claim(**AUTO)
        studio.desk.store.taken_before = "Classifier._fall_back.op"
        with pytest.raises(StaleLease):
            await studio.run(claim)
        assert await studio.desk.events(claim, ModelRouted) == []
        assert models(studio) == [HAIKU, HAIKU]


async def test_the_budget_goes_first(open_studio):
    """Where it does not pay for the question none is asked."""
    async with open_studio() as studio:
        claim = await studio.claim(**AUTO)
        scope = task_scope(claim.subject.task_id)
        await studio.desk.store.write(lambda tx: set_limit(tx, scope, 1_000))
        end = await studio.run(claim)
        assert end is not None
        assert end.outcome == "budget_exhausted"
        (told,) = await studio.desk.events(claim, ModelRouted)
        assert told.reason.endswith("; classifier: the budget does not pay for it")


async def test_it_takes_no_step_from_the_task(open_studio):
    """With one step allowed the task still has its answer."""
    async with open_studio(says("complex"), DONE) as studio:
        assert await studio.run(await studio.claim(**AUTO, max_steps=1)) is None
        assert (await row_of(studio.desk.store))["outcome"] == "answered"


async def test_the_last_step_is_the_last(open_studio):
    """With one step allowed a call for tools ends the task, as it does without a classifier."""
    async with open_studio(says("complex"), calls(tool_use("a"))) as studio:
        assert await studio.run(await studio.claim(**AUTO, max_steps=1)) is None
        assert (await row_of(studio.desk.store))["outcome"] == "max_steps"


@pytest.mark.parametrize("given", [{"classify": False}, {"routing": None}])
async def test_nobody_is_asked_unless_the_task_was_routed(
    open_studio: Any, given: dict[str, Any]
) -> None:
    """Without the wish, or without a router's choice, there is no such call."""
    async with open_studio(answer(text("done"))) as studio:
        assert await studio.run(await studio.claim(**{**AUTO, **given})) is None
        assert models(studio) == [SONNET]


class TestWaits:
    """A task waits for its own model, and for its money; never for a second opinion."""

    async def test_a_wait_is_not_held_for_it(self, open_studio):
        """Told to come back later, the task goes on without at once; a restart comes to the same."""
        later = status(429, "rate_limit_error", retry_after_s=30.0)

        def die(_request: object) -> Any:
            raise RuntimeError("dead")

        async with open_studio(later, die, DONE) as studio:
            claim = await studio.claim(**AUTO)
            with pytest.raises(RuntimeError):
                await studio.run(claim)
            assert models(studio) == [HAIKU, SONNET]
            (told,) = await studio.desk.events(claim, ModelRouted)
            assert (told.by, told.model) == ("fallback", SONNET)
            assert told.reason.endswith("; classifier: its model is not to be had now")
            job = await studio.resumed(claim)
            assert (job.transcript.classified, job.transcript.model) == (True, SONNET)
            assert await studio.loop.run(job) is None
            assert models(studio) == [HAIKU, SONNET, SONNET]
            assert await drift(studio.desk.store) == []

    @pytest.mark.parametrize("why", [Reason.OUTAGE, Reason.RATE_LIMITED])
    async def test_a_model_that_is_not_to_be_had_is_not_asked(
        self, open_studio: Any, why: Reason
    ) -> None:
        """Down, or limited: the router's choice answers, and nobody keeps a place for the task."""
        async with open_studio(DONE, park_after_s=0.001) as studio:
            studio.desk.governor.hear(pool_of(HAIKU), Told(why, 600.0))
            claim = await studio.claim(**AUTO)
            assert await studio.run(claim) is None
            assert models(studio) == [SONNET]
            (told,) = await studio.desk.events(claim, ModelRouted)
            assert (told.by, told.model) == ("fallback", SONNET)
            assert [len(road.line) for road in studio.desk.governor.roads()] == [0, 0]
            assert (await row_of(studio.desk.store))["outcome"] == "answered"

    async def test_a_retry_that_is_not_paid_for_is_not_waited_for(self, open_studio):
        """In an outage its first failure is its last: the budget of retries expects the task no more."""
        failing = status(529, "overloaded_error")
        async with open_studio(failing, DONE, terms=RetryTerms(capacity=4)) as studio:
            claim = await studio.claim(**AUTO)
            assert await studio.run(claim) is None
            assert models(studio) == [HAIKU, SONNET]
            assert studio.desk.retries.waiting(HAIKU) == 0
            assert await drift(studio.desk.store) == []

    async def test_a_stop_is_waited_for(self, open_studio):
        """What the task's own question would meet as well decides nothing: the next run asks."""
        async with open_studio(says("complex"), DONE) as studio:
            claim = await studio.claim(**AUTO)
            studio.desk.governor.begin_drain()
            with pytest.raises(Parked, match="drain"):
                await studio.run(claim)
            assert await studio.desk.events(claim, ModelRouted) == []

    async def test_money_that_others_hold_is_waited_for(self, open_studio):
        """It may come back, and the task's own question needs it, too."""
        async with open_studio(hang := Hang(), park_after_s=0.001) as studio:
            other = await studio.claim(task_id="other")
            running = asyncio.create_task(studio.run(other))
            await hang.entered.wait()
            session = session_scope(other.subject.owner, other.subject.session_id)
            held_nano = (await row_of(studio.desk.store, "other"))["reserved_nano"]
            await studio.desk.store.write(lambda tx: set_limit(tx, session, held_nano))
            claim = await studio.claim(**AUTO)
            with pytest.raises(Parked, match="budget_contention"):
                await studio.run(claim)
            assert await studio.desk.events(claim, ModelRouted) == []
            running.cancel()
            await asyncio.wait({running})


class TestOnce:
    """Nobody is asked twice."""

    async def test_after_its_answer(self, open_studio):
        """A crash after the decision: the next run asks the chosen model, and the transcript is the same."""

        def die(_request: object) -> Any:
            raise RuntimeError("dead")

        async with open_studio(says("complex"), die, DONE) as studio:
            claim = await studio.claim(**AUTO)
            with pytest.raises(RuntimeError):
                await studio.run(claim)
            job = await studio.resumed(claim)
            assert (job.transcript.model, job.transcript.classified) == (OPUS, True)
            assert await studio.loop.run(job) is None
            assert models(studio) == [HAIKU, OPUS, OPUS]
            assert studio.desk.provider.sent[2] == studio.desk.provider.sent[1]
            assert len(await studio.desk.events(claim, ModelRouted)) == 1

    async def test_after_its_answer_was_lost(self, open_studio):
        """A crash during the call: what it may have cost is booked, and the router's choice stands."""

        def die(_request: object) -> Any:
            raise RuntimeError("dead")

        async with open_studio(die, DONE) as studio:
            claim = await studio.claim(**AUTO)
            with pytest.raises(RuntimeError):
                await studio.run(claim)
            job = await studio.resumed(claim)
            assert await studio.loop.run(job) is None
            assert models(studio) == [HAIKU, SONNET]
            (told,) = await studio.desk.events(claim, ModelRouted)
            assert told.reason.endswith("; classifier: its answer was lost")
            row = await row_of(studio.desk.store)
            assert (row["outcome"], row["step_count"]) == ("answered", 1)
            assert await drift(studio.desk.store) == []

    async def test_the_transcript_is_rebuilt_as_it_was(self, open_studio):
        """Field by field."""
        async with open_studio(says("complex"), calls(tool_use("a")), DONE) as studio:
            claim = await studio.claim(**AUTO)
            live = Transcript.begin(claim.spec)
            assert await studio.loop.run(studio.job(claim, live)) is None
            assert rebuild(claim.spec, await read_all(studio.desk.store, claim.subject)) == live


class TestQuestion:
    """What is asked."""

    def test_a_short_task_is_shown_whole(self):
        """As data, with the number of its tools, for one word."""
        asked = question(spec(text="Do it.", tools=("a", "b")), HAIKU)
        assert asked.messages[0]["content"].startswith(
            "<task>\nDo it.\n</task>\nTools it may use: 2."
        )
        assert (asked.max_tokens, asked.tools) == (OUTPUT_TOKENS, ())
        assert "do not" in (asked.system or "")

    def test_of_a_long_task_the_ends(self):
        """Bounded, whatever comes in."""
        asked = question(spec(text="a" * 50_000 + "z" * 50_000), HAIKU)
        content = asked.messages[0]["content"]
        assert content.count("a" * HEAD_CHARS) == 1
        assert len(content) < HEAD_CHARS + TAIL_CHARS + 100

    def test_a_model_that_always_thinks_gets_room_for_it(self):
        """Else its whole answer would be thought."""
        assert question(spec(), OPUS).max_tokens == 1_024
