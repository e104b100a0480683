"""What a model answered: a Messages API message, checked once, and the two things the loop asks of it."""

import json
from typing import Any

import orjson

from app.domain.record import record
from app.llm.failures import malformed_answer
from app.llm.provider import JsonObject, ModelAnswer
from app.llm.usage import WriteLifetime, read_usage

UNREADABLE = "unreadable"
"""Stands for the name of a tool call that has none."""


@record(frozen=True, slots=True)
class ToolUse:
    """One client tool call of an answer."""

    id: str
    name: str
    input: JsonObject
    malformed: bool = False
    """Id, name or input is missing or of the wrong type (a cut-off input is text): never run it.

    The fields then hold what could be read, else "" and {}.
    """


class _NotAMessageError(ValueError):
    """The reason, in words."""


def parse_answer(
    raw: bytes, request_id: str | None, *, unsplit_writes: WriteLifetime = "1h"
) -> ModelAnswer:
    """Read a message that came as one JSON document.

    `unsplit_writes` is how long its cache writes live, where the report does not say.

    Raises:
        ModelFailure: `malformed_answer`, when `raw` is not a Messages API message.
    """
    try:
        found = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        reason = f"{len(raw)} bytes that are not JSON"
        raise malformed_answer(reason, request_id=request_id) from error
    return answer_of(found, raw, request_id, unsplit_writes=unsplit_writes)


def answer_of(
    message: object, raw: bytes, request_id: str | None, *, unsplit_writes: WriteLifetime = "1h"
) -> ModelAnswer:
    """The answer in a message already parsed; `raw` is that message as JSON.

    Content blocks are kept as they are, those of unknown types too. A usage report that cannot be
    trusted becomes None.

    Raises:
        ModelFailure: `malformed_answer`, when it is not a Messages API message.
    """
    try:
        return _answer(message, raw, request_id, unsplit_writes)
    except _NotAMessageError as error:
        raise malformed_answer(str(error), request_id=request_id) from error


def text_of(answer: ModelAnswer) -> str:
    """The text of all text blocks, joined; thinking, which often comes first, is not text."""
    return "".join(block["text"] for block in answer.content if block["type"] == "text")


def tool_uses(answer: ModelAnswer) -> list[ToolUse]:
    """The client tool calls, in order; calls to the provider's own tools are not among them."""
    return [_tool_use(block) for block in answer.content if block["type"] == "tool_use"]


def sendable(blocks: list[JsonObject]) -> list[JsonObject]:
    """The blocks as they can be sent back: a tool call that could not be read goes with a name and no arguments."""
    if all(_is_readable(block) for block in blocks if block["type"] == "tool_use"):
        return blocks
    return [
        block
        if block["type"] != "tool_use" or _is_readable(block)
        else {**block, "name": _name_of(block), "input": _input_of(block)}
        for block in blocks
    ]


def _is_readable(call: JsonObject) -> bool:
    return (
        isinstance(call.get("name"), str)
        and bool(call["name"])
        and isinstance(call.get("input"), dict)
    )


def _name_of(call: JsonObject) -> str:
    name = call.get("name")
    return name if isinstance(name, str) and name else UNREADABLE


def _input_of(call: JsonObject) -> JsonObject:
    arguments = call.get("input")
    return arguments if isinstance(arguments, dict) else {}


def to_json(value: object) -> bytes:
    """`value` as compact JSON, its keys in the order they have.

    Raises:
        TypeError: it is not plain JSON.
    """
    try:
        return orjson.dumps(value)
    except orjson.JSONEncodeError:
        # Deep nesting, wide integers and lone surrogates are JSON all the same.
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def _answer(
    message: object, raw: bytes, request_id: str | None, unsplit_writes: WriteLifetime
) -> ModelAnswer:
    if not isinstance(message, dict):
        raise _NotAMessageError("not a JSON object")
    if message.get("type") != "message":
        raise _NotAMessageError('its type is not "message"')
    model = message.get("model")
    if not isinstance(model, str) or not model:
        raise _NotAMessageError("no model")
    return ModelAnswer(
        model=model,
        content=_content(message.get("content")),
        stop_reason=_optional(message, "stop_reason", str),
        usage=read_usage(message.get("usage"), model, unsplit_writes=unsplit_writes),
        raw=raw,
        request_id=request_id,
        stop_details=_optional(message, "stop_details", dict),
    )


def _content(blocks: object) -> list[JsonObject]:
    if not isinstance(blocks, list):
        raise _NotAMessageError("its content is not a list")
    for block in blocks:
        if not isinstance(block, dict) or not isinstance(block.get("type"), str):
            raise _NotAMessageError("a content block without a type")
        if block["type"] == "text" and not isinstance(block.get("text"), str):
            raise _NotAMessageError("a text block without text")
    return blocks


def _optional(message: JsonObject, key: str, kind: type) -> Any:
    value = message.get(key)
    if value is not None and not isinstance(value, kind):
        raise _NotAMessageError(f"its {key} is of the wrong type")
    return value


def _tool_use(block: JsonObject) -> ToolUse:
    call_id, name, arguments = block.get("id"), block.get("name"), block.get("input")
    whole = (
        isinstance(call_id, str)
        and isinstance(name, str)
        and isinstance(arguments, dict)
        and bool(call_id and name)
    )
    return ToolUse(
        id=call_id if isinstance(call_id, str) else "",
        name=name if isinstance(name, str) else "",
        input=arguments if isinstance(arguments, dict) else {},
        malformed=not whole,
    )
