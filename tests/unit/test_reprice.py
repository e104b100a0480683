"""The history priced by another table: exact, apart from what nobody knows, and without touching the ledger."""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.budget.ledger import Kind
from app.domain.errors import StoreUnavailable
from app.domain.period import DAY_US
from app.llm.booking import meters_of
from app.llm.pricing import PriceBook
from app.llm.provider import ModelAnswer, ModelRequest
from app.llm.usage import Tokens, Usage, read_usage
from app.reprice import Line, Report, examine, reprice, usage_of
from app.store.sqlite_file import DATABASE_NAME
from tests.support.clock import START_US, FakeClock
from tests.support.desk import open_desk, prices
from tests.support.history import (
    CONFIRMED_COUNT,
    DATED,
    OPUS,
    SONNET,
    ask,
    book,
    history,
    price_file,
    price_rows,
)
from tests.support.provider import HAIKU, answer, text
from tests.support.seeding import USD, claimed

CHANGED = "claude-sonnet-4-6"
"""A model whose long prompts cost less from a known day on."""
DAYS_UNTIL_CHANGE = (date(2026, 3, 13) - FakeClock.today()).days


def _booked(folder: Path, kind: str) -> tuple[int, int]:
    """How many settlements of a kind, and their sum, read past the code under test."""
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        statement = (
            "SELECT COUNT(*), SUM(amount_nano + surplus_nano) FROM ledger_lines WHERE kind = ?"
        )
        row = connection.execute(statement, [kind]).fetchone()
    return row[0], row[1]


def _check_sums(report: Report, folder: Path) -> None:
    """The report has every line once, in all and by model, and its booked amounts are the ledger's."""
    for name in ("confirmed", "estimated", "presumed"):
        found = getattr(report.total, name)
        assert (found.lines, found.booked_nano) == _booked(folder, name)
    for name in ("confirmed", "estimated", "presumed", "unpriced"):
        sums = [getattr(tally, name) for tally in report.models.values()]
        for amount in ("lines", "booked_nano", "repriced_nano"):
            total = getattr(getattr(report.total, name), amount)
            assert total == sum(getattr(found, amount) for found in sums)


@pytest.mark.parametrize("unit", [1, 997, 1_000])
async def test_the_same_prices_make_no_difference(tmp_path: Path, unit: int) -> None:
    """Not a nano-dollar on any model: the package's own prices, and the same ones from a file."""
    async with open_desk(tmp_path / "data") as desk:
        await history(desk, unit)
    for table in (PriceBook.load(), PriceBook.load(price_file(tmp_path, *price_rows()))):
        report = examine(tmp_path / "data", table)
        _check_sums(report, tmp_path / "data")
        assert set(report.models) == {HAIKU, SONNET, OPUS, DATED}
        assert [tally.difference_nano for tally in report.models.values()] == [0] * 4
        assert report.total.confirmed.lines == CONFIRMED_COUNT
        assert report.total.confirmed.booked_nano > 0
        assert report.total.estimated.lines == report.total.presumed.lines == 1
        assert not report.missing


async def test_doubled_prices_are_exactly_double(tmp_path: Path) -> None:
    """Model by model; the unbilled refusal stays free, and what was only bounded stays as booked."""
    async with open_desk(tmp_path / "data") as desk:
        await history(desk, 1_000)
    doubled = PriceBook.load(price_file(tmp_path, *price_rows(), factor=2))
    report = examine(tmp_path / "data", doubled)
    _check_sums(report, tmp_path / "data")
    for tally in (report.total, *report.models.values()):
        assert tally.confirmed.repriced_nano == 2 * tally.confirmed.booked_nano
        assert tally.difference_nano == tally.confirmed.booked_nano > 0


async def test_the_database_is_as_before(tmp_path: Path) -> None:
    """Byte by byte, after the service has written everything into its main file."""
    folder = tmp_path / "data"
    async with open_desk(folder) as desk:
        await history(desk, 1)
    file = folder / DATABASE_NAME
    before = hashlib.sha256(file.read_bytes()).hexdigest()
    report = examine(folder, PriceBook.load(price_file(tmp_path, *price_rows(), factor=2)))
    assert report.total.difference_nano > 0
    assert hashlib.sha256(file.read_bytes()).hexdigest() == before


async def test_a_running_service_is_not_disturbed(tmp_path: Path) -> None:
    """What is committed so far is counted; the service goes on writing, and that is counted next."""
    async with open_desk(tmp_path) as desk:
        claim = await claimed(desk.store)
        for step in (1, 2):
            desk.provider.script = [answer(text("hello"))]
            await ask(desk, claim, step, HAIKU)
            report = examine(tmp_path, prices())
            assert (report.total.confirmed.lines, report.total.difference_nano) == (step, 0)


async def test_a_call_past_midnight_keeps_the_prices_of_its_reservation(tmp_path: Path) -> None:
    """It was booked by the prices of the day before, though its settlement is of the day after."""
    async with open_desk(tmp_path) as desk:
        to_midnight_s = (DAY_US - START_US % DAY_US) // 1_000_000
        desk.clock.move(to_midnight_s - 1 + (DAYS_UNTIL_CHANGE - 1) * 86_400)
        claim = await claimed(desk.store, budget_nano=900 * USD, session_nano=900 * USD)

        def late(_request: ModelRequest) -> ModelAnswer:
            desk.clock.move(2)
            report = {"input_tokens": 300_000, "output_tokens": 100}
            return answer(text("hello"), model=CHANGED, report=report)

        desk.provider.script = [late]
        await ask(desk, claim, 1, CHANGED)
    usage = Usage(((CHANGED, Tokens(300_000, 100)),))
    before, after = (prices().cost(usage, date(2026, 3, day)).nano for day in (12, 13))
    assert before != after
    report = examine(tmp_path, prices())
    assert report.total.confirmed.booked_nano == before == report.total.confirmed.repriced_nano


async def test_a_part_of_the_history(tmp_path: Path) -> None:
    """By the settlement's instant, the end not included."""
    async with open_desk(tmp_path) as desk:
        claim = await claimed(desk.store)
        for step in (1, 2, 3):
            desk.provider.script = [answer(text("hello"))]
            await ask(desk, claim, step, HAIKU)
            desk.clock.move(1)
    for bounds, lines in (
        ({"from_us": START_US + 1_000_000}, 2),
        ({"to_us": START_US + 1_000_000}, 1),
        ({"from_us": START_US + 1, "to_us": START_US + 2_000_001}, 2),
        ({"from_us": START_US + 2_000_001}, 0),
    ):
        assert examine(tmp_path, prices(), **bounds).total.confirmed.lines == lines


async def test_without_a_price_a_line_is_named_and_never_zero(tmp_path: Path) -> None:
    """It is left out of what was repriced, and shown with what was booked."""
    async with open_desk(tmp_path) as desk:
        await book(desk, ("my-model", 500), (HAIKU, 100_000), ("other", 70))
    report = examine(tmp_path, prices())
    assert report.missing == {"my-model", "other"}
    assert (report.total.unpriced.lines, report.total.unpriced.booked_nano) == (2, 570)
    assert (report.total.confirmed.lines, report.total.difference_nano) == (1, 0)
    assert report.models["my-model"].unpriced.booked_nano == 500
    assert report.models["my-model"].confirmed.lines == 0


async def test_what_a_free_model_would_have_cost(tmp_path: Path) -> None:
    """A price of 0 is a price: such a line is priced anew, unlike an answer that was not billed."""
    async with open_desk(tmp_path) as desk:
        await book(desk, (HAIKU, 0))
    assert examine(tmp_path, prices()).total.difference_nano == 100_000


async def test_long_histories_are_read_in_pages(tmp_path: Path) -> None:
    """More lines than a page has, none lost or twice."""
    async with open_desk(tmp_path) as desk:
        await book(desk, (HAIKU, 100_000))
    count = 12_001
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        columns = [row[1] for row in connection.execute("PRAGMA table_info(ledger_lines)")]
        picked = ", ".join("n" if name == "attempt" else name for name in columns)
        connection.execute(
            "WITH RECURSIVE numbers (n) AS (SELECT 2 UNION ALL SELECT n + 1 FROM numbers WHERE n < ?) "  # noqa: S608
            f"INSERT INTO ledger_lines SELECT {picked} FROM ledger_lines, numbers",
            [count],
        )
        connection.commit()
    done = examine(tmp_path, prices()).total.confirmed
    assert (done.lines, done.booked_nano, done.repriced_nano) == (
        count,
        count * 100_000,
        count * 100_000,
    )


def test_no_database(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    with pytest.raises(StoreUnavailable):
        examine(tmp_path, prices())
    assert not list(tmp_path.iterdir())


_COUNTS = st.integers(0, 10**9)
_TOKENS = st.builds(Tokens, _COUNTS, _COUNTS, _COUNTS, _COUNTS, _COUNTS)
_USAGES = st.builds(
    Usage,
    st.lists(st.tuples(st.sampled_from([HAIKU, OPUS, "ü"]), _TOKENS), min_size=1).map(tuple),
    st.integers(0, 99),
    st.sampled_from(["standard", "batch", "priority"]),
    st.sampled_from(["global", "us"]),
    st.sampled_from(["standard", "fast"]),
)


@given(_USAGES)
def test_a_line_tells_its_exact_usage(usage: Usage) -> None:
    """Whatever is booked can be read back, in columns or in the line's own record."""
    assert usage_of({"model": HAIKU, **asdict(meters_of(usage, plain_model=HAIKU))}) == usage


@pytest.mark.corpus
def test_recorded_usages(corpus: Path) -> None:
    """Each recorded answer costs the same from its ledger line as from its report."""
    lines, nano = [], 0
    for record in (corpus / "costs.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(record)
        day = date.fromisoformat((row["recorded"] or "2026-08-20")[:10])
        usage = read_usage(row["usage"], row["model"])
        assert usage is not None
        stored = usage_of(
            {"model": row["model"], **asdict(meters_of(usage, plain_model=row["model"]))}
        )
        cost = prices().cost(usage, day).nano
        lines.append(Line(row["model"], Kind.CONFIRMED, cost, day, stored))
        nano += cost
    report = reprice(lines, prices())
    assert len(lines) > 800
    assert report.total.confirmed.booked_nano == nano > 0
    assert {tally.difference_nano for tally in report.models.values()} == {0}
