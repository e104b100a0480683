"""What the provider reports, read with suspicion."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llm.usage import TOKENS_LIMIT, Tokens, Usage, read_usage

MODEL = "claude-haiku-5-5"
FULL: dict[str, Any] = {
    "input_tokens": 11,
    "output_tokens": 22,
    "cache_read_input_tokens": 33,
    "cache_creation_input_tokens": 9,
    "cache_creation": {"ephemeral_5m_input_tokens": 4, "ephemeral_1h_input_tokens": 5},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 7},
    "service_tier": "batch",
    "inference_geo": "us",
    "speed": "fast",
}
NUMBERS = (
    ("input_tokens",),
    ("output_tokens",),
    ("cache_read_input_tokens",),
    ("cache_creation_input_tokens",),
    ("cache_creation", "ephemeral_5m_input_tokens"),
    ("cache_creation", "ephemeral_1h_input_tokens"),
    ("server_tool_use", "web_search_requests"),
)


def changed(path: tuple[str, ...], value: object) -> dict[str, Any]:
    usage = copy.deepcopy(FULL)
    holder = usage
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    return usage


def tokens_of(raw: object, **options: Any) -> Tokens:
    usage = read_usage(raw, MODEL, **options)
    assert usage is not None
    ((model, tokens),) = usage.parts
    assert model == MODEL
    return tokens


def entry(kind: str, tokens_in: int, tokens_out: int, model: str | None = None) -> dict[str, Any]:
    return {"type": kind, "input_tokens": tokens_in, "output_tokens": tokens_out, "model": model}


def parts_of(top: tuple[int, int], *iterations: object) -> tuple[tuple[str, Tokens], ...] | None:
    raw = {"input_tokens": top[0], "output_tokens": top[1], "iterations": list(iterations)}
    usage = read_usage(raw, MODEL)
    return None if usage is None else usage.parts


def test_every_meter_is_read():
    """A full report arrives whole."""
    assert read_usage(FULL, MODEL) == Usage(
        parts=((MODEL, Tokens(11, 22, 33, 4, 5)),),
        web_searches=2,
        service_tier="batch",
        inference_geo="us",
        speed="fast",
    )


def test_the_least_report_counts_nothing_else():
    """Meters and names that are absent or null are zero and standard."""
    least = {"input_tokens": 1, "output_tokens": 0}
    plain = Usage(parts=((MODEL, Tokens(input=1)),))
    assert read_usage(least, MODEL) == plain
    assert read_usage(dict.fromkeys(FULL) | least | {"iterations": None}, MODEL) == plain
    assert read_usage(least | {"iterations": []}, MODEL) == plain


@pytest.mark.parametrize("raw", [None, [], "usage", 3, {}, {"input_tokens": 1}])
def test_no_report_is_no_usage(raw):
    """A missing or shapeless report is None, not zero."""
    assert read_usage(raw, MODEL) is None


@pytest.mark.parametrize("path", NUMBERS)
@pytest.mark.parametrize("value", [-1, True, 1.0, "1", [], TOKENS_LIMIT + 1])
def test_a_number_that_cannot_be_trusted_spoils_the_report(path, value):
    """Negative, absurd, or not an integer, on any meter: None."""
    assert read_usage(changed(path, value), MODEL) is None


@pytest.mark.parametrize("key", ["input_tokens", "output_tokens"])
def test_the_two_main_numbers_are_required(key):
    """Null input or output is unknown, so the usage is."""
    assert read_usage(changed((key,), None), MODEL) is None


@pytest.mark.parametrize("key", ["cache_creation", "server_tool_use", "iterations"])
@pytest.mark.parametrize("value", [7, "x", False])
def test_a_group_of_the_wrong_shape_spoils_the_report(key, value):
    """A group of numbers that is no group is not silently skipped."""
    assert read_usage(changed((key,), value), MODEL) is None


@pytest.mark.parametrize(
    ("key", "field"),
    [("service_tier", "standard"), ("inference_geo", "global"), ("speed", "standard")],
)
@pytest.mark.parametrize("value", ["not_available", None, 4, []])
def test_unknown_names_fall_back(key, field, value):
    """A tier, geography or speed nobody knows has no price of its own."""
    usage = read_usage(changed((key,), value), MODEL)
    assert usage is not None
    assert getattr(usage, key) == field


def test_writes_without_a_split_are_the_dearer_kind():
    """Unless the request is known to have asked for five minutes at most."""
    raw = changed(("cache_creation",), None)
    assert tokens_of(raw) == Tokens(11, 22, 33, 0, 9)
    assert tokens_of(raw, unsplit_writes="5m") == Tokens(11, 22, 33, 9, 0)


@settings(deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["5m", "1h"]))
def test_a_split_that_does_not_add_up_never_counts_less(total, write_5m, write_1h, unsplit):
    """The result is at least what the total says, and at least what each half says."""
    raw = FULL | {
        "cache_creation_input_tokens": total,
        "cache_creation": {
            "ephemeral_5m_input_tokens": write_5m,
            "ephemeral_1h_input_tokens": write_1h,
        },
    }
    tokens = tokens_of(raw, unsplit_writes=unsplit)
    assert tokens.cache_write_5m + tokens.cache_write_1h == max(total, write_5m + write_1h)
    assert tokens.cache_write_5m >= write_5m
    assert tokens.cache_write_1h >= write_1h


def test_each_iteration_is_a_part_with_its_own_model():
    """An advisor is billed at its own model; a pass without a name is the answer's."""
    assert parts_of(
        (30, 3),
        entry("message", 10, 1),
        entry("advisor_message", 50, 5, "claude-opus-5"),
        entry("compaction", 70, 7),
        entry("message", 20, 2),
    ) == (
        (MODEL, Tokens(10, 1)),
        ("claude-opus-5", Tokens(50, 5)),
        (MODEL, Tokens(70, 7)),
        (MODEL, Tokens(20, 2)),
    )


def test_a_declined_pass_is_not_billed():
    """A refusal before output costs nothing when a fallback answered; its prompt is not summed."""
    served = entry("fallback_message", 12, 5, "claude-opus-5")
    assert parts_of((12, 5), entry("message", 99, 0, "claude-fable-5"), served) == (
        ("claude-opus-5", Tokens(12, 5)),
    )


def test_a_pass_that_spoke_before_it_declined_is_billed():
    """Output means the pass was billed, fallback or not."""
    served = entry("fallback_message", 12, 5, "claude-opus-5")
    assert parts_of((12, 5), entry("message", 99, 1, "claude-fable-5"), served) == (
        ("claude-fable-5", Tokens(99, 1)),
        ("claude-opus-5", Tokens(12, 5)),
    )


def test_a_silent_pass_without_a_fallback_is_billed():
    """Only a later fallback makes an empty pass free."""
    served = entry("fallback_message", 4, 1)
    assert parts_of((10, 1), served, entry("message", 6, 0)) == (
        (MODEL, Tokens(4, 1)),
        (MODEL, Tokens(6, 0)),
    )


@pytest.mark.parametrize(
    "iterations",
    [
        [entry("message", 10, 1)],
        [entry("message", 30, 1)],
        [entry("message", 30, 3), entry("compaction", -1, 1)],
        [entry("message", 30, 3), "entry"],
        [entry("message", 30, 3) | {"model": 4}],
        [entry("message", 30, 3) | {"model": ""}],
        [entry("compaction", 90, 9)],
        [{"type": "message", "input_tokens": 30}],
    ],
)
def test_iterations_that_do_not_explain_the_total_are_not_trusted(iterations):
    """An incomplete or broken list must not make a call cheaper than its top level."""
    assert parts_of((30, 3), *iterations) is None
