"""What the booked calls would have cost by another price table. The ledger is read, never written.

A confirmed settlement is priced anew from its exact usage, on the day its reservation was written: as it
was booked. Estimated and presumed ones keep their amount, for it bounds a usage that nobody knows.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import orjson

from app.budget.ledger import Kind
from app.domain.money import format_usd
from app.domain.period import DAY_US, utc_date
from app.domain.record import record
from app.llm.pricing import PriceBook, UnknownModel
from app.llm.usage import Tokens, Usage
from app.store.port import Row, Tx
from app.store.snapshot import snapshot

PAGE_LIMIT = 5_000
"""Lines read at once, at most."""
END_US = 2**63 - 1
_UNBILLED = "unbilled:"
"""How a line names an answer that was booked at 0 because of what it was, not by a price."""
_HEADER = (
    "model",
    "lines",
    "booked",
    "repriced",
    "difference",
    "estimated",
    "presumed",
    "unpriced",
)


@record(frozen=True, slots=True)
class Line:
    """A settlement, as far as its price goes. Nano-dollars."""

    model: str
    kind: Kind
    booked_nano: int
    """All of it, what was above the reservation included."""
    day: date
    """UTC, of its reservation: prices of that day."""
    usage: Usage
    unbilled: bool = False
    """Free whatever the prices are, such as a refusal before any output."""


@dataclass(slots=True)
class Sum:
    """Lines of one sort. For those that were not priced anew, `repriced_nano` stays 0 and means nothing."""

    lines: int = 0
    booked_nano: int = 0
    repriced_nano: int = 0

    def add(self, booked_nano: int, repriced_nano: int = 0) -> None:
        """Count one more line."""
        self.lines += 1
        self.booked_nano += booked_nano
        self.repriced_nano += repriced_nano


@dataclass(slots=True)
class Tally:
    """One model's lines, or all of them, by what could be done with them; every line is in one sum."""

    confirmed: Sum = field(default_factory=Sum)
    """Priced anew."""
    unpriced: Sum = field(default_factory=Sum)
    """Confirmed, but a model in their usage has no price in the table."""
    estimated: Sum = field(default_factory=Sum)
    presumed: Sum = field(default_factory=Sum)

    @property
    def difference_nano(self) -> int:
        """Repriced minus booked, over the lines that were priced anew."""
        return self.confirmed.repriced_nano - self.confirmed.booked_nano


@dataclass(slots=True)
class Report:
    """What repricing found. `models` go by the model that was asked, even where others ran beside it."""

    total: Tally = field(default_factory=Tally)
    models: dict[str, Tally] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    """Models without a price, as the usage names them."""


def reprice(lines: Iterable[Line], prices: PriceBook) -> Report:
    """Price every confirmed line with `prices`, and sum up."""
    report = Report()
    for line in lines:
        tallies = (report.total, report.models.setdefault(line.model, Tally()))
        if line.kind is not Kind.CONFIRMED:
            for tally in tallies:
                kept = tally.estimated if line.kind is Kind.ESTIMATED else tally.presumed
                kept.add(line.booked_nano)
            continue
        try:
            nano = 0 if line.unbilled else prices.cost(line.usage, line.day).nano
        except UnknownModel as error:
            report.missing.add(error.model)
            for tally in tallies:
                tally.unpriced.add(line.booked_nano)
        else:
            for tally in tallies:
                tally.confirmed.add(line.booked_nano, nano)
    return report


def usage_of(row: Row) -> Usage:
    """The exact usage of a settlement: its own record where there is one, else its columns."""
    if row["usage_json"] is None:
        tokens = Tokens(
            input=row["input_tokens"],
            output=row["output_tokens"],
            cache_read=row["cache_read_tokens"],
            cache_write_5m=row["cache_write_5m_tokens"],
            cache_write_1h=row["cache_write_1h_tokens"],
        )
        return Usage(((row["model"], tokens),), row["web_searches"])
    found = orjson.loads(row["usage_json"])
    parts = tuple((model, Tokens(**tokens)) for model, tokens in found.pop("parts"))
    return Usage(parts, **found)


def settlements(tx: Tx, from_us: int, to_us: int) -> Iterator[Line]:
    """Every owner's settlements of the half-open time, page by page; in one snapshot if `tx` is one."""
    key: dict[str, Any] = {"task_id": "", "step": 0, "attempt": 0}
    while rows := tx.all("settlements_page", from_us=from_us, to_us=to_us, **key, limit=PAGE_LIMIT):
        for row in rows:
            yield Line(
                model=row["model"],
                kind=Kind(row["kind"]),
                booked_nano=row["amount_nano"] + row["surplus_nano"],
                day=utc_date(row["reserved_at_us"] // DAY_US),
                usage=usage_of(row),
                unbilled=row["price_row"].startswith(_UNBILLED),
            )
        key = {name: rows[-1][name] for name in key}


def examine(
    place: Path | str, prices: PriceBook, *, from_us: int = 0, to_us: int = END_US
) -> Report:
    """Reprice the database at `place` (see `snapshot`), also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    with snapshot(place) as tx:
        return reprice(settlements(tx, from_us, to_us), prices)


def as_json(report: Report) -> dict[str, Any]:
    """The report for programs. Amounts are USD as exact decimal text."""
    return {
        "models": {model: _tally_json(tally) for model, tally in sorted(report.models.items())},
        "total": _tally_json(report.total),
        "missing_prices": sorted(report.missing),
    }


def as_text(report: Report) -> str:
    """The report for people: a table in USD, exact, one row a model and one for all."""
    table = [_HEADER, *(_row(*pair) for pair in sorted(report.models.items()))]
    table.append(_row("all", report.total))
    widths = [max(len(row[column]) for row in table) for column in range(len(_HEADER))]
    rows = [
        "  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in table
    ]
    total = report.total
    kept = (
        f"USD. Kept as booked and not repriced: {total.estimated.lines} estimated lines, "
        f"{total.presumed.lines} presumed lines, {total.unpriced.lines} lines without a price."
    )
    return "\n".join([*rows, kept]) + "\n"


def _row(model: str, tally: Tally) -> tuple[str, ...]:
    done = tally.confirmed
    amounts = (
        done.booked_nano,
        done.repriced_nano,
        tally.difference_nano,
        tally.estimated.booked_nano,
        tally.presumed.booked_nano,
        tally.unpriced.booked_nano,
    )
    return (model, str(done.lines), *map(format_usd, amounts))


def _tally_json(tally: Tally) -> dict[str, Any]:
    done = tally.confirmed
    kept = {
        name: {"lines": held.lines, "booked_usd": format_usd(held.booked_nano)}
        for name, held in (
            ("estimated", tally.estimated),
            ("presumed", tally.presumed),
            ("unpriced", tally.unpriced),
        )
    }
    return {
        "confirmed": {
            "lines": done.lines,
            "booked_usd": format_usd(done.booked_nano),
            "repriced_usd": format_usd(done.repriced_nano),
            "difference_usd": format_usd(tally.difference_nano),
        },
        **kept,
    }
