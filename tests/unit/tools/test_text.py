"""Results as text: safe on the wire, and never longer than allowed."""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from app.tools.text import RESULT_LIMIT_MIN_BYTES, one_line, render, safe_text

MARKER = re.compile(r"\n\[\.\.\. (\d+) of (\d+) bytes left out \.\.\.\]\n")
ANY_TEXT = st.text(st.characters(codec=None, categories=None), max_size=80)
JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text("abc"), inner, max_size=4),
    max_leaves=12,
)


@given(
    piece=st.text(st.sampled_from("aé€😀\n"), min_size=1, max_size=40),
    times=st.integers(1, 60),
    limit=st.integers(RESULT_LIMIT_MIN_BYTES, 1_000),
)
def test_truncation(piece: str, times: int, limit: int) -> None:
    """Within the limit untouched; above it: head, an honest count, tail, cut between characters."""
    text = piece * times
    shown = render(text, limit_bytes=limit)
    size = len(text.encode())
    assert shown.original_bytes == size
    assert shown.truncated == (size > limit)
    if not shown.truncated:
        assert shown.text == text
        return
    assert limit - 10 <= len(shown.text.encode()) <= limit
    found = MARKER.search(shown.text)
    assert found is not None
    head, tail = shown.text[: found.start()], shown.text[found.end() :]
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(found[1]) == size - len(head.encode()) - len(tail.encode())
    assert int(found[2]) == size


def test_head_gets_two_thirds() -> None:
    """Both ends survive, the beginning with the larger share."""
    text = render("h" * 10_000 + "t" * 10_000, limit_bytes=3_000).text
    assert 1_900 < text.count("h") < 2_000
    assert 950 < text.count("t") < 1_010


@given(ANY_TEXT)
def test_safe_text_can_always_be_sent(text: str) -> None:
    """Whatever the string, its safe form is UTF-8 without NUL, and making it safe again is idle."""
    safe = safe_text(text)
    assert "\0" not in safe
    assert safe.encode().decode() == safe
    assert safe_text(safe) == safe


@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
def test_good_text_is_left_alone(text: str) -> None:
    """Text that can be sent is sent as it is."""
    assert safe_text(text) == text


def test_surrogate_halves() -> None:
    """Two halves of one character are joined; a lone one is replaced."""
    assert safe_text("\ud83d\ude00") == "😀"
    assert safe_text("\ude00\ud83d") == "\N{REPLACEMENT CHARACTER}" * 2


@given(JSON_VALUES)
def test_json_survives(value: Any) -> None:
    """What is not a string reads back, as JSON, as what it was."""
    if isinstance(value, str):
        return
    shown = render(value, limit_bytes=10**9)
    assert json.loads(shown.text) == value


@given(st.dictionaries(ANY_TEXT, ANY_TEXT | st.floats() | st.binary(max_size=8), max_size=4))
def test_any_mapping_is_json_that_can_be_sent(value: dict[str, Any]) -> None:
    """Surrogates, NaN and bytes inside do not break the text."""
    text = render(value, limit_bytes=10**9).text

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert isinstance(json.loads(text.encode(), parse_constant=refuse), dict)


@dataclass
class Point:
    x: int


class Note(BaseModel):
    text: str


def test_surrogates_deep_inside() -> None:
    """Strings are made safe in data classes, models, tuples, sets and keys too."""
    value = {"\ud800": [Point(1), Note.model_construct(text="a\ud800"), ("b\ud800",), {"c\ud800"}]}
    bad = "\N{REPLACEMENT CHARACTER}"
    assert json.loads(render(value, limit_bytes=1_000).text) == {
        bad: [{"x": 1}, {"text": f"a{bad}"}, [f"b{bad}"], [f"c{bad}"]]
    }


def test_common_types() -> None:
    """Data classes, dates and decimals are written as JSON has them."""
    value = [Point(1), datetime(2026, 1, 2, tzinfo=UTC), Decimal("0.10"), (1, 2)]
    text = render(value, limit_bytes=1_000).text
    assert text == '[{"x":1},"2026-01-02T00:00:00Z","0.10",[1,2]]'


@pytest.mark.parametrize(
    ("value", "empty"),
    [("x", False), (0, False), ([0], False), ("\0", False), ([], True), ("\u2003\n", True)],
)
def test_empty(value: Any, empty: bool) -> None:
    """Empty is no value, white space, or a container without content; zero is a value."""
    assert render(value, limit_bytes=1_000).empty is empty


@given(ANY_TEXT, st.integers(1, 40))
def test_one_line(text: str, limit: int) -> None:
    """One short line, always."""
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1
    line.encode()
