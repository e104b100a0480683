"""A model call and its money: reserved before it is made, settled with what follows, nothing left held."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.budget.accounts import ServiceLimits, set_limit
from app.budget.keys import create_key
from app.budget.scopes import KINDS, session_scope, task_scope
from app.domain.errors import BudgetExhausted, StaleLease, StoreFull
from app.domain.task import LOCAL_OWNER, Claim
from app.journal.call_events import (
    AttemptFailed,
    AttemptStarted,
    ModelAnswered,
    ReservationExceeded,
)
from app.llm.bound import affordable_max_tokens, worst_case_nano
from app.llm.models import facts_of
from app.llm.provider import ModelFailure, Phase
from app.queue import verbs
from tests.support.clock import FakeClock
from tests.support.desk import PROMPT_TOKENS, Desk, call_of, decide, open_desk, prices
from tests.support.provider import HAIKU, Hang, ScriptedProvider, answer, text, thinking, usage
from tests.support.seeding import USD, claim_now, claimed, drift, lines_of, row_of

FACTS = facts_of(HAIKU)
FLOOR = FACTS.min_output_tokens


def worst(tokens: int, prompt_tokens: int = PROMPT_TOKENS) -> int:
    """The reservation of a call, in nano-dollars, on the test's day."""
    return worst_case_nano(row(), FACTS, prompt_tokens, tokens)


def row() -> Any:
    """The price row of the test's model on the test's day."""
    return prices().row(HAIKU, FakeClock.today())


def cost(input_tokens: int, output_tokens: int) -> int:
    """The price of an answer, in nano-dollars."""
    rates = row().rates
    return int(-(-(input_tokens * rates.input + output_tokens * rates.output) // 1_000_000))


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    """A desk whose provider has nothing to say yet."""
    async with open_desk(tmp_path) as opened:
        yield opened


async def test_reservation_is_durable_before_the_provider_is_asked(desk):
    """While the provider thinks, the journal and every account already know what it may cost."""
    hang = Hang(answer(text("hello")))
    desk.provider.script = [hang]
    claim = await claimed(desk.store)
    asking = asyncio.ensure_future(desk.ask(call_of(claim)))
    await hang.entered.wait()
    held = await row_of(desk.store)
    assert (held["reserved_nano"], held["spent_nano"]) == (worst(2_048), 0)
    (started,) = await desk.events(claim, AttemptStarted)
    assert started.reserved_nano == worst(2_048)
    assert (started.step, started.attempt, started.max_tokens) == (1, 1, 2_048)
    assert started.prompt_bound_tokens == PROMPT_TOKENS
    assert desk.provider.asked[0].reference == "t/1/1"
    hang.release()
    await asking
    after = await row_of(desk.store)
    assert after["reserved_nano"] == 0
    assert await drift(desk.store) == []


class Cold(ScriptedProvider):
    """A provider that is not ready at first, or never."""

    def __init__(self, *script: Any, fails: bool = False) -> None:
        super().__init__(*script)
        self.fails = fails
        self.awaited, self.warm = asyncio.Event(), asyncio.Event()

    @property
    def failed(self) -> bool:
        """Nobody asks."""
        return self.fails

    def warm_up(self) -> None:
        """Nothing to do by itself."""

    async def ready(self) -> None:
        """Once the test says so."""
        self.awaited.set()
        if self.fails:
            raise ModelFailure("client_failed", "no certificates", phase=Phase.CONNECT)
        await self.warm.wait()


async def test_no_money_is_held_until_the_provider_is_ready(tmp_path):
    """Who goes away meanwhile has cost nothing; who stays is answered."""
    provider = Cold(answer(text("hello")))
    async with open_desk(tmp_path, provider=provider) as desk:
        claim = await claimed(desk.store)
        leaving = asyncio.ensure_future(desk.ask(call_of(claim)))
        await provider.awaited.wait()
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        assert await desk.events(claim, AttemptStarted) == []
        staying = asyncio.ensure_future(desk.ask(call_of(claim)))
        provider.warm.set()
        await staying
        assert (await lines_of(desk.store))["presumed_nano"] == 0
        assert len(await desk.events(claim, ModelAnswered)) == 1


async def test_a_provider_that_cannot_get_ready_is_asked_all_the_same(tmp_path):
    """Its failure is an attempt's, booked and decided on as any other."""
    provider = Cold(answer(text("hello")), fails=True)
    async with open_desk(tmp_path, provider=provider) as desk:
        claim = await claimed(desk.store)
        await desk.ask(call_of(claim))
        assert len(desk.provider.asked) == 1


async def test_answer_is_paid_at_its_reported_usage(desk):
    """The real cost replaces the reservation on task and session, and the journal tells it."""
    desk.provider.script = [answer(text("hello"), report=usage(1_000, 50))]
    claim = await claimed(desk.store)
    call = call_of(claim)
    found, move, settled = await desk.ask(call)
    price = cost(1_000, 50)
    assert found.content == [text("hello")]
    assert move.settled == [settled]
    assert (settled.charged_nano, settled.surplus_nano) == (price, 0)
    lines = await lines_of(desk.store)
    assert lines["confirmed_nano"] == lines["spent_nano"] == price
    assert (lines["input_tokens"], lines["output_tokens"]) == (1_000, 50)
    (answered,) = await desk.events(claim, ModelAnswered)
    assert (answered.cost_nano, answered.kind, answered.task_spent_nano) == (
        price,
        "confirmed",
        price,
    )
    stands = await desk.store.read(lambda tx: tx.one("read_account", scope="session", id="local/s"))
    assert stands["spent_nano"] == price


@pytest.mark.parametrize("spare", [0, 1, 10_000, 123_457])
@pytest.mark.parametrize("tight", KINDS)
async def test_max_tokens_is_clamped_to_what_the_budget_pays(tmp_path, tight, spare):
    """The tightest scope decides how much output is asked for, to the token; never more than wished."""
    budget = worst(FLOOR) + spare
    limits = dict.fromkeys(KINDS, USD) | {tight: budget}
    async with open_desk(tmp_path, answer(text("hello")), service=service_of(limits)) as desk:
        claim = await claimed_with(desk, limits)
        call = call_of(claim)
        await desk.ask(call)
    (asked,) = desk.provider.asked
    assert asked.max_tokens == affordable_max_tokens(row(), FACTS, PROMPT_TOKENS, budget)
    assert FLOOR <= asked.max_tokens < 2_048
    assert worst(asked.max_tokens) <= budget < worst(asked.max_tokens + 1)


def service_of(limits: dict[str, int]) -> ServiceLimits:
    """The service's part of budgets by scope."""
    return ServiceLimits(limits["service_day"], limits["service_month"], limits["service"])


async def claimed_with(desk: Desk, limits: dict[str, int]) -> Claim:
    """A running task with these budgets on its scopes."""
    key_id, _ = await desk.store.write(
        lambda tx: create_key(
            tx,
            LOCAL_OWNER,
            "a key",
            day_limit_nano=limits["key_day"],
            month_limit_nano=limits["key_month"],
        )
    )
    return await claimed(
        desk.store,
        budget_nano=limits["task"],
        session_nano=limits["session"],
        key_id=key_id,
    )


@pytest.mark.parametrize("tight", KINDS)
async def test_no_call_when_not_even_a_minimal_one_is_paid_for(tmp_path, tight):
    """One nano-dollar below a minimal call: the typed error, no call, nothing held, nothing written."""
    budget = worst(FLOOR) - 1
    limits = dict.fromkeys(KINDS, USD) | {tight: budget}
    async with open_desk(tmp_path, service=service_of(limits)) as desk:
        claim = await claimed_with(desk, limits)
        with pytest.raises(BudgetExhausted) as raised:
            await desk.ask(call_of(claim))
        assert desk.provider.asked == []
        assert await desk.events(claim, AttemptStarted) == []
        assert (await row_of(desk.store))["reserved_nano"] == 0
    error = raised.value
    assert (error.scope, error.limit_nano, error.spent_nano) == (tight, budget, 0)
    assert error.needed_nano == worst(FLOOR)


async def test_a_wish_below_the_floor_is_its_own_floor(desk):
    """Who asks for ten tokens gets a call for ten tokens, if the budget pays for those."""
    desk.provider.script = [answer(text("hello"))]
    claim = await claimed(desk.store, budget_nano=worst(10), max_tokens=10)
    await desk.ask(call_of(claim))
    assert desk.provider.asked[0].max_tokens == 10


async def test_spent_money_lowers_the_next_call(desk):
    """What is spent is gone: the second call may ask for less, the third cannot be made."""
    budget = worst(2_048)
    desk.provider.script = [
        answer(text("a"), report=usage(PROMPT_TOKENS, 1_500)),
        lambda asked: answer(text("b"), report=usage(100, asked.max_tokens)),
    ]
    claim = await claimed(desk.store, budget_nano=budget, session_nano=3 * USD)
    call = call_of(claim, prompt_tokens=PROMPT_TOKENS)
    await desk.ask(call)
    await desk.ask(call_of(claim, step=2, prompt_tokens=100))
    with pytest.raises(BudgetExhausted) as raised:
        await desk.ask(call_of(claim, step=3))
    first, second = (request.max_tokens for request in desk.provider.asked)
    assert first == 2_048
    left = budget - cost(PROMPT_TOKENS, 1_500)
    assert second == affordable_max_tokens(row(), FACTS, 100, left) < 2_048
    assert raised.value.spent_nano == (await row_of(desk.store))["spent_nano"]


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (answer(text("hi"), no_usage=True), "no usage"),
        (answer(text("hi"), report=usage(-1, 5)), "negative"),
        (answer(text("hi"), report={"input_tokens": None, "output_tokens": 5}), "null"),
        (answer(text("hi"), model="gpt-oss-of-somebody"), "unknown model"),
    ],
    ids=lambda value: value if isinstance(value, str) else "answer",
)
async def test_unknown_cost_is_booked_at_the_reservation(desk, said, why):
    """Without a trustworthy usage or a price the upper bound is booked, and shown as estimated."""
    desk.provider.script = [said]
    claim = await claimed(desk.store)
    _, _, settled = await desk.ask(call_of(claim))
    assert settled.charged_nano == worst(2_048), why
    lines = await lines_of(desk.store)
    assert (lines["estimated_nano"], lines["confirmed_nano"]) == (worst(2_048), 0)
    (event,) = await desk.events(claim, ModelAnswered)
    assert event.kind == "estimated"


@pytest.mark.parametrize("words", [(), ("half an ans",)])
async def test_refusal_before_any_output_is_free(desk, words):
    """A refusal without content costs nothing though usage is shown; in mid-answer it is billed."""
    said = answer(*map(text, words), stop_reason="refusal", report=usage(500, 3))
    desk.provider.script = [said]
    claim = await claimed(desk.store)
    _, _, settled = await desk.ask(call_of(claim))
    assert (settled.charged_nano == 0) is not bool(words)
    lines = await lines_of(desk.store)
    assert (lines["calls"], lines["confirmed_nano"]) == (1, settled.charged_nano)


async def test_more_than_reserved_is_booked_and_shouted_about(desk):
    """An impossible usage is booked in full: the surplus apart, with an event of its own."""
    desk.provider.script = [answer(text("hi"), report=usage(900_000, 90_000))]
    claim = await claimed(desk.store)
    _, _, settled = await desk.ask(call_of(claim))
    assert settled.reserved_nano == worst(2_048)
    assert settled.surplus_nano == settled.charged_nano - worst(2_048) > 0
    (event,) = await desk.events(claim, ReservationExceeded)
    assert (event.reserved_nano, event.actual_nano, event.surplus_nano) == (
        worst(2_048),
        settled.charged_nano,
        settled.surplus_nano,
    )
    assert (await row_of(desk.store))["spent_nano"] == settled.charged_nano
    stands = await desk.store.read(lambda tx: tx.one("read_account", scope="task", id="t"))
    assert stands["surplus_nano"] == settled.surplus_nano
    assert await drift(desk.store) == []


async def test_store_that_fails_before_the_call_means_no_call(desk):
    """A reservation that cannot be written is an error, and nobody is asked."""
    claim = await claimed(desk.store)
    desk.store.failures_left = 1
    with pytest.raises(StoreFull):
        await desk.ask(call_of(claim))
    assert desk.provider.asked == []
    assert (await row_of(desk.store))["reserved_nano"] == 0


async def test_store_that_fails_after_the_call_loses_no_answer(desk):
    """A paid answer is kept in hand until it can be written; the provider is not asked again."""

    def say(_request: object) -> Any:
        desk.store.failures_left = 5
        return answer(text("dear"))

    desk.provider.script = [say]
    claim = await claimed(desk.store)
    found, move, settled = await desk.ask(call_of(claim))
    assert found.content == [text("dear")]
    assert (desk.store.failed, len(desk.provider.asked)) == (5, 1)
    assert len(desk.clock.slept) == 5
    assert move.settled == [settled]
    assert (await lines_of(desk.store))["confirmed_nano"] == settled.charged_nano


async def test_a_run_that_lost_its_task_makes_no_call(desk):
    """Another run holds the task: refused before anything is reserved."""
    claim = await claimed(desk.store)
    await desk.store.write(lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us))
    await desk.store.write(lambda tx: claim_now(tx, 1, "other"))
    before = await desk.events(claim)
    with pytest.raises(StaleLease):
        await desk.ask(call_of(claim))
    assert desk.provider.asked == []
    assert await desk.events(claim) == before


async def test_no_call_once_a_cancel_was_asked_for(desk):
    """A task that is being cancelled starts nothing new."""
    claim = await claimed(desk.store)
    await desk.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    with pytest.raises(StaleLease):
        await desk.ask(call_of(claim))
    assert desk.provider.asked == []


async def test_time_for_an_attempt_ends_with_the_deadline(desk):
    """An attempt gets no more time than the task has left."""
    desk.provider.script = [answer(text("a")), answer(text("b"))]
    claim = await claimed(desk.store, deadline_s=700.0)
    await desk.ask(call_of(claim))
    desk.clock.move(690.0)
    await desk.ask(call_of(claim, step=2))
    assert [request.timeout_s for request in desk.provider.asked] == [600.0, 10.0]


async def test_a_verdict_that_fails_leaves_nothing_held(desk):
    """A bug in what decides on an answer: the call is booked, and the error comes through."""
    desk.provider.script = [answer(text("a"))]
    claim = await claimed(desk.store)

    def broken(_answer: object, _asked: int) -> Any:
        raise KeyError("bug")

    with pytest.raises(KeyError):
        await desk.caller.ask(call_of(claim), broken)
    assert (await row_of(desk.store))["reserved_nano"] == 0
    assert (await lines_of(desk.store))["presumed_nano"] == worst(2_048)


async def test_a_lowered_limit_blocks_the_next_call(desk):
    """A limit set below what is spent is taken, and no further call is made."""
    desk.provider.script = [answer(text("a"), thinking(), report=usage(500, 100))]
    claim = await claimed(desk.store)
    _, _, settled = await desk.ask(call_of(claim))
    session = session_scope(LOCAL_OWNER, "s")
    await desk.store.write(lambda tx: set_limit(tx, session, settled.charged_nano - 1))
    with pytest.raises(BudgetExhausted) as raised:
        await desk.caller.ask(call_of(claim, step=2), decide)
    assert raised.value.scope == "session"
    await desk.store.write(lambda tx: set_limit(tx, task_scope(claim.subject.task_id), 0))
    with pytest.raises(BudgetExhausted):
        await desk.ask(call_of(claim, step=2))


async def test_a_failed_attempt_is_told_with_what_it_cost(desk):
    """An unexpected exception of the provider's adapter books the call and comes through."""
    desk.provider.script = [RuntimeError("adapter bug")]
    claim = await claimed(desk.store)
    with pytest.raises(RuntimeError):
        await desk.ask(call_of(claim))
    (failed,) = await desk.events(claim, AttemptFailed)
    assert (failed.decision, failed.kind, failed.charged_nano) == (
        "interrupted",
        "presumed",
        worst(2_048),
    )
