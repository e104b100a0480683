"""What a task can cost: computed by hand for one call, and never less than any of its calls together."""

from dataclasses import replace
from datetime import date
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.agent.quote import QuoteLimits, first_prompt_tokens, likely_nano, worst_nano
from app.agent.transcript import TOOL_CALLS_LIMIT, Transcript
from app.domain.task import BudgetPolicy, TaskSpec
from app.llm.bound import worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceBook
from app.llm.provider import JsonObject
from tests.support.provider import answer, tool_use, usage
from tests.support.seeding import spec

BOOK, AT = PriceBook.load(), date(2026, 11, 22)
MODELS = ("claude-haiku-5-5", "claude-haiku-4-5", "claude-sonnet-5-5", "claude-opus-5-5")
TOOL: JsonObject = {"name": "probe", "description": "A probe.", "input_schema": {"type": "object"}}
LIMITS = QuoteLimits(attempts=2, tool_result_bytes=2_000)


def asked(model: str = MODELS[0], **given: Any) -> TaskSpec:
    """A task without tools."""
    return spec(**{"model": model, "max_tokens_explicit": True, **given})


def tools_of(task: TaskSpec) -> tuple[JsonObject, ...]:
    """The definitions of its tools."""
    return (TOOL,) if task.tools else ()


def worst(task: TaskSpec, limits: QuoteLimits = LIMITS) -> int:
    """Its worst case."""
    return worst_nano(task, BOOK.row(task.model, AT), tools_of(task), limits)


def test_one_step_is_its_attempts() -> None:
    """Ten bytes of text with their borders, 100 tokens of output, dearest geography, each attempt in full."""
    task = asked(max_steps=1, max_tokens=100, text="Say hello.")
    assert first_prompt_tokens(task, task.model, ()) == 130
    assert worst(task) == 2 * (130 * 100 + 100 * 500) * 11 // 10


@given(st.sampled_from(MODELS), st.integers(1, 20), st.integers(1, 5_000), st.booleans())
def test_more_of_anything_never_costs_less(
    model: str, steps: int, tokens: int, explicit: bool
) -> None:
    """Steps, output, attempts, longer results, tools, an output that may still grow."""
    task = asked(
        model, max_steps=steps, max_tokens=tokens, tools=("probe",), max_tokens_explicit=explicit
    )
    base = worst(task)
    assert worst(replace(task, max_steps=steps + 1)) > base
    assert worst(replace(task, max_tokens=tokens + 1)) > base
    assert worst(task, replace(LIMITS, attempts=3)) > base
    assert worst(task, replace(LIMITS, tool_result_bytes=3_000)) >= base
    assert worst(replace(task, tools=())) < base
    assert worst(replace(task, max_tokens_explicit=False)) >= base
    assert worst(replace(task, on_budget=BudgetPolicy.FINALIZE)) > base


@given(
    st.data(),
    st.sampled_from(MODELS),
    st.sampled_from(["Work.", "w" * 40_000]),
    st.booleans(),
    st.booleans(),
)
def test_no_conversation_reserves_more_than_the_worst_case(
    data: st.DataObject, model: str, text: str, explicit: bool, finalize: bool
) -> None:
    """Every attempt of every step at its bound, with results as long as may be; closing at any point."""
    policy = BudgetPolicy.FINALIZE if finalize else BudgetPolicy.FAIL
    task = asked(
        model,
        text=text,
        max_steps=data.draw(st.integers(1, 5)),
        max_tokens=data.draw(st.sampled_from([40, 2_048])),
        max_tokens_explicit=explicit,
        on_budget=policy,
        tools=data.draw(st.sampled_from([(), ("probe",)])),
    )
    transcript, total = Transcript.begin(task), 0
    row, facts = BOOK.row(model, AT), facts_of(model)
    closes_at = data.draw(st.integers(1, task.max_steps)) if finalize else 9
    for step in range(1, task.max_steps + 1):
        prompt, wish = 0, 0
        for attempt in range(LIMITS.attempts):
            if step == closes_at and attempt == LIMITS.attempts - 1:
                transcript.close()
            request = transcript.request(tools_of(task), stream_above=9_000)
            prompt, wish = transcript.prompt_tokens(request), request.max_tokens
            total += worst_case_nano(row, facts, prompt, wish)
        if transcript.closing:
            break
        _answered(data, transcript, prompt, wish)
    assert total <= worst(task)


def _answered(data: st.DataObject, transcript: Transcript, prompt: int, output: int) -> None:
    """An answer that reads and says all it may, and makes the next question as long as it can be."""
    moves = [] if transcript.nudged else ["nudge"]
    moves += ["enlarge"] if not (transcript.enlarged or transcript.spec.max_tokens_explicit) else []
    moves += ["run_tools"] * 3 if transcript.spec.tools else ["continue"]
    move = data.draw(st.sampled_from(moves))
    count = data.draw(st.sampled_from([1, TOOL_CALLS_LIMIT])) if move == "run_tools" else 0
    uses = [tool_use(f"toolu_01{n:022}") for n in range(count)]
    transcript.asked(prompt, output)
    transcript.answered(answer(*uses, report=usage(prompt, output)), move)
    for use in list(transcript.pending):
        transcript.tool_answered(use.id, "r" * LIMITS.tool_result_bytes, is_error=False)


def test_the_window_bounds_every_prompt() -> None:
    """What would outgrow it is refused unbilled: a step costs a full window at most."""
    task = asked("claude-haiku-4-5", max_steps=50, max_tokens=100, text="w" * 190_000)
    row, facts = BOOK.row(task.model, AT), facts_of(task.model)
    assert worst(task) <= 2 * 50 * worst_case_nano(row, facts, 200_000, 100)


@given(st.sampled_from(MODELS), st.integers(1, 20), st.integers(1, 5_000), st.booleans())
def test_what_is_likely_is_less_than_the_worst(
    model: str, steps: int, tokens: int, tooled: bool
) -> None:
    """A guess, but never above the bound and never nothing."""
    task = asked(model, max_steps=steps, max_tokens=tokens, tools=("probe",) if tooled else ())
    assert 0 < likely_nano(task, BOOK.row(model, AT), tools_of(task)) < worst(task)


def test_what_may_be_cached_is_quoted_at_the_price_of_writing() -> None:
    """An hour's write for a loop, five minutes' for a single call; nothing for what is too short to be cached."""
    caching = replace(LIMITS, caching=True)
    long = asked(max_steps=1, max_tokens=100, text="a" * 1_000)
    prompt = first_prompt_tokens(long, long.model, ())
    row, facts = BOOK.row(long.model, AT), facts_of(long.model)
    written = worst_case_nano(row, facts, prompt, 100, cache="5m")
    assert worst(long, caching) == LIMITS.attempts * written
    loop = asked(max_steps=2, max_tokens=100, text="a" * 1_000, tools=("probe",))
    assert worst(loop, caching) > worst(loop)
    short = asked(max_steps=1, max_tokens=100, text="Say hello.")
    assert worst(short, caching) == worst(short)
