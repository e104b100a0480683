"""The table that users read is the table that the service goes by: docs/retries.md, row by row."""

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.domain.task import Outcome
from app.llm.provider import ModelFailure, Phase
from app.llm.retry import Again, GiveUp, RetryLimits, Wait, decide, known_unbilled
from tests.support.provider import status

PAGE = Path(__file__).parents[3] / "docs" / "retries.md"
COLUMNS = ["phase", "status", "body", "type", "code", "x-should-retry", "then", "money"]


def rows() -> Iterator[list[str]]:
    """The table's rows, one for each combination of what a cell lists."""
    lines = [line for line in PAGE.read_text().splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == COLUMNS
    for row in cells[1:]:
        yield from map(list, itertools.product(*(cell.split(", ") for cell in row)))


ROWS = list(rows())


def failure_of(row: list[str]) -> ModelFailure:
    """What came back, as the row's first six cells say."""
    phase, number, body, kind, code, advice = (None if cell == "-" else cell for cell in row[:6])
    return ModelFailure(
        f"http_{number}" if kind == "http_status" else str(kind),
        "no",
        phase=Phase(str(phase)),
        status=None if number is None else int(number),
        error_code=code,
        api_shaped=body == "api",
        should_retry=None if advice is None else advice == "true",
    )


@pytest.mark.parametrize("row", ROWS, ids=["/".join(row[:6]) for row in ROWS])
def test_every_row_of_the_page(row: list[str]) -> None:
    """What the page says is what is decided: early on, with the last attempt, in an outage; and the money."""
    failure, then, money = failure_of(row), row[6], row[7]
    limits = RetryLimits(max_attempts=3)
    first = decide(failure, attempt=1, elapsed_s=0, left_s=600, limits=limits)
    last = decide(failure, attempt=3, elapsed_s=0, left_s=600, limits=limits)
    in_outage = decide(failure, attempt=3, elapsed_s=0, left_s=600, limits=limits, outage_s=30)
    assert known_unbilled(failure) is (money == "released")
    assert isinstance(last, GiveUp)
    if then == "again":
        assert isinstance(first, Again)
        assert last.outcome == "upstream_failed"
        assert in_outage == (Wait(30, "outage") if money == "released" else last)
    else:
        assert first == last == in_outage
        assert last.outcome == then


def test_no_row_is_there_twice() -> None:
    """No two rows speak of the same failure."""
    assert len({tuple(row[:6]) for row in ROWS}) == len(ROWS) > 70


def overloaded(retry_after_s: float | None = None) -> ModelFailure:
    """The upstream has no room."""
    return status(529, "overloaded_error", retry_after_s=retry_after_s)


@pytest.mark.parametrize(("left_s", "wait_s"), [(600, 30), (34, 29), (5.5, 0.5)])
def test_an_outage_is_waited_out_up_to_the_deadline(left_s: float, wait_s: float) -> None:
    """The wait leaves room for a last attempt."""
    found = decide(
        overloaded(), attempt=9, elapsed_s=9e9, left_s=left_s, limits=RetryLimits(), outage_s=30
    )
    assert found == Wait(wait_s, "outage")


@pytest.mark.parametrize(("left_s", "asked_s"), [(5.0, None), (-1.0, None), (60.0, 60.0)])
def test_an_outage_beyond_the_deadline_is_a_failure(left_s: float, asked_s: float | None) -> None:
    """Where no time is left, or the server asks for more than there is, the task ends with its last error."""
    found = decide(
        overloaded(asked_s),
        attempt=1,
        elapsed_s=0,
        left_s=left_s,
        limits=RetryLimits(),
        outage_s=9,
    )
    assert found == GiveUp(Outcome.UPSTREAM_FAILED)


def test_in_an_outage_the_server_may_ask_for_a_longer_wait() -> None:
    """`retry-after` is obeyed there, too."""
    found = decide(
        overloaded(90.0), attempt=1, elapsed_s=0, left_s=600, limits=RetryLimits(), outage_s=30
    )
    assert found == Wait(90.0, "outage")
