"""What is held back for a closing turn: the last regular call never eats into it."""

from datetime import date

from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from app.llm.bound import (
    ClosingTurn,
    affordable_before_closing,
    affordable_max_tokens,
    closing_nano,
    worst_case_nano,
)
from app.llm.models import ModelFacts, facts_of
from app.llm.pricing import PriceBook, PriceRow, Rates

AT = date(2026, 11, 22)
BOOK = PriceBook.load()
LONG_TIER = "claude-haiku-5-5"
"""Above 100,000 prompt tokens every token of its calls costs five times as much."""
MODELS = (LONG_TIER, "claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5")

models = st.sampled_from(MODELS)
prompts = st.integers(0, 220_000) | st.integers(99_000, 101_000)
budgets = st.integers(0, 3 * 10**9) | st.integers(0, 10**12)
closings = st.builds(ClosingTurn, st.integers(0, 5_000), st.integers(1, 2_048))


def bill(row: PriceRow, prompt: int, output: int) -> int:
    """A call's exact price, in nano-dollars, in the dearest geography; by the price list alone."""
    above = row.long_above_tokens
    rates = row.long if row.long is not None and above is not None and prompt > above else row.rates
    tenths = 11 if facts_of(row.model).geo_premium else 10
    return -(-(prompt * rates.input + output * rates.output) * tenths // 10_000_000)


@settings(suppress_health_check=[HealthCheck.filter_too_much])  # many budgets are too small
@given(models, prompts, budgets, closings, st.data())
@example(LONG_TIER, 99_000, 10**9, ClosingTurn(400, 512), None)
def test_whatever_the_last_call_costs_the_closing_turn_is_paid(
    model: str, prompt: int, budget: int, closing: ClosingTurn, data: st.DataObject | None
) -> None:
    """Any real prompts and outputs within the bounds: both calls together stay within the budget."""
    row, facts = BOOK.row(model, AT), facts_of(model)
    prompt = min(prompt, facts.context_window_tokens)
    allowed = affordable_before_closing(row, facts, prompt, budget, closing)
    assume(allowed >= 0)

    def drawn(most: int) -> int:
        return most if data is None else data.draw(st.just(most) | st.integers(0, most))

    real, said = drawn(prompt), drawn(allowed)
    read = min(real + said + drawn(closing.new_tokens), facts.context_window_tokens)
    assert bill(row, real, said) + bill(row, read, closing.max_tokens) <= budget


@given(models, prompts, budgets, closings)
def test_no_output_is_given_away(
    model: str, prompt: int, budget: int, closing: ClosingTurn
) -> None:
    """The clamp is the largest that fits: one token more, and the closing turn could not be paid."""
    row, facts = BOOK.row(model, AT), facts_of(model)
    allowed = affordable_before_closing(row, facts, prompt, budget, closing)
    plain = affordable_max_tokens(row, facts, prompt, budget)
    assert -1 <= allowed <= plain <= facts.max_output_tokens
    more = allowed + 1
    if more <= plain:
        call = worst_case_nano(row, facts, prompt, more)
        assert call + closing_nano(row, facts, prompt, more, closing) > budget


def test_the_long_context_tier_counts_for_the_closing_turn_alone() -> None:
    """A call below the dearer tier whose closing turn lands above it: that turn is held back at its price."""
    row, facts = BOOK.row(LONG_TIER, AT), facts_of(LONG_TIER)
    closing = ClosingTurn(400, 512)
    below, above = (closing_nano(row, facts, prompt, 100, closing) for prompt in (99_000, 99_600))
    assert below == -(-(99_500 * 100 + 512 * 500) * 11 // 10)
    assert above == -(-(100_100 * 500 + 512 * 2_500) * 11 // 10)


def test_a_closing_turn_reads_no_more_than_the_window() -> None:
    """A prompt beyond the window is refused unbilled: nothing is held back for it."""
    facts = facts_of("claude-haiku-4-5")
    row = BOOK.row("claude-haiku-4-5", AT)
    closing = ClosingTurn(400, 512)
    full = closing_nano(row, facts, 200_000, 64_000, closing)
    assert full == 200_000 * 1_000 + 512 * 5_000


def test_a_free_model_is_not_clamped() -> None:
    """Where nothing costs anything, nothing has to be held back."""
    free = PriceRow(model="m", row_id="r", rates=Rates(0, 0, 0, 0, 0))
    facts = ModelFacts(max_output_tokens=7_000)
    assert affordable_before_closing(free, facts, 10, 0, ClosingTurn(400, 512)) == 7_000
