"""The budget runs out between two attempts of one question: the next attempt has a number of its own."""

from app.agent.transcript import CLOSING
from app.domain.task import BudgetPolicy, Outcome
from app.journal.call_events import AttemptStarted
from app.journal.events import BudgetFinalizing, ModelDowngraded
from app.llm.provider import ModelFailure, Phase
from tests.support.provider import HAIKU, answer, text
from tests.support.seeding import lines_of, row_of

SONNET = "claude-sonnet-5-5"
BUDGET = 2_000_000


def lost() -> ModelFailure:
    """The request left, and no answer came back."""
    return ModelFailure("timeout", "no answer", phase=Phase.LOST)


async def test_a_closing_turn_after_a_lost_attempt(open_studio):
    """The lost attempt is presumed spent in full; what was held back pays for the closing turn."""
    async with open_studio(lost(), answer(text("so far"))) as studio:
        claim = await studio.claim(budget_nano=BUDGET, on_budget=BudgetPolicy.FINALIZE)
        assert await studio.run(claim) is None
        started = await studio.desk.events(claim, AttemptStarted)
        assert [(e.step, e.attempt) for e in started] == [(1, 1), (1, 2)]
        assert len(await studio.desk.events(claim, BudgetFinalizing)) == 1
        assert (await row_of(studio.desk.store))["outcome"] == Outcome.BUDGET_FINALIZED
        lines = await lines_of(studio.desk.store)
        assert lines["presumed_nano"] == started[0].reserved_nano
        assert lines["spent_nano"] <= BUDGET
    assert studio.desk.provider.asked[1].tools_off
    assert studio.desk.provider.asked[1].messages[-1]["content"][-1]["text"] == CLOSING


async def test_a_downgrade_after_a_lost_attempt(open_studio):
    """The dear model's lost attempt eats the budget; the cheap one goes on with the next number."""
    script = (lost(), answer(text("cheap")))
    async with open_studio(*script, cheaper={SONNET: HAIKU}.get) as studio:
        claim = await studio.claim(
            model=SONNET, budget_nano=50_000_000, max_tokens=4_096, downgrade=True
        )
        assert await studio.run(claim) is None
        started = await studio.desk.events(claim, AttemptStarted)
        assert [(e.attempt, e.model) for e in started] == [(1, SONNET), (2, HAIKU)]
        (downgraded,) = await studio.desk.events(claim, ModelDowngraded)
        assert (downgraded.from_model, downgraded.to_model) == (SONNET, HAIKU)
        assert (await row_of(studio.desk.store))["outcome"] == Outcome.ANSWERED
