"""Arithmetic for models, from text: its own small parser, so that nothing in the text is ever code.

Precedence climbing, evaluating as it reads. The length and depth of an expression are bounded here,
the cost of each operation in `numbers`: no input takes long, whatever it asks for.
"""

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Annotated, NamedTuple

from pydantic import Field

from app.tools.builtin import numbers
from app.tools.builtin.numbers import MAGNITUDE, CalculatorError, Number
from app.tools.port import Tool

LENGTH_LIMIT = 1_000
"""Characters in an expression."""
DEPTH_LIMIT = 64
"""Expressions inside expressions: parentheses, signs in a row, powers of powers."""

_TOKEN = re.compile(
    r"""\s*(?:
        (?P<number>(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
      | (?P<symbol>\*\*|//|[-+*/%(),])
      | (?P<end>\Z)
    )""",
    re.VERBOSE,
)
_TYPOGRAPHIC = str.maketrans(
    {
        "\N{MULTIPLICATION SIGN}": "*",
        "\N{MIDDLE DOT}": "*",
        "\N{DIVISION SIGN}": "/",
        "\N{MINUS SIGN}": "-",
    }
)
_SIGN_POWER = 30


class _Operator(NamedTuple):
    power: int
    right_floor: int
    """The weakest operator its right side may hold: above `power` unless it groups to the right."""
    apply: Callable[[Number, Number], Number]


_OPERATORS = {
    "+": _Operator(10, 11, numbers.add),
    "-": _Operator(10, 11, numbers.subtract),
    "*": _Operator(20, 21, numbers.multiply),
    "/": _Operator(20, 21, numbers.divide),
    "//": _Operator(20, 21, numbers.floor_divide),
    "%": _Operator(20, 21, numbers.modulo),
    "**": _Operator(40, 40, numbers.power),
}


class _Function(NamedTuple):
    arity_min: int
    arity_max: int
    apply: Callable[..., Number]


_FUNCTIONS = {
    "sqrt": _Function(1, 1, numbers.square_root),
    "abs": _Function(1, 1, numbers.absolute),
    "round": _Function(1, 2, numbers.round_to),
    "min": _Function(1, LENGTH_LIMIT, numbers.smallest),
    "max": _Function(1, LENGTH_LIMIT, numbers.largest),
    "floor": _Function(1, 1, numbers.floor),
    "ceil": _Function(1, 1, numbers.ceiling),
    "log": _Function(1, 2, numbers.logarithm),
    "exp": _Function(1, 1, numbers.exponential),
}
_CONSTANTS = {
    "pi": Decimal("3.1415926535897932384626433832795028841971693993751"),
    "e": Decimal("2.7182818284590452353602874713526624977572470937000"),
}


def calculate(expression: str) -> str:
    """The value, written out: exact where it has at most 50 digits or is whole, else 28 digits.

    Raises:
        CalculatorError: not an expression, no value, or beyond the limits.
    """
    if len(expression) > LENGTH_LIMIT:
        message = f"the expression is longer than {LENGTH_LIMIT} characters"
        raise CalculatorError(message)
    parser = _Parser(_tokens(expression.translate(_TYPOGRAPHIC)))
    try:
        return numbers.written(parser.whole())
    except ZeroDivisionError:
        message = "division by zero"
        raise CalculatorError(message) from None
    except InvalidOperation:
        message = "the expression has no defined value"
        raise CalculatorError(message) from None
    except ArithmeticError:
        message = (
            f"a number is too large or too small: the range is 1e-{MAGNITUDE} to 1e{MAGNITUDE}"
        )
        raise CalculatorError(message) from None


def calculator_tool() -> Tool:
    def calculator(expression: Annotated[str, Field(max_length=LENGTH_LIMIT)]) -> str:
        """Compute an arithmetic expression exactly, or to 28 digits where it has no exact decimal.

        Operators: + - * / // (floor) % (modulo) ** (power), parentheses. Functions: sqrt, abs,
        round(x, places) with halves to even, min, max, floor, ceil, log(x) natural, log(x, base),
        exp. Constants: pi, e. No thousands separators, no variables.

        Args:
            expression: for example (17.5 + 3) * 2 ** 10 / 3
        """
        return calculate(expression)

    return Tool.from_function(calculator, idempotent=True, inline=True, source="bursar")


class _Token(NamedTuple):
    kind: str
    text: str
    position: int
    """First character, counted from 1."""

    def unexpected(self, wanted: str, hint: str = "") -> CalculatorError:
        found = "the end" if self.kind == "end" else repr(self.text)
        return CalculatorError(
            f"expected {wanted} at character {self.position}, found {found}{hint}"
        )


def _tokens(expression: str) -> list[_Token]:
    found: list[_Token] = []
    position = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(expression, position)
        if match is None or match.lastgroup is None:
            raise _stray(expression, position)
        kind = match.lastgroup
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        position = match.end()
    return found


def _stray(expression: str, position: int) -> CalculatorError:
    rest = expression[position:].lstrip()
    hint = "; powers are written **" if rest[0] == "^" else ""
    where = len(expression) - len(rest) + 1
    return CalculatorError(f"unexpected {rest[0]!r} at character {where}{hint}")


class _Parser:
    """Reads the tokens once, left to right."""

    def __init__(self, tokens: list[_Token]) -> None:
        self._tokens = tokens
        self._index = 0

    def whole(self) -> Number:
        value = self._expression(floor=0, depth=1)
        if self._next.kind != "end":
            hint = "; write numbers without thousands separators" if self._next.text == "," else ""
            raise self._next.unexpected("an operator", hint)
        return value

    @property
    def _next(self) -> _Token:
        return self._tokens[self._index]

    def _take(self) -> _Token:
        token = self._tokens[self._index]
        self._index += 1
        return token

    def _accept(self, symbol: str) -> bool:
        if self._next.text != symbol:
            return False
        self._index += 1
        return True

    def _expression(self, *, floor: int, depth: int) -> Number:
        """One operand and every operator after it that binds at least as strongly as `floor`."""
        if depth > DEPTH_LIMIT:
            message = f"the expression is nested more than {DEPTH_LIMIT} deep"
            raise CalculatorError(message)
        left = self._operand(depth)
        while (operator := _OPERATORS.get(self._next.text)) and operator.power >= floor:
            self._index += 1
            left = operator.apply(
                left, self._expression(floor=operator.right_floor, depth=depth + 1)
            )
        return left

    def _operand(self, depth: int) -> Number:
        if self._next.kind == "number":
            return _literal(self._take().text)
        if self._next.kind == "name":
            return self._named(self._take(), depth)
        if self._accept("-"):
            return numbers.negate(self._expression(floor=_SIGN_POWER, depth=depth + 1))
        if self._accept("+"):
            return self._expression(floor=_SIGN_POWER, depth=depth + 1)
        if self._accept("("):
            value = self._expression(floor=0, depth=depth + 1)
            self._close_parenthesis()
            return value
        raise self._next.unexpected("a number")

    def _named(self, name: _Token, depth: int) -> Number:
        if name.text in _CONSTANTS:
            return _CONSTANTS[name.text]
        function = _FUNCTIONS.get(name.text)
        if function is None:
            known = ", ".join([*_FUNCTIONS, *_CONSTANTS])
            message = (
                f"unknown name {name.text[:32]!r} at character {name.position}; known: {known}"
            )
            raise CalculatorError(message)
        if not self._accept("("):
            raise self._next.unexpected(f"'(' after {name.text}")
        values = self._arguments(depth)
        if not function.arity_min <= len(values) <= function.arity_max:
            message = f"{name.text} does not take {len(values)} arguments"
            raise CalculatorError(message)
        return function.apply(*values)

    def _arguments(self, depth: int) -> list[Number]:
        values = [self._expression(floor=0, depth=depth + 1)]
        while self._accept(","):
            values.append(self._expression(floor=0, depth=depth + 1))
        self._close_parenthesis()
        return values

    def _close_parenthesis(self) -> None:
        if not self._accept(")"):
            hint = "; write numbers without thousands separators" if self._next.text == "," else ""
            raise self._next.unexpected("')'", hint)


def _literal(text: str) -> Number:
    """An exact number. Its exponent is judged first: 1e999999999 would be a gigabyte of digits."""
    if text.isdigit():
        return numbers.fit(Fraction(int(text)))
    exponent = text.lower().partition("e")[2]
    if exponent and abs(int(exponent)) > MAGNITUDE:
        message = f"the exponent of {text[:32]} is beyond ±{MAGNITUDE}"
        raise CalculatorError(message)
    return numbers.fit(Fraction(text))
