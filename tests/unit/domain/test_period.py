"""Instants as people write them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.clock import rfc3339
from app.domain.period import DAY_US, instant_us, utc_date
from tests.support.clock import START_US


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01", 0),
        ("1970-01-02", DAY_US),
        ("2026-11-22T12:00:00Z", START_US),
        ("2026-11-22t12:00:00z", START_US),
        ("2026-11-22T13:30:00+01:30", START_US),
        ("2026-11-22T12:00:00.5Z", START_US + 500_000),
        ("2026-11-22T12:00:00.000001Z", START_US + 1),
        ("1970-01-01T00:00:00-00:01", 60_000_000),
        ("9999-12-31T23:59:59.999999Z", 253_402_300_800_000_000 - 1),
    ],
)
def test_what_is_understood(text: str, expected: int) -> None:
    """Dates begin at midnight UTC; zones and fractions count exactly."""
    assert instant_us(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2026-11-22T12:00:00",
        "2026-11-22T12:00:00 01:00",
        "2026-11-22 12:00:00Z",
        "2026-11-22T12:00Z",
        "2026-11-22T12:00:00.1234567Z",
        "2026-11-22T12:00:60Z",
        "2026-11-22T12:00:00+25:00",
        "2026-13-01",
        "2026-02-29",
        "20261122",
        "2026-W47-7",
        "2026-11-22Z",
        " 2026-11-22",
        "2026-11-22\n",
        "1795348800",
        "٢٠٢٦-11-22",
    ],
)
def test_what_is_not(text: str) -> None:
    """Nothing is guessed: the message shows both forms."""
    with pytest.raises(ValueError, match="2026-11-22T12:00:00Z"):
        instant_us(text)


@pytest.mark.parametrize(
    "text",
    ["1969-12-31", "0001-01-01", "1970-01-01T00:00:00+00:01", "9999-12-31T23:59:59-00:01"],
)
def test_out_of_bounds(text: str) -> None:
    """What the calendar or a column could not hold is refused."""
    with pytest.raises(ValueError, match="between the years"):
        instant_us(text)


@given(st.integers(0, 253_402_300_800_000_000 - 1))
def test_written_instants_are_read_back(at_us: int) -> None:
    """`instant_us` undoes `rfc3339`; the day is the calendar's."""
    assert instant_us(rfc3339(at_us)) == at_us
    assert utc_date(at_us // DAY_US).isoformat() == rfc3339(at_us)[:10]
