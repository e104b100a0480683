"""The calculator: right answers, clear refusals, and bounds that hold for any text."""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.tools.builtin import numbers
from app.tools.builtin.calculator import (
    DEPTH_LIMIT,
    LENGTH_LIMIT,
    calculate,
    calculator_tool,
)
from app.tools.builtin.numbers import CalculatorError
from tests.unit.tools.conftest import RegistryOf
from tests.unit.tools.support import answer


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("1 + 2 * 3", "7"),
        ("(1 + 2) * 3", "9"),
        ("10 - 4 - 3", "3"),
        ("2 ** 3 ** 2", "512"),
        ("-2 ** 2", "-4"),
        ("2 ** -1", "0.5"),
        ("2 ** -3 ** 2", "0.001953125"),
        ("2 ** -1 * 3", "1.5"),
        ("--3", "3"),
        ("+-+3", "-3"),
        ("-7 // 2", "-4"),
        ("-7 % 3", "2"),
        ("7 % -3", "-2"),
        ("7.5 % 2", "1.5"),
        ("pi // 1", "3"),
        ("0.1 + 0.2", "0.3"),
        (".5 + 1.", "1.5"),
        ("1.5e3", "1500"),
        ("1E-2", "0.01"),
        ("1 / 3", "0.3333333333333333333333333333"),
        ("2 / 3 * 3", "2"),
        ("1 / 1024", "0.0009765625"),
        ("1e-15", "1e-15"),
        ("10 ** 30 / 7", "1.428571428571428571428571429e+29"),
        ("2 ** 100", str(2**100)),
        ("3 ** 2000", str(3**2000)),
        ("1 / 3 ** 2000", "5.721245194772948954887257557e-955"),
        ("(1 + 0.05 / 365) ** 3650", "1.648664813765471830213999421"),
        ("0 ** 0", "1"),
        ("(pi - pi) ** 0", "1"),
        ("1 ** 1e900", "1"),
        ("(-1) ** (1e900 + 1)", "-1"),
        ("sqrt(2)", "1.414213562373095048801688724"),
        ("sqrt(9 / 4)", "1.5"),
        ("sqrt(2) * sqrt(2)", "2"),
        ("8 ** (1 / 3)", "2"),
        ("abs(-2.5)", "2.5"),
        ("abs(-pi) - pi", "0"),
        ("-(-pi) - pi", "0"),
        ("round(2.5)", "2"),
        ("round(2.675, 2)", "2.68"),
        ("round(1234, -2)", "1200"),
        ("round(pi, 3)", "3.142"),
        ("min(3, 1, 2)", "1"),
        ("max(pi, e, 3)", "3.141592653589793238462643383"),
        ("floor(-2.5)", "-3"),
        ("ceil(2.1)", "3"),
        ("floor(1e40 / 3)", "3" * 40),
        ("log(8, 2)", "3"),
        ("floor(log(1000, 10))", "3"),
        ("log(0.5, 2)", "-1"),
        ("log(1)", "0"),
        ("log(2)", "0.6931471805599453094172321215"),
        ("exp(0)", "1"),
        ("exp(1) - e", "0"),
        ("3 × 4 ÷ 2 − 1 · 1", "5"),  # noqa: RUF001
    ],
)
def test_values(expression: str, value: str) -> None:
    """Python's operators, exact arithmetic."""
    assert calculate(expression) == value


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("", "expected a number at character 1, found the end"),
        ("   ", "expected a number at character 4, found the end"),
        ("1 +", "expected a number at character 4, found the end"),
        ("((1)", "expected ')' at character 5, found the end"),
        ("1 2", "expected an operator at character 3, found '2'"),
        ("2e", "expected an operator at character 2, found 'e'"),
        ("1,000", "without thousands separators"),
        ("(1,000)", "without thousands separators"),
        ("1_000", "expected an operator at character 2, found '_000'"),
        ("2 ^ 3", "unexpected '^' at character 3; powers are written **"),
        ("'a' * 10**9", 'unexpected "\'" at character 1'),
        ("().__class__", "unexpected '.' at character 3"),
        ("__import__('os')", "unexpected"),
        ("a.b", "unexpected '.' at character 2"),
        ("factorial(5)", "unknown name 'factorial' at character 1; known: sqrt"),
        ("sqrt", "expected '(' after sqrt"),
        ("sqrt()", "expected a number"),
        ("sqrt(1, 2)", "sqrt does not take 2 arguments"),
        ("round(1, 2, 3)", "round does not take 3 arguments"),
        ("round(1, 0.5)", "round: the number of places"),
        ("round(1, 1e9)", "round: the number of places"),
        ("٣ + 1", "unexpected"),
        ("1 / 0", "division by zero"),
        ("1 // 0", "division by zero"),
        ("1 % (pi - pi)", "division by zero"),
        ("pi / (pi - pi)", "division by zero"),
        ("0 ** -1", "division by zero"),
        ("(pi - pi) / (e - e)", "no defined value"),
        ("sqrt(-1)", "not a real number"),
        ("(-8) ** (1 / 3)", "not a real number"),
        ("log(0)", "log needs a number above 0"),
        ("log(2, 1)", "log needs a number above 0"),
        ("9 ** 9 ** 9", "too large or too small"),
        ("9.0 ** 9 ** 9 ** 9", "too large or too small"),
        ("0.1 ** 9 ** 9", "too large or too small"),
        ("pi ** 9 ** 9", "too large or too small"),
        ("1e999 * 1e999", "too large or too small"),
        ("exp(1e900)", "too large or too small"),
        ("exp(-1e900)", "too large or too small"),
        ("1e999999999", "the exponent of 1e999999999 is beyond"),
        ("1e-999999999", "the exponent"),
        ("1e" + "9" * 900, "the exponent"),
        ("(" * 500 + "1" + ")" * 499, f"nested more than {DEPTH_LIMIT} deep"),
        ("-" * 999 + "1", f"nested more than {DEPTH_LIMIT} deep"),
        ("2" + "**1" * 300, f"nested more than {DEPTH_LIMIT} deep"),
        ("sqrt(" * 199, f"nested more than {DEPTH_LIMIT} deep"),
        ("1" * (LENGTH_LIMIT + 1), f"longer than {LENGTH_LIMIT} characters"),
    ],
    ids=lambda text: text[:24],
)
def test_refusals(expression: str, message: str) -> None:
    """Each refusal says what is wrong, and where."""
    with pytest.raises(CalculatorError) as caught:
        calculate(expression)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


def test_depth_up_to_the_limit() -> None:
    """Nesting within the limit is fine."""
    depth = DEPTH_LIMIT - 1
    assert calculate("(" * depth + "1" + ")" * depth) == "1"


def test_length_up_to_the_limit() -> None:
    """A thousand characters are fine, whole number or sum."""
    assert calculate("7" * LENGTH_LIMIT) == "7" * LENGTH_LIMIT
    assert calculate("1" + "+1" * 499) == "500"


PIECES = st.sampled_from(
    [
        *"0123456789.,()+-*/%^ eE_'x",
        *("**", "//", "1e999", "1e-999", "9**9", "1/3", "0.5", "1e1001", "pi", "e"),
        *("sqrt(", "abs(", "round(", "min(", "max(", "floor(", "ceil(", "log(", "exp("),
    ]
)


def check_answer(expression: str) -> None:
    """A short text or the calculator's own error; nothing else may come out."""
    try:
        value = calculate(expression)
    except CalculatorError as error:
        said = str(error)
        assert 0 < len(said) < 250
    else:
        assert len(value) <= numbers.MAGNITUDE + 10
        assert Decimal(value).is_finite()


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=30).map("".join))
def test_fuzz_of_pieces(expression: str) -> None:
    """Any arrangement of what the grammar knows."""
    check_answer(expression)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(codec=None, categories=None), max_size=60))
def test_fuzz_of_text(expression: str) -> None:
    """Any text whatever, lone surrogates and NUL included."""
    check_answer(expression)


EXPRESSIONS = st.recursive(
    st.sampled_from(["0", "1", "7", "0.3", "1e300", "1e-300", "pi", "3**600"]),
    lambda inner: (
        st.builds(
            "({}){}({})".format,
            inner,
            st.sampled_from(["+", "-", "*", "/", "//", "%", "**"]),
            inner,
        )
        | st.builds("{}({})".format, st.sampled_from(["sqrt", "exp", "log", "floor", "abs"]), inner)
    ),
    max_leaves=20,
)


@settings(max_examples=500, deadline=None)
@given(EXPRESSIONS)
def test_fuzz_of_expressions(expression: str) -> None:
    """Well-formed expressions with extreme numbers."""
    check_answer(expression)


WHOLE = st.integers(-(10**1000), 10**1000).filter(bool)
VALUES = (
    st.builds(Fraction, WHOLE, WHOLE).map(numbers.fit)
    | st.integers(-20, 20).map(Fraction)
    | st.decimals(-(10**40), 10**40, allow_nan=False, places=10).map(
        lambda value: numbers.multiply(Decimal(value), Fraction(1))
    )
)
OPERATIONS = st.sampled_from(
    [
        numbers.add,
        numbers.subtract,
        numbers.multiply,
        numbers.divide,
        numbers.floor_divide,
        numbers.modulo,
        numbers.power,
        numbers.logarithm,
        numbers.round_to,
        numbers.largest,
    ]
)


@settings(max_examples=500, deadline=None)
@given(VALUES, VALUES, OPERATIONS)
def test_every_result_is_bounded(left: numbers.Number, right: numbers.Number, apply: Any) -> None:
    """What bounds the time of an expression: no operation gives a number longer than allowed."""
    try:
        value = apply(left, right)
    except (CalculatorError, ArithmeticError):
        return
    if isinstance(value, Fraction):
        assert value.numerator.bit_length() <= numbers.EXACT_BITS
        assert value.denominator.bit_length() <= numbers.EXACT_BITS
    else:
        assert len(value.as_tuple().digits) <= numbers.PRECISION
        assert value == 0 or abs(value.adjusted()) <= numbers.MAGNITUDE + numbers.PRECISION


SMALL = st.integers(-50, 50)


@given(SMALL, SMALL, SMALL.filter(bool), st.sampled_from(["+", "-", "*", "//", "%"]))
def test_agrees_with_python(a: int, b: int, c: int, operator: str) -> None:
    """Whole-number arithmetic is Python's."""
    expected = eval(f"({a} {operator} {c}) * {b} - {c}")  # noqa: S307  (whole numbers only)
    assert calculate(f"({a} {operator} {c}) * {b} - {c}") == str(expected)


@given(st.floats(0.01, 1000), st.floats(-3, 3))
def test_close_to_floating_point(base: float, exponent: float) -> None:
    """Inexact functions agree with the machine's to its precision."""
    written = f"({base!r}) ** ({exponent!r})"
    assert math.isclose(float(calculate(written)), base**exponent, rel_tol=1e-9)
    assert math.isclose(
        float(calculate(f"log({base!r})")), math.log(base), rel_tol=1e-9, abs_tol=1e-12
    )


async def test_as_a_tool(registry_of: RegistryOf) -> None:
    """The model gets the number, or the reason there is none."""
    registry = registry_of(calculator_tool())
    good = await answer(registry, "calculator", {"expression": "6 * 7"})
    bad = await answer(registry, "calculator", {"expression": "1 / 0"})
    long = await answer(registry, "calculator", {"expression": "1" * 1_001})
    assert (good.outcome, good.content) == ("ok", "42")
    assert (bad.outcome, bad.content) == ("error", "calculator failed: division by zero")
    assert "at most 1000 characters" in long.content
