"""Checks of a conversation's shape: roles, blocks, and the order of tool calls and their results."""

from typing import Any

from app.simulator.errors import JsonObject, invalid, require
from app.simulator.models import Model
from app.simulator.prompt import as_blocks

MESSAGE_LIMIT = 100_000
_USER_BLOCKS = {"text", "image", "document", "search_result", "tool_result", "container_upload"}
_RESULT_BLOCKS = {
    "text",
    "image",
    "document",
    "search_result",
    "tool_reference",
    "browser_state",
}
_ROLES = ("user", "assistant", "system")


def check_turns(messages: Any, model: Model) -> None:
    """Check `messages` as the API does.

    Raises:
        ApiError: 400, in the API's words where they are known.
    """
    require(isinstance(messages, list), "messages: Input should be a valid list")
    require(messages, "messages: at least one message is required")
    require(len(messages) <= MESSAGE_LIMIT, f"messages: at most {MESSAGE_LIMIT} messages")
    for index, message in enumerate(messages):
        _check_message(message, f"messages.{index}", model)
    require(messages[0]["role"] != "assistant", 'messages: first message must use the "user" role')
    _check_calls(messages)
    last = messages[-1]
    if last["role"] == "assistant" and not model.prefill and not pending_server_call(last):
        raise invalid(
            "This model does not support assistant message prefill."
            " The conversation must end with a user message."
        )


def pending_server_call(message: JsonObject) -> str | None:
    """Id of a server tool's call the message leaves open: what a paused turn looks like."""
    blocks = as_blocks(message["content"])
    answered = {block["tool_use_id"] for block in blocks if "tool_use_id" in block}
    for block in blocks:
        if block["type"] == "server_tool_use" and block["id"] not in answered:
            return str(block["id"])
    return None


def _check_message(message: Any, where: str, model: Model) -> None:
    require(isinstance(message, dict), f"{where}: Input should be an object")
    require("role" in message, f"{where}.role: Field required")
    require("content" in message, f"{where}.content: Field required")
    role, content = message["role"], message["content"]
    known = role in _ROLES and (role != "system" or model.system_turns)
    require(known, f"{where}.role: Unexpected role {role!r}. Allowed: 'user' or 'assistant'")
    if isinstance(content, str):
        require(content, f"{where}: {role} messages must have non-empty content")
        return
    require(isinstance(content, list), f"{where}.content: Input should be a string or a list")
    require(content, f"{where}: {role} messages must have non-empty content")
    for position, block in enumerate(content):
        _check_block(block, role, f"{where}.content.{position}")


def _check_block(block: Any, role: str, where: str) -> None:
    require(isinstance(block, dict), f"{where}: Input should be an object")
    kind = block.get("type")
    require(isinstance(kind, str), f"{where}.type: Field required")
    if role == "assistant":
        require(kind != "document", f"{where}: `document` blocks are not allowed here")
        require(
            kind != "tool_result", f"{where}: `tool_result` blocks can only be in user messages"
        )
    else:
        allowed = _RESULT_BLOCKS if role == "result" else _USER_BLOCKS
        require(
            role == "system" or kind in allowed,
            f"{where}.type: Input tag {kind!r} is not allowed here",
        )
    _check_fields(block, kind, role, where)


def _check_fields(block: JsonObject, kind: Any, role: str, where: str) -> None:
    if kind == "text":
        text = block.get("text")
        require(isinstance(text, str), f"{where}.text: Input should be a valid string")
        require(text, f"{where}: text content blocks must be non-empty")
        require(
            role == "assistant" or not block.get("citations"),
            f"{where}: citations are not allowed on text blocks in user messages",
        )
    elif kind in {"tool_use", "server_tool_use"}:
        require(isinstance(block.get("id"), str), f"{where}.id: Field required")
        require(isinstance(block.get("name"), str), f"{where}.name: Field required")
        require(isinstance(block.get("input"), dict), f"{where}.input: Input should be an object")
    elif kind == "tool_result":
        require(isinstance(block.get("tool_use_id"), str), f"{where}.tool_use_id: Field required")
        _check_result(block.get("content"), where)
    elif kind in {"image", "document"}:
        require(isinstance(block.get("source"), dict), f"{where}.source: Field required")


def _check_result(content: Any, where: str) -> None:
    if content is None or isinstance(content, str):
        return
    require(isinstance(content, list), f"{where}.content: Input should be a string or a list")
    for position, part in enumerate(content):
        _check_block(part, "result", f"{where}.content.{position}")


def _merged(messages: list[JsonObject]) -> list[tuple[int, str, list[JsonObject]]]:
    turns: list[tuple[int, str, list[JsonObject]]] = []
    for index, message in enumerate(messages):
        if turns and turns[-1][1] == message["role"]:
            turns[-1][2].extend(as_blocks(message["content"]))
        else:
            turns.append((index, message["role"], list(as_blocks(message["content"]))))
    return turns


def _check_calls(messages: list[JsonObject]) -> None:
    waiting: list[str] = []
    for index, role, blocks in _merged(messages):
        if role == "assistant":
            waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
            unique = len(set(waiting)) == len(waiting)
            require(unique, f"messages.{index}: `tool_use` ids must be unique")
        elif role == "user":
            _check_results(waiting, blocks, index)
            waiting = []
    if waiting:
        raise _unanswered(waiting, len(messages) - 1)


def _check_results(waiting: list[str], blocks: list[JsonObject], index: int) -> None:
    answered: list[str] = []
    for position, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        where, call_id = f"messages.{index}.content.{position}", block["tool_use_id"]
        require(
            call_id in waiting,
            f"{where}: unexpected `tool_use_id` found in `tool_result` blocks: {call_id}. Each"
            " `tool_result` block must have a corresponding `tool_use` block in the previous message.",
        )
        require(call_id not in answered, f"{where}: each `tool_use` must have a single result")
        require(position == len(answered), f"{where}: `tool_result` blocks must come first")
        answered.append(call_id)
    missing = [call_id for call_id in waiting if call_id not in answered]
    if missing:
        raise _unanswered(missing, index - 1)


def _unanswered(ids: list[str], index: int) -> Exception:
    return invalid(
        f"messages.{index}: `tool_use` ids were found without `tool_result` blocks immediately after:"
        f" {', '.join(ids)}. Each `tool_use` block must have a corresponding `tool_result` block in the"
        " next message."
    )
