"""Another model goes on where one cannot be had: when, which, what it is asked, what it costs, and after a crash."""

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.agent.transcript import Transcript
from app.domain.errors import StaleLease
from app.domain.task import Outcome, Routing
from app.journal.call_events import AttemptStarted
from app.journal.events import ModelFellBack
from app.llm.bound import prompt_bound, worst_case_nano
from app.llm.call import Parked
from app.llm.models import facts_of
from app.llm.provider import ModelFailure
from app.llm.retry_budget import RetryTerms
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import (
    HAIKU,
    answer,
    calls,
    in_stream,
    lost,
    status,
    text,
    thinking,
    tool_use,
    unreachable,
)
from tests.support.seeding import drift, row_of

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
CHAIN = (SONNET, OPUS)
DONE = answer(text("done"), model=SONNET)
ONE = RetryTerms(capacity=5)
"""Pays for one retry: after that, to the process, the model is down."""


def overloaded() -> ModelFailure:
    """No room, and soon to be asked again."""
    return status(529, "overloaded_error", retry_after_s=0.001)


def models(studio: Any) -> list[str]:
    """Who was asked."""
    return [request.model for request in studio.desk.provider.asked]


@pytest.mark.parametrize(
    "failure",
    [
        overloaded(),
        status(500, retry_after_s=0.001),
        unreachable(),
        in_stream("overloaded_error"),
        lost("timeout", retry_after_s=0.001),
    ],
    ids=["529", "500", "unreachable", "in stream", "timeout"],
)
async def test_after_the_last_attempt_the_next_model_goes_on(
    open_studio: Any, failure: ModelFailure
) -> None:
    """It is asked the same, with a reservation at its own price from its own bytes, and told of in the journal."""
    script = [failure, failure, DONE]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=2) as studio:
        claim = await studio.claim(fallback=CHAIN)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, HAIKU, SONNET]
        assert studio.desk.provider.sent[2] == studio.desk.provider.sent[0]
        (told,) = await studio.desk.events(claim, ModelFellBack)
        assert (told.step, told.from_model, told.to_model) == (1, HAIKU, SONNET)
        assert told.why == failure.error_type
        last = (await studio.desk.events(claim, AttemptStarted))[-1]
        assert (last.model, last.attempt) == (SONNET, 3)
        row = prices().row(SONNET, FakeClock.today())
        worst = worst_case_nano(row, facts_of(SONNET), told.prompt_bound_tokens, last.max_tokens)
        assert last.reserved_nano == told.next_worst_nano == worst
        assert last.price_row == row.row_id
        after = await row_of(studio.desk.store)
        assert (after["outcome"], after["reserved_nano"]) == ("answered", 0)
        assert await drift(studio.desk.store) == []


@pytest.mark.parametrize(
    "failure",
    [
        status(529, "overloaded_error", should_retry=False),
        status(500, should_retry=False),
        status(502, "http_status", api_shaped=False, should_retry=False),
    ],
    ids=["529", "500", "a proxy's 502"],
)
async def test_not_again_does_not_mean_nowhere_else(
    open_studio: Any, failure: ModelFailure
) -> None:
    """`x-should-retry: false` forbids another attempt at this model; the next one is asked at once."""
    async with open_studio(failure, DONE, fallback_after_s=10.0, max_attempts=3) as studio:
        claim = await studio.claim(fallback=CHAIN)
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, SONNET]
        (told,) = await studio.desk.events(claim, ModelFellBack)
        assert (told.to_model, told.why) == (SONNET, failure.error_type)
        assert (await row_of(studio.desk.store))["outcome"] == "answered"
        assert await drift(studio.desk.store) == []


@pytest.mark.parametrize(
    "failure",
    [
        status(400, "invalid_request_error"),
        status(404, "not_found_error"),
        status(429, error_code="enforced_spend_limit_reached"),
        status(500, error_code="contract_spend_limit_reached", should_retry=False),
        status(429, should_retry=False),
        status(501),
        status(501, should_retry=False),
        in_stream("invalid_request_error"),
    ],
)
async def test_what_would_not_pass_is_no_reason(open_studio: Any, failure: ModelFailure) -> None:
    """A request that is refused is not taken elsewhere."""
    async with open_studio(failure, fallback_after_s=10.0) as studio:
        claim = await studio.claim(fallback=CHAIN)
        conclusion = await studio.run(claim)
        assert conclusion.outcome is not Outcome.ANSWERED
        assert models(studio) == [HAIKU]
        assert await studio.desk.events(claim, ModelFellBack) == []


async def test_the_event_tells_the_alternatives_and_their_price(open_studio: Any) -> None:
    """The model that is left and the rest of the chain: what the next call to each could have cost."""
    async with open_studio(overloaded(), DONE, fallback_after_s=10.0, max_attempts=1) as studio:
        claim = await studio.claim(fallback=CHAIN, routing=Routing(0.62, ()))
        assert await studio.run(claim) is None
        (told,) = await studio.desk.events(claim, ModelFellBack)
        assert (told.score, told.alternatives) == (0.62, (HAIKU, OPUS))
        asked = studio.desk.provider.asked[0]
        expected = []
        for model in (HAIKU, OPUS):
            row, facts = prices().row(model, FakeClock.today()), facts_of(model)
            prompt = prompt_bound(replace(asked, model=model), facts)
            expected.append(worst_case_nano(row, facts, prompt, asked.max_tokens))
        assert told.alternatives_worst_nano == tuple(expected)


async def test_no_router_no_score_and_nobody_is_told_of_twice(open_studio: Any) -> None:
    """At the second switch the model that could not be had before is no alternative any more."""
    script = [overloaded(), overloaded(), answer(text("ok"), model=OPUS)]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=1) as studio:
        claim = await studio.claim(fallback=CHAIN)
        assert await studio.run(claim) is None
        told = await studio.desk.events(claim, ModelFellBack)
        assert [event.alternatives for event in told] == [(HAIKU, OPUS), (SONNET,)]
        assert [event.score for event in told] == [None, None]


async def test_a_run_that_others_have_taken_over_falls_back_to_nothing(open_studio: Any) -> None:
    """Its fallback is not written, and the next model is not asked."""
    script = [overloaded(), overloaded(), DONE]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=2) as studio:
        claim = await studio.claim(fallback=CHAIN)
        studio.desk.store.taken_before = "Fallback._goes_on.op"
        with pytest.raises(StaleLease):
            await studio.run(claim)
        assert await studio.desk.events(claim, ModelFellBack) == []
        assert models(studio) == [HAIKU, HAIKU]


async def test_without_a_chain_the_task_fails(open_studio: Any) -> None:
    """Nobody goes on for a task that did not want it."""
    async with open_studio(overloaded(), fallback_after_s=10.0, max_attempts=1) as studio:
        conclusion = await studio.run(await studio.claim())
        assert conclusion.outcome is Outcome.UPSTREAM_FAILED


async def test_the_chain_is_gone_through_once(open_studio: Any) -> None:
    """No model is gone back to; after the last of them the task fails with the last error."""
    script = [overloaded() for _ in range(3)]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=1) as studio:
        claim = await studio.claim(fallback=CHAIN)
        conclusion = await studio.run(claim)
        assert models(studio) == [HAIKU, SONNET, OPUS]
        assert conclusion.outcome is Outcome.UPSTREAM_FAILED
        told = await studio.desk.events(claim, ModelFellBack)
        assert [event.to_model for event in told] == [SONNET, OPUS]


async def test_thinking_is_left_out_and_the_next_steps_stay(open_studio: Any) -> None:
    """In mid-task: the other model sees the calls and results, not the thoughts; and it stays for the rest."""
    first = calls(tool_use("a"), before=[thinking("hm")])
    second = calls(tool_use("b"))
    script = [first, overloaded(), second, DONE]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=1) as studio:
        assert await studio.run(await studio.claim(fallback=CHAIN)) is None
        assert models(studio) == [HAIKU, HAIKU, SONNET, SONNET]
        sent = [orjson.loads(one) for one in studio.desk.provider.sent]
        kinds = [[block["type"] for block in messages[1]["content"]] for messages in sent[1:]]
        assert kinds == [["thinking", "tool_use"], ["tool_use"], ["tool_use"]]


async def test_an_outage_is_waited_for_no_longer_than_was_set(open_studio: Any) -> None:
    """Parked first, but only for so long; then the next model goes on without another attempt at this one."""
    script = [status(529, "overloaded_error"), DONE]
    async with open_studio(*script, fallback_after_s=10.0, terms=ONE) as studio:
        assert studio.desk.retries.pays(HAIKU, "other", timed_out=False)
        claim = await studio.claim(fallback=CHAIN)
        began_us = studio.desk.clock.now_us()
        with pytest.raises(Parked) as parked:
            await studio.run(claim)
        assert parked.value.reason == "upstream_outage"
        assert parked.value.available_at_us - began_us == pytest.approx(10_000_000, abs=10)
        studio.desk.clock.move(10.1)
        job = await studio.resumed(claim)
        assert await studio.loop.run(job) is None
        assert models(studio) == [HAIKU, SONNET]
        (told,) = await studio.desk.events(claim, ModelFellBack)
        assert told.why == "outage"
        assert told.outage_s == pytest.approx(10.1, abs=0.01)


async def test_a_model_that_is_down_as_well_is_passed_over(open_studio: Any) -> None:
    """The first of the chain that can be had goes on."""
    script = [overloaded(), overloaded(), answer(text("ok"), model=OPUS)]
    async with open_studio(*script, fallback_after_s=0.001, max_attempts=1) as studio:
        retries = studio.desk.caller._retries
        while retries.pays(SONNET, "other", timed_out=False):
            pass
        claim = await studio.claim(fallback=CHAIN)
        studio.desk.provider.script = [overloaded(), answer(text("ok"), model=OPUS)]
        assert await studio.run(claim) is None
        assert models(studio) == [HAIKU, OPUS]


async def test_a_budget_that_does_not_pay_for_it(open_studio: Any) -> None:
    """Then the task ends as it would have; nothing is asked that cannot be paid."""
    async with open_studio(overloaded(), fallback_after_s=10.0, max_attempts=1) as studio:
        claim = await studio.claim(fallback=(OPUS,), budget_nano=2_000_000, tools=())
        conclusion = await studio.run(claim)
        assert conclusion.outcome is Outcome.UPSTREAM_FAILED
        assert models(studio) == [HAIKU]


async def test_a_crash_after_the_switch_comes_to_the_same(open_studio: Any) -> None:
    """The journal rebuilds who is asked, what, and who is not gone back to."""
    first = calls(tool_use("a"), before=[thinking("hm")])

    def killed(_request: object) -> Any:
        raise KeyboardInterrupt

    script = [first, overloaded(), killed]
    async with open_studio(*script, fallback_after_s=10.0, max_attempts=1) as studio:
        claim = await studio.claim(fallback=CHAIN)
        job = studio.job(claim)
        with pytest.raises(KeyboardInterrupt):
            await studio.loop.run(job)
        again = await studio.resumed(claim)
        live, rebuilt = job.transcript, again.transcript
        assert (rebuilt.model, rebuilt.fallen_from) == (SONNET, (HAIKU,))
        assert rebuilt.messages == live.messages
        assert rebuilt.tries.failures == live.tries.failures == 0
        studio.desk.provider.script = [DONE]
        assert await studio.loop.run(again) is None
        assert models(studio)[-2:] == [SONNET, SONNET]
        assert studio.desk.provider.sent[-1] == studio.desk.provider.sent[-2]


async def test_a_retry_of_the_task_may_go_through_the_chain_again(open_studio: Any) -> None:
    """What could not be had then may be had now."""
    async with open_studio() as studio:
        transcript = Transcript.begin((await studio.claim(fallback=CHAIN)).spec)
        transcript.fall_back(ModelFellBack(1, HAIKU, SONNET, "outage", 1.0, 1, 1))
        assert (transcript.model, transcript.fallen_from) == (SONNET, (HAIKU,))
        transcript.retried()
        assert (transcript.model, transcript.fallen_from) == (SONNET, ())
