"""Fault rules from and to JSON; a bad one is refused with one clear sentence."""

from collections.abc import Callable
from dataclasses import fields
from math import isfinite
from typing import Any

from app.simulator.directive import STOPS
from app.simulator.errors import ApiError, JsonObject
from app.simulator.faults import FaultBook, Kind, Rule

RULE_LIMIT = 10_000
DELAY_LIMIT_S = 86_400
_COUNT_LIMIT = 1_000_000


def _refused(message: str) -> ApiError:
    return ApiError(422, "invalid_request_error", message)


def _number(value: Any, low: float, high: float) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and isfinite(value) and low <= value <= high


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and _number(value, low, high)


def _delay(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) == 2 and all(map(_delay, value)) and value[0] <= value[1]
    return _number(value, 0, DELAY_LIMIT_S)


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


_CHECKS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "kind": (lambda v: v in list(Kind), f"one of {', '.join(Kind)}"),
    "model": (_text, "a model's name"),
    "prompt_contains": (_text, "a text"),
    "repeat": (lambda v: _whole(v, 1, _COUNT_LIMIT), "a whole number of at least 1"),
    "probability": (lambda v: _number(v, 0, 1), "a number from 0 to 1"),
    "delay_s": (_delay, f"seconds from 0 to {DELAY_LIMIT_S}, or [from, to]"),
    "retry_after": (
        lambda v: _number(v, 0, _COUNT_LIMIT) or (_text(v) and v.isprintable()),
        "seconds or an HTTP date",
    ),
    "should_retry": (lambda v: isinstance(v, bool), "true or false"),
    "message": (_text, "a text"),
    "status": (lambda v: _whole(v, 200, 599), "an HTTP status from 200 to 599"),
    "stop": (lambda v: v in STOPS, f"one of {', '.join(STOPS)}"),
    "factor": (lambda v: _whole(v, 1, _COUNT_LIMIT), "a whole number of at least 1"),
    "pieces": (lambda v: _whole(v, 1, 10_000), "a whole number from 1 to 10000"),
    "after_bytes": (lambda v: _whole(v, 0, 2**31), "a number of bytes"),
    "echo": (_text, "a model's name"),
    "billed": (lambda v: isinstance(v, bool), "true or false"),
}


def load_rules(book: FaultBook, wanted: Any) -> None:
    """Replace the book's rules by `wanted`, the JSON of PUT /simulator/faults.

    Raises:
        ApiError: 422 with a sentence that says what is wrong; the book is unchanged.
    """
    if not isinstance(wanted, dict):
        raise _refused("faults must be an object with script, random and seed.")
    unknown = sorted(set(wanted) - {"script", "random", "seed"})
    if unknown:
        raise _refused(f"faults has no field {unknown[0]!r}; it has script, random and seed.")
    seed = wanted.get("seed", book.seed)
    if not _whole(seed, -(2**63), 2**63 - 1):
        raise _refused("seed must be a whole number.")
    book.load(seed, _rules(wanted, "script"), _rules(wanted, "random"))


def _rules(wanted: JsonObject, name: str) -> list[Rule]:
    given = wanted.get(name, [])
    if not isinstance(given, list) or len(given) > RULE_LIMIT:
        raise _refused(f"{name} must be a list of at most {RULE_LIMIT} rules.")
    return [_rule(rule, f"{name}[{index}]") for index, rule in enumerate(given)]


def _rule(given: Any, where: str) -> Rule:
    if not isinstance(given, dict) or "kind" not in given:
        raise _refused(f"{where} must be an object with a kind.")
    for name, value in given.items():
        if name not in _CHECKS:
            raise _refused(f"{where} has an unknown field {name!r}; known: {', '.join(_CHECKS)}.")
        check, expected = _CHECKS[name]
        if value is not None and not check(value):
            raise _refused(f"{where}.{name} must be {expected}.")
    if given["kind"] == Kind.STOP and not given.get("stop"):
        raise _refused(f"{where} of kind stop needs a stop, one of {', '.join(STOPS)}.")
    made = {name: value for name, value in given.items() if value is not None}
    return Rule(**{**made, **_converted(made)})


def _converted(given: JsonObject) -> JsonObject:
    converted: JsonObject = {"kind": Kind(given["kind"])}
    if "delay_s" in given:
        delay = given["delay_s"]
        low, high = delay if isinstance(delay, list) else (delay, delay)
        converted["delay_s"] = (float(low), float(high))
    if "retry_after" in given:
        converted["retry_after"] = str(given["retry_after"])
    return converted


def show_rules(book: FaultBook) -> JsonObject:
    """The book as JSON; scripted rules say how often they were taken."""
    script = [
        {**_shown(rule), "used": used} for rule, used in zip(book.script, book.used, strict=True)
    ]
    return {"seed": book.seed, "script": script, "random": [_shown(rule) for rule in book.random]}


def _shown(rule: Rule) -> JsonObject:
    values = {item.name: (getattr(rule, item.name), item.default) for item in fields(rule)}
    return {name: value for name, (value, default) in values.items() if value != default}
