"""CSV: what comes out reads back as it went in, and no cell runs in a spreadsheet."""

import csv
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.bodies import NAME, SESSION_ID
from app.api.tables import csv_text, defused

CELLS = st.text(st.characters(codec="utf-8", exclude_characters="\x00"))
DANGEROUS = ("=", "+", "-", "@", "\t", "\r")


@pytest.mark.parametrize(
    "cell",
    [
        '=HYPERLINK("http://example.test";"x")',
        "+1+1",
        "-2",
        "@SUM(A1)",
        "\tx",
        "\rx",
        "\nx",
        "  =1",
        " \t=1",
        "\u00a0=1",
        "=",
    ],
)
def test_formulas_are_defused(cell: str) -> None:
    """Whatever a spreadsheet would run gets an apostrophe, and loses nothing."""
    assert defused(cell) == f"'{cell}"


@pytest.mark.parametrize("cell", ["", "a=1", "claude-haiku-5-5", "0.10", "a@b", "'=1", " x", "1-2"])
def test_other_cells_stay(cell: str) -> None:
    """An apostrophe where none is needed would change a name."""
    assert defused(cell) == cell


@given(st.text(" ", max_size=3), st.sampled_from(DANGEROUS), CELLS)
def test_no_cell_begins_a_formula(spaces: str, sign: str, rest: str) -> None:
    """Spaces before it or not."""
    assert defused(spaces + sign + rest) == f"'{spaces}{sign}{rest}"


@given(st.lists(st.lists(CELLS, min_size=2, max_size=2)))
def test_what_is_written_reads_back(rows: list[list[str]]) -> None:
    """Commas, quotes and line breaks survive; the only change is the apostrophe."""
    text = csv_text(("a", "b"), rows)
    assert text.startswith("a,b\r\n")
    assert text.endswith("\r\n")
    read = list(csv.reader(io.StringIO(text, newline="")))
    assert read == [["a", "b"], *([defused(cell) for cell in row] for row in rows)]


def test_quoting_is_that_of_rfc_4180() -> None:
    """Cells with commas, quotes or line breaks stand in quotes, and quotes are doubled."""
    assert (
        csv_text(("k", "n"), [('a"b,c', 1), ("d\ne", -2)]) == 'k,n\r\n"a""b,c",1\r\n"d\ne",-2\r\n'
    )


@pytest.mark.parametrize("pattern", [NAME, SESSION_ID])
@given(cell=st.data())
def test_names_from_clients_need_no_apostrophe(pattern: str, cell: st.DataObject) -> None:
    """Sessions, agents and models begin with a letter or a digit, so their cells stay what they are."""
    name = cell.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assert defused(name) == name
