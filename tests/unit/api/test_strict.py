"""Reading JSON without guessing."""

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.api.strict import DEPTH_LIMIT, parse

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - 10**18, 10**18)
    | st.decimals(-1, 1, places=9)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('ab[{"\\ é'), inner, max_size=4)
    ),
    max_leaves=20,
)


def _reason(body: bytes) -> str:
    with pytest.raises(json.JSONDecodeError) as caught:
        parse(body)
    return caught.value.msg


@given(VALUES)
def test_reads_what_was_written(value: Any) -> None:
    """Every JSON value comes back as it was, brackets and quotes in texts or not."""

    def written(part: Any) -> Any:
        return float(part) if isinstance(part, Decimal) else str(part)

    body = json.dumps(value, default=written)
    found = json.dumps(parse(body.encode()), default=written)
    assert json.loads(found) == json.loads(body)


@pytest.mark.parametrize("text", ["0.1", "0.000000001", "1e-9", "123456.123456789", "-0.5E+3"])
def test_fractions_are_decimals(text: str) -> None:
    """No fraction passes through a float."""
    found = parse(text.encode())
    assert isinstance(found, Decimal)
    assert found == Decimal(text)


@pytest.mark.parametrize("digits", ["9" * 19, "-" + "9" * 18])
def test_whole_numbers_in_bounds(digits: str) -> None:
    """Nineteen characters hold every number the service knows."""
    assert parse(digits.encode()) == int(digits)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"9" * 20, "19 digits"),
        (b"-" + b"9" * 19, "19 digits"),
        (b"9" * 100_000, "19 digits"),
        (b"0." + b"1" * 39, "40 characters"),
        (b"1e" + b"9" * 30, "exponent"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"-Infinity", "-Infinity"),
        (b'{"a":1,"a":1}', "twice"),
        (b'[{"b":{"a":1,"a":1}}]', "twice"),
        (b'{"a":1,"\\u0061":2}', "twice"),
        (b"\xff", "UTF-8"),
        (b'"\xed\xa0\x80"', "UTF-8"),
        (b"", "Expecting value"),
    ],
)
def test_refusals(body: bytes, reason: str) -> None:
    """What would have to be guessed about is refused, and the message says why."""
    assert reason in _reason(body)


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth(opening: str, closing: str) -> None:
    """The limit is exact, and far beyond it nothing recurses."""

    def nested(depth: int) -> bytes:
        return (opening * depth + "1" + closing * depth).encode()

    parse(nested(DEPTH_LIMIT))
    for depth in (DEPTH_LIMIT + 1, 100_000):
        assert "deeper" in _reason(nested(depth))


@pytest.mark.parametrize(
    "text", ["[" * 1_000, "{" * 1_000, '\\"[' * 500, "\\\\" + "[" * 500, "]" * 100 + "[" * 100]
)
def test_brackets_in_texts(text: str) -> None:
    """Brackets and escaped quotes inside a text are no nesting."""
    body = f'[{{"text":"{text}"}}]'.encode()
    assert parse(body) == json.loads(body)


def test_depth_after_texts() -> None:
    """A text with quotes and backslashes does not hide the nesting behind it."""
    body = b'["\\\\","\\"",' + b"[" * 100 + b"]" * 100 + b"]"
    assert "deeper" in _reason(body)
