"""Money, ids, instants, statuses: the words everybody shares."""

import json
import re
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.clock import SystemClock, rfc3339
from app.domain.ids import new_id
from app.domain.money import MAX_USD, NANO_PER_USD, format_usd, nano_from_usd, usd_from_nano
from app.domain.task import Outcome, TaskStatus
from tests.support.clock import START_US

nanos = st.integers(0, MAX_USD * NANO_PER_USD)


@given(nanos)
def test_money_survives_the_trip_through_json(nano):
    """Nano-dollars out as a JSON number and in again are the same, to the last one."""
    told = json.dumps(usd_from_nano(nano))
    assert nano_from_usd(Decimal(told)) == nano


@given(nanos)
def test_money_for_people_is_exact(nano):
    """The text for people says the exact amount, with two decimals at least."""
    shown = format_usd(nano)
    assert Decimal(shown) * NANO_PER_USD == nano
    assert len(shown.partition(".")[2]) >= 2


@pytest.mark.parametrize(
    ("nano", "shown"),
    [
        (0, "0.00"),
        (1, "0.000000001"),
        (10_000_000, "0.01"),
        (500_000_000, "0.50"),
        (MAX_USD * NANO_PER_USD, "1000000.00"),
    ],
)
def test_small_amounts_are_not_nothing(nano, shown):
    """One nano-dollar is not shown as 0.00."""
    assert format_usd(nano) == shown


@pytest.mark.parametrize(
    "usd",
    ["NaN", "sNaN", "Infinity", "-Infinity", "-0.01", "-1", "1000000.000000001", "1e999", "1e-10"],
)
def test_impossible_amounts_are_refused(usd):
    """Not a number, infinite, negative, too large or finer than a nano-dollar: ValueError."""
    with pytest.raises(ValueError, match="amount"):
        nano_from_usd(Decimal(usd))


@pytest.mark.parametrize(
    ("usd", "nano"), [("0", 0), ("0.000000001", 1), ("1e-9", 1), ("1000000", MAX_USD * 10**9)]
)
def test_bounds_of_amounts_belong_to_them(usd, nano):
    """The smallest and the largest amount are taken."""
    assert nano_from_usd(Decimal(usd)) == nano


@given(st.integers(0, 2**47))
def test_ids_are_readable_and_their_own(millis):
    """An id is its prefix and 32 hexadecimal digits; made at one instant, two still differ."""
    one, two = (new_id("task", millis * 1_000) for _ in range(2))
    assert one != two
    assert re.fullmatch(r"task_[0-9a-f]{32}", one)
    assert one[:17] == two[:17]


@given(st.lists(st.integers(0, 2**46), min_size=2, max_size=2, unique=True))
def test_ids_of_later_milliseconds_sort_later(pair):
    """Rows made together lie together: the first characters are the time."""
    early, late = sorted(pair)
    assert new_id("t", early * 1_000) < new_id("t", late * 1_000)


@pytest.mark.parametrize(
    ("instant_us", "shown"),
    [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (START_US + 999_999, "2026-11-22T12:00:00.999999Z"),
    ],
)
def test_instants_as_text(instant_us, shown):
    """Microseconds since the epoch as RFC 3339 text, not rounded."""
    assert rfc3339(instant_us) == shown


async def test_the_systems_clock_goes_forward():
    """Now is after the day this was written, and durations are not negative."""
    clock = SystemClock()
    before_us, before_s = clock.now_us(), clock.monotonic_s()
    await clock.sleep(0)
    assert clock.now_us() >= before_us > START_US - 10**15
    assert clock.monotonic_s() >= before_s


def test_terminal_statuses():
    """Three statuses are ends, the others are not."""
    assert {status for status in TaskStatus if status.terminal} == {
        TaskStatus.SUCCEEDED,
        TaskStatus.FAILED,
        TaskStatus.CANCELLED,
    }


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_its_terminal_status(outcome):
    """Only an answer or a closing turn succeeds, only a cancellation is cancelled, everything else has failed."""
    expected = {
        "answered": "succeeded",
        "budget_finalized": "succeeded",
        "cancelled": "cancelled",
    }.get(outcome, "failed")
    assert outcome.status == expected
    assert outcome.status.terminal
