"""The plan's rule, case by case. Rates are Sonnet's: a write pays above a probability of 0.21, an hour's above 0.51."""

from dataclasses import replace
from typing import Any

import pytest

from app.domain.clock import US_PER_S
from app.llm.cache_plan import CachePast, Outlook, break_even, plan, saved_nano
from app.llm.models import facts_of
from app.llm.pricing import Rates
from app.llm.provider import CacheMarks
from app.llm.usage import Tokens, WriteLifetime

RATES = Rates(2_000, 10_000, 100, 2_500, 4_000)
FACTS = facts_of("claude-sonnet-5-5")
MINUTE_US = 60 * US_PER_S
FIRST = Outlook(
    messages=1,
    prefix_bytes=40_000,
    new_bytes=400,
    steps_left=10,
    onward=0.5,
    proven=False,
    pace=None,
    now_us=0,
)
ALL = CacheMarks("5m", prefix=True, messages=(0,))


def planned(past: CachePast, ahead: Outlook) -> CacheMarks | None:
    """The plan for Sonnet."""
    return plan(past, ahead, FACTS, RATES)


def asked(
    past: CachePast, ahead: Outlook, tokens: Tokens, *, marks: CacheMarks | None = None
) -> CachePast:
    """The question is asked as planned, and answered."""
    past.left(planned(past, ahead) if marks is None else marks, ahead.now_us)
    past.answered(ahead.messages, tokens)
    return past


def after(number: int, *, gap_us: int = MINUTE_US, **given: Any) -> Outlook:
    """Question `number` of a loop."""
    later = replace(FIRST, messages=2 * number - 1, steps_left=11 - number, now_us=number * gap_us)
    return replace(later, **given)


def test_the_first_question_of_a_loop_is_written() -> None:
    """System prompt, tools and the task itself: three markers are never needed for it."""
    assert planned(CachePast(), FIRST) == ALL


@pytest.mark.parametrize(
    "ahead",
    {
        "nothing can follow": replace(FIRST, steps_left=1),
        "hardly anything follows": replace(FIRST, onward=0.2),
        "too short to be cached": replace(FIRST, prefix_bytes=1_000),
        "tools that may take long": replace(FIRST, pace="1h"),
    }.values(),
)
def test_what_does_not_pay_is_not_written(ahead: Outlook) -> None:
    """A single write that nobody reads costs a quarter more."""
    assert planned(CachePast(), ahead) is None


def test_the_marker_moves_on_and_the_last_one_stays_as_a_place_to_read_from() -> None:
    """However many blocks a turn adds: the entry is found at its own marker, not by looking back."""
    past = asked(CachePast(), FIRST, Tokens(10, 50, 0, 10_000))
    assert planned(past, after(2)) == CacheMarks("5m", prefix=True, messages=(0, 2))


def test_the_last_question_only_reads() -> None:
    """What it would write is read by nobody."""
    past = asked(CachePast(), FIRST, Tokens(10, 50, 0, 10_000))
    assert planned(past, after(2, steps_left=1)) == ALL
    assert planned(past, after(2, onward=0.1)) == ALL


def test_a_write_that_savings_do_not_cover_waits() -> None:
    """A large result after a small prefix: it would cost more than all that was saved."""
    past = asked(CachePast(), FIRST, Tokens(10, 50, 0, 1_000))
    assert planned(past, after(2, new_bytes=64_000)) == ALL
    assert planned(past, after(2, new_bytes=64_000, proven=True)) == CacheMarks(
        "5m", prefix=True, messages=(0, 2)
    )


def test_it_is_made_as_far_as_it_is_covered() -> None:
    """The end of an earlier question, whose size is known, rather than nothing."""
    past = asked(CachePast(), FIRST, Tokens(10, 50, 0, 5_000))
    past = asked(past, after(2), Tokens(8_000, 50, 5_000), marks=ALL)
    big = after(3, new_bytes=300_000)
    assert planned(past, big) == CacheMarks("5m", prefix=True, messages=(0, 2))


def test_what_died_is_not_counted_on() -> None:
    """After more than five minutes all of it would be written anew: that must be covered, too."""
    past = asked(CachePast(), FIRST, Tokens(10, 50, 0, 10_000))
    assert planned(past, after(2, now_us=6 * MINUTE_US)) is None
    rich = asked(past, after(2), Tokens(100, 50, 200_000))
    assert planned(rich, after(3, now_us=8 * MINUTE_US)) is not None


def test_a_loop_that_shows_to_be_slow_is_cached_for_an_hour() -> None:
    """Not before its fourth question: an hour's write costs twice the prompt."""
    past, pace = CachePast(), 6 * MINUTE_US
    for number in (1, 2, 3):
        ahead = after(number, gap_us=pace, onward=0.7, pace="1h")
        assert planned(past, ahead) is None
        past = asked(past, ahead, Tokens(10_000, 50))
    found = planned(past, after(4, gap_us=pace, onward=0.8, pace="1h"))
    assert found == CacheMarks("1h", prefix=True, messages=(6,))
    assert planned(past, after(4, gap_us=pace, onward=0.5, pace="1h")) is None


def test_what_comes_after_hours_is_not_cached() -> None:
    """No lifetime is that long."""
    past = CachePast()
    for number in (1, 2, 3):
        past = asked(past, after(number, gap_us=120 * MINUTE_US), Tokens(10_000, 50))
    assert planned(past, after(4, gap_us=120 * MINUTE_US, onward=0.9, proven=True)) is None


@pytest.mark.parametrize(("ttl", "expected"), [("5m", 500 / 2_400), ("1h", 2_000 / 3_900)])
def test_break_even(ttl: WriteLifetime, expected: float) -> None:
    """The premium over what a later read saves."""
    assert break_even(RATES, ttl) == pytest.approx(expected)


def test_a_cache_that_saves_nothing_is_never_written() -> None:
    """Reads at the full price: nothing makes up for a write."""
    dear = replace(RATES, cache_read=2_500)
    assert break_even(dear, "5m") == 1.0
    assert plan(CachePast(), FIRST, FACTS, dear) is None


def test_savings_can_be_negative() -> None:
    """A write that was never read is a loss."""
    assert saved_nano(RATES, Tokens(cache_write_5m=1_000)) == -500_000
    assert saved_nano(RATES, Tokens(cache_read=1_000, cache_write_1h=100)) == 1_700_000


def test_an_answer_without_a_report_teaches_nothing() -> None:
    """Nor one that says nothing of the cache."""
    past = CachePast()
    past.left(ALL, 0)
    past.answered(1, None)
    assert past.ends == []
    past.answered(1, Tokens(10_000, 50))
    assert past.written is None
    assert past.tokens_of(1) == 10_000
    assert past.tokens_of(7) == 0
