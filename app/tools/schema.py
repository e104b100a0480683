"""Arguments against a hand-written JSON Schema: the part of the vocabulary that tools use.

Checked: type, enum, const, properties, required, additionalProperties, items, the length and number
bounds, anyOf, oneOf (as anyOf) and allOf. Everything else is left to the tool; `pattern` on purpose,
because a pattern from a foreign server can take for ever to match.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from app.tools.errors import InvalidArgumentsError

JsonObject = dict[str, Any]

_PROBLEMS_SHOWN = 5
_SHOWN = 80


def check_arguments(schema: Mapping[str, Any], arguments: JsonObject) -> JsonObject:
    """The arguments, unchanged.

    Raises:
        InvalidArgumentsError: with one line for each of the first five problems.
    """
    try:
        found = list(_problems(schema, arguments, ""))
    except RecursionError:
        found = ["arguments: nested too deeply"]
    if found:
        more = [f"and {len(found) - _PROBLEMS_SHOWN} more"] if len(found) > _PROBLEMS_SHOWN else []
        raise InvalidArgumentsError("; ".join(found[:_PROBLEMS_SHOWN] + more))
    return arguments


def _problems(schema: Any, value: Any, path: str) -> Iterator[str]:
    if not isinstance(schema, Mapping):  # true or false
        if schema is False:
            yield f"{_at(path)}: there is no such argument"
        return
    wanted = schema.get("type")
    if wanted is not None and not _has_type(value, wanted):
        yield f"{_at(path)}: should be of type {_type_words(wanted)}"
        return
    yield from _choice_problems(schema, value, path)
    yield from _bound_problems(schema, value, path)
    if isinstance(value, dict):
        yield from _object_problems(schema, value, path)
    if isinstance(value, list) and "items" in schema:
        for index, item in enumerate(value):
            yield from _problems(schema["items"], item, f"{path}[{index}]")
    yield from _branch_problems(schema, value, path)


def _choice_problems(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    if "enum" in schema and not any(_same(value, choice) for choice in schema["enum"]):
        choices = ", ".join(repr(choice)[:_SHOWN] for choice in schema["enum"][:20])
        yield f"{_at(path)}: should be one of {choices}"
    if "const" in schema and not _same(value, schema["const"]):
        yield f"{_at(path)}: should be {schema['const']!r:.{_SHOWN}}"


def _object_problems(schema: Mapping[str, Any], value: JsonObject, path: str) -> Iterator[str]:
    properties = schema.get("properties", {})
    for name in schema.get("required", ()):
        if name not in value:
            yield f"{_at(_join(path, name))}: is required"
    for name, item in value.items():
        rule = properties.get(name, schema.get("additionalProperties", True))
        yield from _problems(rule, item, _join(path, name))


def _branch_problems(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    for branch in schema.get("allOf", ()):
        yield from _problems(branch, value, path)
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if branches and all(any(True for _ in _problems(b, value, path)) for b in branches):
            yield f"{_at(path)}: fits none of the {len(branches)} allowed forms"


_Bound = Callable[[Any, Any], bool]
_BOUNDS: dict[str, tuple[str, _Bound, str]] = {
    "minimum": ("number", lambda value, bound: value >= bound, "at least"),
    "maximum": ("number", lambda value, bound: value <= bound, "at most"),
    "exclusiveMinimum": ("number", lambda value, bound: value > bound, "above"),
    "exclusiveMaximum": ("number", lambda value, bound: value < bound, "below"),
    "minLength": ("string", lambda value, bound: len(value) >= bound, "of length at least"),
    "maxLength": ("string", lambda value, bound: len(value) <= bound, "of length at most"),
    "minItems": ("array", lambda value, bound: len(value) >= bound, "of length at least"),
    "maxItems": ("array", lambda value, bound: len(value) <= bound, "of length at most"),
}


def _bound_problems(schema: Mapping[str, Any], value: Any, path: str) -> Iterator[str]:
    for keyword, (kind, holds, words) in _BOUNDS.items():
        if keyword in schema and _has_type(value, kind) and not holds(value, schema[keyword]):
            yield f"{_at(path)}: should be {words} {schema[keyword]}"


def _has_type(value: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return any(_has_type(value, one) for one in wanted)
    test = _TYPES.get(wanted)
    return test is None or test(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: Any) -> bool:
    return _is_number(value) and value == int(value)


_TYPES: dict[str, Callable[[Any], bool]] = {
    "object": lambda value: isinstance(value, dict),
    "array": lambda value: isinstance(value, list),
    "string": lambda value: isinstance(value, str),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "number": _is_number,
    "integer": _is_integer,
}


def _same(left: Any, right: Any) -> bool:
    """Equal as JSON: true is not 1."""
    return isinstance(left, bool) == isinstance(right, bool) and bool(left == right)


def _type_words(wanted: Any) -> str:
    return " or ".join(wanted) if isinstance(wanted, list) else str(wanted)


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else str(name)


def _at(path: str) -> str:
    return path[:_SHOWN] or "arguments"
