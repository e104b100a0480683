"""Tables as CSV (RFC 4180) that a spreadsheet can open without running what is in them."""

import csv
import io
from collections.abc import Iterable

_FORMULA = ("=", "+", "-", "@")
_CONTROL = ("\t", "\r", "\n")


def defused(cell: str) -> str:
    """The cell's text; with an apostrophe before it, if a spreadsheet could take it for a formula.

    White space before the formula does not help: spreadsheets skip it. A leading tab or line break is
    itself a way to begin one.
    """
    begins = cell.lstrip(" ").startswith(_CONTROL) or cell.lstrip().startswith(_FORMULA)
    return f"'{cell}" if begins else cell


def csv_text(header: Iterable[str], rows: Iterable[Iterable[str | int]]) -> str:
    """A header and rows as CSV: lines end in CR LF, cells are quoted where they need it, texts defused."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(header)
    writer.writerows(
        [defused(cell) if isinstance(cell, str) else cell for cell in row] for row in rows
    )
    return written.getvalue()
