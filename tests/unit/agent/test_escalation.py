"""A step up to the next dearer route: when, what it asks, what it costs, and that a restart comes to the same."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.agent.escalation import Ladder
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.budget.accounts import set_limit
from app.budget.scopes import task_scope
from app.domain.task import BudgetPolicy, Conclusion, Routing
from app.journal.call_events import ModelAnswered
from app.journal.events import ModelEscalated
from app.journal.journal import read_all
from app.llm.bound import prompt_bound, worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import UnknownModel
from app.llm.provider import ModelAnswer, ModelRequest
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import HAIKU, answer, calls, text, thinking, tool_use, usage
from tests.support.seeding import drift, row_of

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
REFUSED = answer(stop_reason="refusal", report=usage(100, 1))
CUT = answer(text("half a"), stop_reason="max_tokens")
EMPTY = answer()
DONE = answer(text("done"), model=SONNET)


def ladder(limit: int = 2) -> Ladder:
    """Haiku, Sonnet, Opus."""
    return Ladder(
        {HAIKU: SONNET, SONNET: OPUS}.get,
        lambda model: prices().row(model, FakeClock.today()),
        limit,
    )


def models(studio: Any) -> list[str]:
    """Who was asked."""
    return [request.model for request in studio.desk.provider.asked]


def worst_of(request: ModelRequest) -> int:
    """The most that the request can cost, from its bytes."""
    row, facts = prices().row(request.model, FakeClock.today()), facts_of(request.model)
    return worst_case_nano(row, facts, prompt_bound(request, facts), request.max_tokens)


async def ended(studio: Any) -> tuple[str, Any]:
    """The recorded outcome and result."""
    row = await row_of(studio.desk.store)
    return row["outcome"], orjson.loads(row["result_json"] or "null")


@pytest.mark.parametrize(
    ("failing", "why"),
    [([REFUSED], "refused"), ([CUT, CUT], "truncated"), ([EMPTY, EMPTY], "empty_answer")],
)
async def test_the_next_model_goes_on(
    open_studio: Any, failing: list[ModelAnswer], why: str
) -> None:
    """After a refusal, a second cut or a second empty answer the dearer model is asked the same, and answers."""
    async with open_studio(*failing, DONE, ladder=ladder()) as studio:
        claim = await studio.claim(escalate=True)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU] * len(failing) + [SONNET]
        assert studio.desk.provider.sent[-1] == studio.desk.provider.sent[len(failing) - 1]
        assert await ended(studio) == ("answered", "done")
        (told,) = await studio.desk.events(claim, ModelEscalated)
        assert (told.from_model, told.to_model, told.why) == (HAIKU, SONNET, why)
        assert (told.step, told.number) == (len(failing), 1)
        moves = [event.move for event in await studio.desk.events(claim, ModelAnswered)]
        assert moves[-2:] == ["escalate", "finish"]
        assert await drift(studio.desk.store) == []


async def test_the_step_up_is_priced_from_bytes_with_nothing_cached(open_studio):
    """What the event says is what the next call reserves at most: the whole prompt at the full price."""
    async with open_studio(REFUSED, DONE, ladder=ladder()) as studio:
        claim = await studio.claim(escalate=True, text="Work. " * 200)
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelEscalated)
        request = studio.desk.provider.asked[-1]
        row = prices().row(SONNET, FakeClock.today())
        expected = worst_case_nano(
            row, facts_of(SONNET), told.prompt_bound_tokens, request.max_tokens
        )
        assert told.next_worst_nano == expected
        assert told.prompt_bound_tokens > len(claim.spec.text)


async def test_the_event_tells_the_alternatives_and_their_price(open_studio: Any) -> None:
    """The model that is left, asked the same again, and the route above the next one; each from its own bytes."""
    async with open_studio(REFUSED, DONE, ladder=ladder()) as studio:
        claim = await studio.claim(escalate=True, text="Work. " * 200, routing=Routing(0.37, ()))
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelEscalated)
        assert (told.score, told.alternatives) == (0.37, (HAIKU, OPUS))
        asked = studio.desk.provider.asked
        alone = [replace(asked[0], model=model) for model in (HAIKU, OPUS)]
        assert told.alternatives_worst_nano == tuple(worst_of(request) for request in alone)
        assert told.next_worst_nano == worst_of(asked[-1])


async def test_what_has_no_price_is_no_alternative(open_studio: Any) -> None:
    """The price file lost the dearest route since: the step up is told of without it. No router, no score."""
    named = ladder()

    def row(model: str) -> Any:
        if model == OPUS:
            raise UnknownModel(model)
        return named.row(model)

    async with open_studio(REFUSED, DONE, ladder=replace(named, row=row)) as studio:
        claim = await studio.claim(escalate=True)
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelEscalated)
        assert (told.score, told.alternatives) == (None, (HAIKU,))
        assert len(told.alternatives_worst_nano) == 1


async def test_thinking_is_left_out_for_the_other_model(open_studio):
    """What the first model thought is not sent to the second; its calls and their results are."""
    asked = calls(tool_use("a"), before=[thinking("hm")])
    async with open_studio(asked, REFUSED, DONE, ladder=ladder()) as studio:
        claim = await studio.claim(escalate=True)
        assert await studio.run(claim) is None
        first, second = (orjson.loads(sent) for sent in studio.desk.provider.sent[1:])
        kinds = [[block["type"] for block in m[1]["content"]] for m in (first, second)]
        assert kinds == [["thinking", "tool_use"], ["tool_use"]]


async def test_the_number_of_steps_up_is_bounded(open_studio):
    """At the limit, and at the top, the task ends as it would have."""
    async with open_studio(REFUSED, REFUSED, ladder=ladder(1)) as studio:
        await studio.run(await studio.claim(escalate=True))
        assert models(studio) == [HAIKU, SONNET]
        assert (await ended(studio))[0] == "refused"


async def test_at_the_top_there_is_none(open_studio):
    """The dearest route has nobody above it."""
    async with open_studio(CUT, CUT, ladder=ladder()) as studio:
        await studio.run(await studio.claim(escalate=True, model=OPUS))
        assert await ended(studio) == ("truncated", "half a")


@pytest.mark.parametrize(
    ("script", "given", "outcome"),
    [
        ([REFUSED], {"escalate": False}, "refused"),
        ([REFUSED], {"max_steps": 1}, "refused"),
        ([CUT], {"max_tokens_explicit": True}, "truncated"),
        ([answer(text("x"), stop_reason="model_context_window_exceeded")], {}, "truncated"),
    ],
)
async def test_when_no_other_model_is_asked(
    open_studio: Any, script: list[ModelAnswer], given: dict[str, Any], outcome: str
) -> None:
    """Unasked; at the last step; where the client's own bound or the window was too small."""
    async with open_studio(*script, ladder=ladder()) as studio:
        claim = await studio.claim(**{"escalate": True, **given})
        assert await studio.run(claim) is None
        assert (await ended(studio))[0] == outcome
        assert await studio.desk.events(claim, ModelEscalated) == []


async def test_a_model_without_a_price_is_no_step_up(open_studio):
    """The price file lost it since: the answer that is paid for still ends the task."""

    def lost(model: str) -> Any:
        raise UnknownModel(model)

    async with open_studio(REFUSED, ladder=Ladder({HAIKU: SONNET}.get, lost, 2)) as studio:
        assert await studio.run(await studio.claim(escalate=True)) is None
        assert (await ended(studio))[0] == "refused"


class TestInCircles:
    """The same calls with the same results, a third time."""

    async def test_another_model_is_asked_instead(self, open_studio):
        """The third answer's calls do not run; the dearer model sees the two rounds before it."""
        script = [calls(tool_use(name)) for name in ("a", "b", "c")]
        async with open_studio(*script, DONE, ladder=ladder()) as studio:
            claim = await studio.claim(escalate=True)
            assert await studio.run(claim) is None
            assert models(studio) == [HAIKU] * 3 + [SONNET]
            assert len(studio.probe.calls) == 2
            (told,) = await studio.desk.events(claim, ModelEscalated)
            assert (told.why, told.step) == ("stuck", 3)

    @pytest.mark.parametrize("changing", ["arguments", "results"])
    async def test_change_is_progress(self, open_studio: Any, changing: str) -> None:
        """Other arguments, or other results of the same ones, are no circle."""
        script = [
            calls(tool_use(f"{n}", arguments={"n": n} if changing == "arguments" else {}))
            for n in range(4)
        ]
        async with open_studio(*script, answer(text("done")), ladder=ladder()) as studio:
            if changing == "results":

                async def counting() -> str:
                    return f"{len(studio.probe.calls)}"

                studio.probe.body = counting
            claim = await studio.claim(escalate=True)
            assert await studio.run(claim) is None
            assert set(models(studio)) == {HAIKU}
            assert await studio.desk.events(claim, ModelEscalated) == []

    async def test_the_next_model_is_not_blamed_for_it(self, open_studio):
        """It may make the same call once more without being replaced at once."""
        script = [calls(tool_use(name)) for name in ("a", "b", "c", "d")]
        async with open_studio(*script, DONE, ladder=ladder()) as studio:
            claim = await studio.claim(escalate=True)
            assert await studio.run(claim) is None
            assert models(studio) == [HAIKU] * 3 + [SONNET] * 2


class TestMoney:
    """The budget holds, and pays for what it can."""

    @pytest.mark.parametrize("policy", list(BudgetPolicy))
    @pytest.mark.parametrize(
        ("failing", "outcome", "result"),
        [([REFUSED], "refused", None), ([CUT, CUT], "truncated", "half a")],
    )
    async def test_a_step_up_that_it_does_not_pay_for_changes_nothing(
        self,
        open_studio: Any,
        failing: list[ModelAnswer],
        outcome: str,
        result: str | None,
        policy: BudgetPolicy,
    ) -> None:
        """The task ends as it would have without, whatever its policy; the dearer model is not asked."""
        async with open_studio(*failing, ladder=ladder()) as studio:
            claim = await studio.claim(escalate=True, on_budget=policy, text="Work. " * 400)
            scope = task_scope(claim.subject.task_id)
            await studio.desk.store.write(lambda tx: set_limit(tx, scope, 3_700_000))
            end = await studio.run(claim)
            assert isinstance(end, Conclusion)
            assert (end.outcome, end.result) == (outcome, result)
            assert end.error is not None
            assert "does not pay for claude-sonnet-5-5" in end.error.message
            assert set(models(studio)) == {HAIKU}


class TestRestart:
    """A crash after the step up."""

    @pytest.mark.parametrize("failing", [[REFUSED], [CUT, CUT]])
    async def test_the_journal_gives_the_same_question(
        self, open_studio: Any, failing: list[ModelAnswer]
    ) -> None:
        """The next run asks the dearer model what the first was about to ask, and nothing is bought again."""

        def die(_request: object) -> ModelAnswer:
            raise RuntimeError("dead")

        async with open_studio(*failing, die, DONE, ladder=ladder()) as studio:
            claim = await studio.claim(escalate=True)
            with pytest.raises(RuntimeError):
                await studio.run(claim)
            job = await studio.resumed(claim)
            assert job.transcript.model == SONNET
            assert job.transcript.escalations == 1
            assert await studio.loop.run(job) is None
            assert studio.desk.provider.sent[-1] == studio.desk.provider.sent[-2]
            assert models(studio)[-2:] == [SONNET, SONNET]
            assert (await ended(studio))[0] == "answered"
            assert len(await studio.desk.events(claim, ModelEscalated)) == 1

    async def test_the_transcript_is_rebuilt_as_it_was(self, open_studio):
        """Field by field, with tool calls, thinking and a circle before the step up."""
        script = [calls(tool_use(name), before=[thinking("hm")]) for name in ("a", "b", "c")]
        async with open_studio(*script, calls(tool_use("d")), DONE, ladder=ladder()) as studio:
            claim = await studio.claim(escalate=True)
            live = Transcript.begin(claim.spec)
            assert await studio.loop.run(studio.job(claim, live)) is None
            again = rebuild(claim.spec, await read_all(studio.desk.store, claim.subject))
            assert again == live
