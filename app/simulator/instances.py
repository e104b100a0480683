"""Values that fit: a small instance of a JSON Schema, and sensible inputs for well-known tools."""

import re
from typing import Any

from app.simulator.errors import JsonObject, invalid

_DEPTH_LIMIT = 12
_NOTHING = object()
_ARITHMETIC = re.compile(r"\(?-?\d[\d.]*(?:\s*[-+*/x×÷%^]\s*[\d.(][\d.()]*)+")  # noqa: RUF001
_SIGNS = str.maketrans({"x": "*", "×": "*", "÷": "/"})  # noqa: RUF001
_ZONES = ("UTC", "Europe/Paris", "America/New_York", "Asia/Tokyo")
_FORMATS = {
    "date": "2026-01-31",
    "date-time": "2026-01-31T12:00:00Z",
    "time": "12:00:00Z",
    "email": "someone@example.com",
    "uri": "https://example.com/",
    "uuid": "00000000-0000-4000-8000-000000000000",
}


def arithmetic(text: str) -> str | None:
    """The first sum written in `text`, as a calculator takes it: "What is 12 x 7?" asks "12 * 7"."""
    found = _ARITHMETIC.search(text)
    return found.group().translate(_SIGNS).strip() if found else None


def tool_input(tool: JsonObject, question: str, number: int) -> JsonObject:
    """A valid input for `tool`; `number` tells the calls of one conversation apart."""
    match tool["name"]:
        case "calculator":
            return {"expression": arithmetic(question) or f"{number + 2} * {number + 7}"}
        case "current_time":
            return {"timezone": _ZONES[number % len(_ZONES)]}
        case "text_stats":
            return {"text": f"{question[:200] or 'Some text'} ({number})"}
        case _:
            made: JsonObject = instance(tool["input_schema"], number)
            return made


def instance(schema: Any, number: int = 0) -> Any:
    """A small instance of `schema`, required properties only; `number` varies it.

    Raises:
        ApiError: 400, the schema is not a JSON Schema the API would take.
    """
    try:
        return _instance(schema, number, schema, 0)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise invalid("input_schema: JSON schema is invalid") from None


def _instance(schema: Any, number: int, root: Any, depth: int) -> Any:
    if not isinstance(schema, dict) or depth > _DEPTH_LIMIT:
        return {}
    given = next((schema[name] for name in ("const", "default") if name in schema), _NOTHING)
    if given is not _NOTHING:
        return given
    if "$ref" in schema:
        return _instance(_resolve(schema["$ref"], root), number, root, depth + 1)
    for several in ("enum", "examples"):
        if schema.get(several):
            return schema[several][number % len(schema[several])]
    branches = schema.get("anyOf") or schema.get("oneOf") or schema.get("allOf")
    if branches:
        return _instance(branches[0], number, root, depth + 1)
    return _by_type(schema, number, root, depth)


def _by_type(schema: JsonObject, number: int, root: Any, depth: int) -> Any:
    kind = schema.get("type", "object" if "properties" in schema else "string")
    if isinstance(kind, list):
        kind = kind[0]
    match kind:
        case "object":
            known = schema.get("properties") or {}
            names = schema.get("required") or ()
            return {
                name: _instance(known.get(name, {"type": "string"}), number, root, depth + 1)
                for name in names
            }
        case "array":
            items = schema.get("items", {"type": "string"})
            count = schema.get("minItems", 0)
            return [_instance(items, number + i, root, depth + 1) for i in range(count)]
        case "integer" | "number":
            return _number(schema, number)
        case "boolean":
            return True
        case "null":
            return None
        case _:
            return _string(schema, number)


def _number(schema: JsonObject, number: int) -> Any:
    exclusive = schema.get("exclusiveMinimum")
    value = number + (schema.get("minimum", 0) if exclusive is None else exclusive + 1)
    highest = schema.get("maximum")
    return value if highest is None else min(value, highest)


def _string(schema: JsonObject, number: int) -> str:
    known = _FORMATS.get(schema.get("format", ""))
    if known is not None:
        return known
    text = f"example {number + 1}".ljust(schema.get("minLength", 0), ".")
    return text[: schema.get("maxLength", len(text))]


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(name.replace("~1", "/").replace("~0", "~"), {}) if found else {}
    return found
