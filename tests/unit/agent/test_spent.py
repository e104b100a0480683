"""Policies at the cap: fail, pause, finalize, downgrade. The provider's own bill is the judge."""

import asyncio
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.replay import rebuild
from app.agent.spent import Cheaper, no_cheaper
from app.agent.transcript import CLOSING, LEFT_OUT, Transcript
from app.budget.accounts import set_limit
from app.budget.scopes import task_scope
from app.domain.errors import StaleLease
from app.domain.task import LOCAL_OWNER, BudgetPolicy, Claim, Conclusion, Outcome
from app.journal.call_events import AttemptStarted
from app.journal.events import BudgetFinalizing, ModelDowngraded
from app.journal.journal import read_all
from app.llm.bound import closing_nano, prompt_bound, worst_case_nano
from app.llm.call import Paused
from app.llm.models import facts_of
from app.llm.provider import JsonObject, ModelAnswer, ModelRequest
from app.queue import verbs
from app.store.port import Tx
from app.tools.port import Tool
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from tests.support.clock import FakeClock
from tests.support.desk import Desk, open_desk, prices
from tests.support.probe import ANYTHING, Probe
from tests.support.provider import HAIKU, answer, calls, lost, text, thinking, tool_use, usage
from tests.support.seeding import claimed, drift, lines_of, payer_of, row_of

SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
NEXT = {OPUS: SONNET, SONNET: HAIKU}.get
FINALIZE, FAIL, PAUSE = BudgetPolicy.FINALIZE, BudgetPolicy.FAIL, BudgetPolicy.PAUSE


def call_nano(model: str, prompt: int, output: int) -> int:
    """What is reserved for a call."""
    row = prices().row(model, FakeClock.today())
    return worst_case_nano(row, facts_of(model), prompt, output)


def held_back(claim: Claim, prompt: int, output: int) -> int:
    """What is held back for the closing turn after such a first call."""
    closing = Transcript.begin(claim.spec).closing_turn()
    row = prices().row(claim.spec.model, FakeClock.today())
    return closing_nano(row, facts_of(claim.spec.model), prompt, output, closing)


def geo(model: str) -> JsonObject:
    """The dearest geography of those the model is sold in."""
    return {"inference_geo": "us"} if facts_of(model).geo_premium else {}


def at_bound(*blocks: JsonObject) -> Callable[[ModelRequest], ModelAnswer]:
    """The dearest answer that the first call's bounds allow; it asks for tools."""

    def said(request: ModelRequest) -> ModelAnswer:
        prompt = prompt_bound(request, facts_of(request.model))
        report = usage(prompt, request.max_tokens, **geo(request.model))
        return answer(*blocks, stop_reason="tool_use", model=request.model, report=report)

    return said


def first_bound(studio: Any, claim: Claim) -> int:
    """The bound of the task's first prompt."""
    tools = studio.loop._tools.definitions(claim.spec.tools)
    request = Transcript.begin(claim.spec).request(tools, stream_above=1)
    return prompt_bound(request, facts_of(claim.spec.model))


async def limited(studio: Any, claim: Claim, nano: int) -> int:
    """Give the task this budget."""
    scope = task_scope(claim.subject.task_id)
    await studio.desk.store.write(lambda tx: set_limit(tx, scope, nano))
    return nano


async def tight(studio: Any, claim: Claim, output: int) -> int:
    """Let the budget pay for a first call with this output and for a closing turn, to the nano-dollar."""
    bound = first_bound(studio, claim)
    call = call_nano(claim.spec.model, bound, output)
    return await limited(studio, claim, call + held_back(claim, bound, output))


class TestFinalize:
    """`on_budget: finalize`."""

    async def test_the_last_call_is_clamped_by_what_is_held_back(self, open_studio):
        """The first call gets the budget but for the closing turn's price; both together never pass it."""
        async with open_studio(at_bound(tool_use("a")), answer(text("so far"))) as studio:
            claim = await studio.claim(on_budget=FINALIZE, text="Work. " * 100)
            budget = await tight(studio, claim, 700)
            assert await studio.run(claim) is None
            first, second = studio.desk.provider.asked
            assert first.max_tokens == 700
            assert (first.tools, first.system) == (second.tools, second.system)
            assert (first.tools_off, second.tools_off) == (False, True)
            row = await row_of(studio.desk.store)
            assert (row["status"], row["outcome"]) == ("succeeded", "budget_finalized")
            assert (orjson.loads(row["result_json"]), row["result_partial"]) == ("so far", 1)
            assert row["spent_nano"] + row["reserved_nano"] <= budget

    async def test_a_run_that_others_have_taken_over_closes_nothing(self, open_studio):
        """Its closing turn is not told of, and not asked for."""
        async with open_studio(at_bound(tool_use("a")), answer(text("so far"))) as studio:
            claim = await studio.claim(on_budget=FINALIZE, text="Work. " * 100)
            await tight(studio, claim, 700)
            studio.desk.store.taken_before = "SpentBudget._write.op"
            with pytest.raises(StaleLease):
                await studio.run(claim)
            assert await studio.desk.events(claim, BudgetFinalizing) == []
            assert len(studio.desk.provider.asked) == 1

    @pytest.mark.parametrize(("size", "cut"), [(60_000, True), (100, False)])
    async def test_results_that_do_not_fit_are_left_out_and_the_journal_says_so(
        self, open_studio: Any, size: int, *, cut: bool
    ) -> None:
        """The closing turn reads a short note in place of a result it cannot pay for, else the result."""
        async with open_studio(at_bound(tool_use("a")), answer(text("so far"))) as studio:

            async def told() -> str:
                return "r" * size

            studio.probe.body = told
            claim = await studio.claim(on_budget=FINALIZE)
            await tight(studio, claim, 300)
            assert await studio.run(claim) is None
            events = await studio.desk.events(claim, BudgetFinalizing)
            assert [event.results_cut for event in events] == ([False, True] if cut else [False])
            assert {(event.scope, event.step) for event in events} == {("task", 2)}
            read = LEFT_OUT if cut else "r" * size
            result = {"type": "tool_result", "tool_use_id": "a", "content": read}
            last = orjson.loads(studio.desk.provider.sent[1])[-1]
            assert last == {"role": "user", "content": [result, text(CLOSING)]}
            assert (await row_of(studio.desk.store))["outcome"] == "budget_finalized"

    @pytest.mark.parametrize(
        ("last", "outcome", "result"),
        [
            (answer(), "budget_exhausted", "before"),
            (answer(text(" ")), "budget_exhausted", " "),
            (calls(tool_use("b")), "budget_exhausted", "before"),
            (calls(tool_use("b"), before=[text("First I")]), "budget_exhausted", "First I"),
            (answer(text("odd"), stop_reason="of_tomorrow"), "budget_exhausted", "odd"),
            (answer(stop_reason="refusal"), "refused", None),
            (answer(text("cut o"), stop_reason="max_tokens"), "budget_finalized", "cut o"),
        ],
    )
    async def test_what_the_closing_turn_says_decides(self, open_studio, last, outcome, result):
        """Only text is an answer; without one the task fails, and keeps the text it had, marked as partial."""
        async with open_studio(at_bound(text("before"), tool_use("a")), last) as studio:
            claim = await studio.claim(on_budget=FINALIZE)
            await tight(studio, claim, 300)
            assert await studio.run(claim) is None
            row = await row_of(studio.desk.store)
            assert (row["outcome"], row["status"]) == (outcome, Outcome(outcome).status)
            assert (row["result_json"] and orjson.loads(row["result_json"])) == result
            assert bool(row["result_partial"]) == (result is not None)
            assert (row["error_json"] is None) == (outcome == "budget_finalized")
            assert studio.probe.calls == [None]

    async def test_a_lost_closing_turn_is_repeated_as_far_as_the_money_goes(self, open_studio):
        """It is presumed spent like any other; what is left pays for a shorter one, or for none."""
        async with open_studio(at_bound(tool_use("a")), *[lost()] * 3) as studio:
            claim = await studio.claim(on_budget=FINALIZE)
            budget = await tight(studio, claim, 300)
            end = await studio.run(claim)
            assert end.outcome is Outcome.BUDGET_EXHAUSTED
            asked = studio.desk.provider.asked
            assert [request.tools_off for request in asked] == [False, True, True]
            assert asked[1].max_tokens > asked[2].max_tokens
            assert (await lines_of(studio.desk.store))["spent_nano"] <= budget

    async def test_a_crash_before_the_closing_answer_asks_the_same_again(self, open_studio):
        """The next run sends the same bytes, with an attempt number of its own."""
        crash, last = asyncio.CancelledError(), answer(text("so far"))
        async with open_studio(at_bound(tool_use("a")), crash, last) as studio:
            claim = await studio.claim(on_budget=FINALIZE)
            budget = await tight(studio, claim, 300)
            with pytest.raises(asyncio.CancelledError):
                await studio.run(claim)
            assert await studio.desk.events(claim, BudgetFinalizing)
            await limited(studio, claim, 2 * budget)
            assert await studio.loop.run(await studio.resumed(claim)) is None
            asked, sent = studio.desk.provider.asked, studio.desk.provider.sent
            assert sent[1] == sent[2] != sent[0]
            assert (asked[1].tools_off, asked[2].tools_off) == (True, True)
            assert asked[1].reference != asked[2].reference
            assert len(await studio.desk.events(claim, BudgetFinalizing)) == 1


async def test_a_failed_task_keeps_its_partial_result(open_studio):
    """`on_budget: fail`: the latest text comes back, marked as partial; no further call is made."""
    async with open_studio(at_bound(text("half of it"), tool_use("a"))) as studio:
        claim = await studio.claim()
        await limited(studio, claim, call_nano(HAIKU, first_bound(studio, claim), 300))
        end = await studio.run(claim)
        assert end.outcome is Outcome.BUDGET_EXHAUSTED
        assert (end.result, end.partial) == ("half of it", True)
        assert end.error.type == "budget_exhausted"
        assert "task's budget" in end.error.message
        assert len(studio.desk.provider.asked) == 1


async def test_a_pause_says_which_budget_and_how_much_it_needs(open_studio):
    """`on_budget: pause`: the smallest useful call is what it waits for; nothing is held meanwhile."""
    async with open_studio(at_bound(tool_use("a"))) as studio:
        claim = await studio.claim(on_budget=PAUSE)
        limit = call_nano(HAIKU, first_bound(studio, claim), 300)
        await limited(studio, claim, limit)
        with pytest.raises(Paused) as caught:
            await studio.run(claim)
        cause = caught.value.cause
        row = await row_of(studio.desk.store)
        assert (cause.scope, cause.scope_id) == ("task", "t")
        assert (cause.limit_nano, cause.spent_nano) == (limit, row["spent_nano"])
        assert cause.needed_nano > limit - row["spent_nano"]
        assert (row["reserved_nano"], cause.reserved_nano) == (0, 0)


class TestDowngrade:
    """`downgrade`: a cheaper route before the policy."""

    async def test_in_mid_conversation(self, open_studio):
        """It is recorded, the earlier model's thinking stays behind, and both models are on the lines."""
        said = at_bound(thinking("hm"), text("So."), tool_use("a"))
        last = answer(text("done"), model=SONNET)
        async with open_studio(said, last, cheaper=NEXT) as studio:
            claim = await studio.claim(model=OPUS, downgrade=True, max_tokens=1_024)
            first = call_nano(OPUS, first_bound(studio, claim), 1_024)
            await limited(studio, claim, first + call_nano(SONNET, 2_000, 256))
            assert await studio.run(claim) is None
            (event,) = await studio.desk.events(claim, ModelDowngraded)
            assert (event.step, event.from_model, event.to_model) == (2, OPUS, SONNET)
            second = studio.desk.provider.asked[1]
            assert second.model == SONNET
            assert second.messages[1]["content"] == [text("So."), tool_use("a")]
            started = await studio.desk.events(claim, AttemptStarted)
            assert started[1].prompt_bound_tokens == prompt_bound(second, facts_of(SONNET))
            lines = await studio.desk.store.read(
                lambda tx: tx.all("ledger_of_task", task_id="t", owner=LOCAL_OWNER)
            )
            assert [line["model"] for line in lines] == [OPUS, OPUS, SONNET, SONNET]

    async def test_the_next_route_that_fits_is_taken_at_once(self, open_studio):
        """A route that does not fit either is not used; what is told of it: see test_alternatives."""
        async with open_studio(answer(text("done")), cheaper=NEXT) as studio:
            claim = await studio.claim(model=OPUS, downgrade=True, budget_nano=400_000)
            assert await studio.run(claim) is None
            (event,) = await studio.desk.events(claim, ModelDowngraded)
            assert (event.from_model, event.to_model) == (OPUS, HAIKU)
            assert [request.model for request in studio.desk.provider.asked] == [HAIKU]

    @pytest.mark.parametrize("cheaper", [{OPUS: SONNET}.get, no_cheaper])
    @pytest.mark.parametrize("policy", list(BudgetPolicy))
    async def test_where_no_route_fits_the_policy_applies(self, open_studio, cheaper, policy):
        """Bytes bound another model's prompt worse than this one's report does: nothing is recorded of it."""
        report = usage(9_000, 1_024)
        first = answer(tool_use("a"), stop_reason="tool_use", model=OPUS, report=report)
        last = [answer(text("so far"), model=OPUS)] if policy is FINALIZE else []
        async with open_studio(first, *last, cheaper=cheaper) as studio:
            claim = await studio.claim(
                model=OPUS,
                downgrade=True,
                on_budget=policy,
                text="Long words. " * 9_000,
                max_tokens=1_024,
            )
            await limited(studio, claim, 3 * call_nano(OPUS, first_bound(studio, claim), 1_024))
            spent = 9_000 * 4_000 + 1_024 * 20_000
            left = call_nano(OPUS, 15_000, 1_024) if policy is FINALIZE else 1_000
            studio.probe.body = _lowering(studio, claim, spent + left)
            end = None
            with suppress(Paused):
                end = await studio.run(claim)
            row = await row_of(studio.desk.store)
            assert (row["outcome"] if end is None else end.outcome) == _AT_THE_CAP[policy]
            assert await studio.desk.events(claim, ModelDowngraded) == []

    async def test_nobody_is_downgraded_unasked(self, open_studio):
        """It is an option of the task."""
        async with open_studio(cheaper=NEXT) as studio:
            claim = await studio.claim(model=OPUS, budget_nano=400_000)
            assert (await studio.run(claim)).outcome is Outcome.BUDGET_EXHAUSTED


_AT_THE_CAP = {FINALIZE: Outcome.BUDGET_FINALIZED, FAIL: Outcome.BUDGET_EXHAUSTED, PAUSE: None}


def _lowering(studio: Any, claim: Claim, nano: int) -> Callable[[], Any]:
    """A tool during which somebody lowers the task's budget."""

    async def body() -> str:
        await limited(studio, claim, nano)
        return "ok"

    return body


@dataclass
class Adversary:
    """A provider as dear as the bounds allow. It keeps a bill, and reads the journal over our shoulder."""

    data: st.DataObject
    claim: Claim
    tools: tuple[JsonObject, ...]
    desk: Desk
    bill_nano: int = 0
    asked: list[ModelRequest] = field(default_factory=list)

    async def __call__(self, request: ModelRequest) -> ModelAnswer:
        """One line of the script; every line is this one."""
        prompt = await self._overheard(request)
        draw, model = self.data.draw, request.model
        output = request.max_tokens
        if draw(st.booleans()):
            prompt, output = draw(st.integers(0, prompt)), draw(st.integers(0, output))
        self.bill_nano += call_nano(model, prompt, output)
        told: dict[str, Any] = {"model": model, "report": usage(prompt, output, **geo(model))}
        if request.tools_off:
            return answer(text("so far"), **told)
        kind = draw(st.sampled_from(["tools", "tools", "cut", "empty", "lost", "silent"]))
        if kind == "lost":
            raise lost()
        if kind in {"cut", "empty"}:
            return answer(stop_reason="max_tokens" if kind == "cut" else "end_turn", **told)
        count = draw(st.sampled_from([1, 2, 20, 30]))
        uses = [tool_use(f"toolu_01{len(self.asked):011}{n:011}") for n in range(count)]
        blocks = [thinking(), text("So."), *uses]
        return answer(*blocks, stop_reason="tool_use", no_usage=kind == "silent", **told)

    async def _overheard(self, request: ModelRequest) -> int:
        """What a run that began here would send must be what was sent; returns the prompt's bound."""
        again = rebuild(self.claim.spec, await read_all(self.desk.store, self.claim.subject))
        wanted = again.request(self.tools, stream_above=8_192)
        assert wanted.messages == request.messages
        assert (wanted.model, wanted.tools_off) == (request.model, request.tools_off)
        self.asked.append(request)
        started = await self.desk.events(self.claim, AttemptStarted)
        bound: int = started[-1].prompt_bound_tokens
        return bound


async def _played(data: st.DataObject, folder: Path, cheaper: Cheaper, **given: Any) -> None:
    size = data.draw(st.sampled_from([10, 5_000]))

    async def told() -> str:
        return "r" * size

    probe = Probe(body=told)
    tools = ToolRegistry(
        [Tool(name="probe", description="A probe.", input_schema=ANYTHING, run=probe.run)]
    )
    async with open_desk(folder) as desk:
        claim = await claimed(desk.store, tools=("probe",), max_steps=5, **given)
        adversary = Adversary(data, claim, tools.definitions(("probe",)), desk)
        desk.provider.script = [adversary] * 40

        def conclude(tx: Tx, conclusion: Conclusion) -> None:
            verbs.finish(tx, claim.subject, conclusion)

        limits: dict[str, Any] = {"tool_limits": ToolLimits(), "stream_above_tokens": 8_192}
        loop = AgentLoop(desk.store, desk.caller, tools, desk.clock, cheaper=cheaper, **limits)
        end = await loop.run(Job(claim, Transcript.begin(claim.spec), payer_of(claim), conclude))
        row, lines = await row_of(desk.store), await lines_of(desk.store)
        outcome = row["outcome"] if end is None else end.outcome
        assert adversary.bill_nano <= lines["spent_nano"] <= claim.spec.budget_nano
        assert (row["reserved_nano"], await drift(desk.store)) == (0, [])
        if claim.spec.on_budget is FINALIZE and adversary.asked:
            assert outcome != Outcome.BUDGET_EXHAUSTED
    tools.close()


@settings(max_examples=30)
@given(
    st.data(),
    st.sampled_from([HAIKU, "claude-haiku-4-5", SONNET]),
    st.sampled_from([FINALIZE, FINALIZE, FAIL]),
    st.sampled_from([20, 30_000, 99_000]),
    st.booleans(),
)
def test_no_adversary_passes_the_budget_or_eats_the_closing_turn(
    data: st.DataObject, model: str, policy: BudgetPolicy, length: int, downgrade: bool
) -> None:
    """The bill stays within the budget; a task that has begun under `finalize` gets its closing turn."""
    unit = call_nano(model, length + 2_000, 256)
    budget = data.draw(st.integers(unit, 8 * unit + 20_000_000))
    given: dict[str, Any] = {"model": model, "text": "w" * length, "downgrade": downgrade}
    money = {"budget_nano": budget, "session_nano": 10**12, "on_budget": policy}
    with tempfile.TemporaryDirectory() as folder:
        cheaper = NEXT if downgrade else no_cheaper
        asyncio.run(_played(data, Path(folder), cheaper, **given, **money))
