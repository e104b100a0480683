"""Arithmetic that cannot run away: exact fractions while they are short, else 50 decimal digits.

A value is a `Fraction` whose numerator and denominator have at most `EXACT_BITS` bits, or a `Decimal`
of `PRECISION` digits; in size it lies within about 1e±`MAGNITUDE`, or is zero. Every operation fits
its result into that, and powers are judged before they are computed, so no step costs much more than
multiplying two numbers of a thousand digits.

The functions raise `CalculatorError`, or `ArithmeticError` for what has no value or is too large.
"""

import math
from collections.abc import Callable
from decimal import (
    Context,
    Decimal,
    DivisionByZero,
    Inexact,
    InvalidOperation,
    Overflow,
    Underflow,
)
from fractions import Fraction

from app.tools.errors import ToolError

Number = Fraction | Decimal

PRECISION = 50
SHOWN_DIGITS = 28
MAGNITUDE = 1_000
EXACT_BITS = 3_322
"""A thousand decimal digits."""
_PLAIN_FROM = -10
"""Below 1e-10, and above the digits that are known, a decimal is written with an exponent."""

_CONTEXT = Context(
    prec=PRECISION,
    Emax=MAGNITUDE,
    Emin=-MAGNITUDE,
    traps=[DivisionByZero, InvalidOperation, Overflow, Underflow],
)
_SHOWN = Context(prec=SHOWN_DIGITS, Emax=2 * MAGNITUDE, Emin=-2 * MAGNITUDE, traps=[])


class CalculatorError(ToolError):
    """The expression has no answer here; the message says why."""


def fit(value: Fraction) -> Number:
    """`value`, rounded to a decimal if its exact form has become long."""
    bits = max(value.numerator.bit_length(), value.denominator.bit_length())
    return value if bits <= EXACT_BITS else _decimal(value)


def add(left: Number, right: Number) -> Number:
    return _combine(left, right, lambda a, b: a + b, _CONTEXT.add)


def subtract(left: Number, right: Number) -> Number:
    return _combine(left, right, lambda a, b: a - b, _CONTEXT.subtract)


def multiply(left: Number, right: Number) -> Number:
    return _combine(left, right, lambda a, b: a * b, _CONTEXT.multiply)


def divide(left: Number, right: Number) -> Number:
    return _combine(left, right, lambda a, b: a / b, _CONTEXT.divide)


def floor_divide(left: Number, right: Number) -> Number:
    return fit(Fraction(_fraction(left) // _fraction(right)))


def modulo(left: Number, right: Number) -> Number:
    """The remainder of `floor_divide`: it has the sign of `right`."""
    return fit(_fraction(left) % _fraction(right))


def power(base: Number, exponent: Number) -> Number:
    if base == 0 and exponent < 0:
        raise ZeroDivisionError
    if exponent == 0:
        return Fraction(1)
    exact = _exact_power(base, exponent)
    if exact is not None:
        return exact
    if base < 0 and _fraction(exponent).denominator != 1:
        message = "a negative number to a power that is not whole is not a real number"
        raise CalculatorError(message)
    return _CONTEXT.power(_decimal(base), _decimal(exponent))


def _exact_power(base: Number, exponent: Number) -> Number | None:
    """None where the exact power would be long, or is none."""
    if not (isinstance(base, Fraction) and isinstance(exponent, Fraction)):
        return None
    bits = max(base.numerator.bit_length(), base.denominator.bit_length()) - 1
    if exponent.denominator != 1 or bits * abs(exponent.numerator) > EXACT_BITS:
        return None
    return fit(Fraction(base**exponent.numerator))


def negate(value: Number) -> Number:
    return -value if isinstance(value, Fraction) else value.copy_negate()


def absolute(value: Number) -> Number:
    return abs(value) if isinstance(value, Fraction) else value.copy_abs()


def square_root(value: Number) -> Number:
    if value < 0:
        message = "the square root of a negative number is not a real number"
        raise CalculatorError(message)
    if isinstance(value, Fraction):
        root = Fraction(math.isqrt(value.numerator), math.isqrt(value.denominator))
        if root * root == value:
            return root
    return _CONTEXT.sqrt(_decimal(value))


def round_to(value: Number, places: Number = Fraction(0)) -> Number:
    """Rounded to `places` decimals; halves go to the even neighbour, as in Python."""
    digits = _fraction(places)
    if digits.denominator != 1 or abs(digits) > MAGNITUDE:
        message = f"round: the number of places must be whole, from -{MAGNITUDE} to {MAGNITUDE}"
        raise CalculatorError(message)
    return fit(round(_fraction(value), digits.numerator))


def floor(value: Number) -> Number:
    return fit(Fraction(math.floor(_fraction(value))))


def ceiling(value: Number) -> Number:
    return fit(Fraction(math.ceil(_fraction(value))))


def smallest(*values: Number) -> Number:
    return min(values, key=_fraction)


def largest(*values: Number) -> Number:
    return max(values, key=_fraction)


def logarithm(value: Number, base: Number | None = None) -> Number:
    """Natural without a base. Exact where the answer is a whole number."""
    if value <= 0 or (base is not None and (base <= 0 or base == 1)):
        message = "log needs a number above 0, and a base above 0 other than 1"
        raise CalculatorError(message)
    log = _CONTEXT.ln(_decimal(value))
    if base is None:
        return Fraction(0) if value == 1 else log
    quotient = _CONTEXT.divide(log, _CONTEXT.ln(_decimal(base)))
    whole = Fraction(round(quotient))
    return whole if _exact_power(base, whole) == value else quotient


def exponential(value: Number) -> Number:
    return Fraction(1) if value == 0 else _CONTEXT.exp(_decimal(value))


def written(value: Number) -> str:
    """Whole numbers and decimals of up to 50 digits exactly, all else rounded to 28 digits."""
    if isinstance(value, Fraction) and value.denominator == 1:
        return str(value.numerator)
    decimal, exact = _expanded(value)
    rounded = (decimal if exact else _SHOWN.plus(decimal)).normalize(_CONTEXT)
    plain = _PLAIN_FROM <= rounded.adjusted() < (PRECISION if exact else SHOWN_DIGITS)
    return format(rounded, "f") if plain else str(rounded).lower()


def _expanded(value: Number) -> tuple[Decimal, bool]:
    """As a decimal, and whether that is the value itself."""
    if isinstance(value, Decimal):
        return value, False
    context = _CONTEXT.copy()
    context.clear_flags()
    decimal = context.divide(Decimal(value.numerator), Decimal(value.denominator))
    return decimal, not context.flags[Inexact]


def _combine(
    left: Number,
    right: Number,
    exact: Callable[[Fraction, Fraction], Fraction],
    rounded: Callable[[Decimal, Decimal], Decimal],
) -> Number:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return fit(exact(left, right))
    return rounded(_decimal(left), _decimal(right))


def _decimal(value: Number) -> Decimal:
    if isinstance(value, Decimal):
        return value
    return _CONTEXT.divide(Decimal(value.numerator), Decimal(value.denominator))


def _fraction(value: Number) -> Fraction:
    return value if isinstance(value, Fraction) else Fraction(value)
