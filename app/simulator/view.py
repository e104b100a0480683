"""What the simulator makes of a conversation: who governs it, how far it has come, what was asked last."""

from hashlib import blake2b
from typing import Any

from app.domain.record import record
from app.simulator.directive import OPENING, Directive, find_directive, without_directive
from app.simulator.errors import JsonObject, require
from app.simulator.prompt import as_blocks
from app.simulator.turns import pending_server_call


@record(frozen=True, slots=True)
class View:
    """A conversation as the answerer sees it."""

    directive: Directive | None
    rounds: int
    """Rounds of tool calls since the directive, or since the question when there is none."""
    question: str
    """The latest text of the user, without directive."""
    results: tuple[str, ...]
    """Texts of the tool results in the last message."""
    resumed_call: str | None
    """The server tool's call that a paused turn, sent back to be continued, has left open."""
    tools: tuple[JsonObject, ...]
    """The client's tools, those that `tool_choice` leaves open."""
    forced: bool
    parallel_limit: int


def look(request: JsonObject) -> View:
    """Read a checked request.

    Raises:
        ApiError: 400, its directive is not well-formed, or thinking it governs was left out.
    """
    messages = request["messages"]
    governing, directive = _directive(messages)
    question_at, question = _question(messages)
    start = governing if directive else question_at
    calls = [index for index in range(start, len(messages)) if _calls_tools(messages[index])]
    if directive and directive.thinking:
        _require_thinking(messages, calls, call_tag(request["model"]))
    choice = request.get("tool_choice") or {}
    return View(
        directive=directive,
        rounds=len(calls),
        question=question,
        results=tuple(_result_texts(messages[-1])),
        resumed_call=pending_server_call(messages[-1]),
        tools=_client_tools(request, choice),
        forced=choice.get("type") in {"any", "tool"},
        parallel_limit=1 if choice.get("disable_parallel_tool_use") else 100,
    )


def _texts(message: JsonObject) -> str:
    content = message["content"]
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


def _directive(messages: list[JsonObject]) -> tuple[int, Directive | None]:
    for index in range(len(messages) - 1, -1, -1):
        if messages[index]["role"] == "user":
            text = _texts(messages[index])
            if OPENING in text:
                return index, find_directive(text)
    return 0, None


def _question(messages: list[JsonObject]) -> tuple[int, str]:
    for index in range(len(messages) - 1, -1, -1):
        message = messages[index]
        if message["role"] == "user" and not _has(message, "tool_result"):
            return index, without_directive(_texts(message))
    return 0, ""


def _has(message: JsonObject, kind: str) -> bool:
    content = message["content"]
    return not isinstance(content, str) and any(block["type"] == kind for block in content)


def _calls_tools(message: JsonObject) -> bool:
    return message["role"] == "assistant" and _has(message, "tool_use")


def call_tag(model: str) -> str:
    """The end of a tool call's id: which model made the call."""
    return blake2b(model.encode(), digest_size=2).hexdigest()


def _require_thinking(messages: list[JsonObject], calls: list[int], tag: str) -> None:
    """This model's turns must come back with their thinking; another model's is taken out before it goes on."""
    for index in calls:
        blocks = as_blocks(messages[index]["content"])
        if not any(b["type"] == "tool_use" and str(b["id"]).endswith(tag) for b in blocks):
            continue
        kind = blocks[0]["type"]
        require(
            kind in {"thinking", "redacted_thinking"},
            f"messages.{index}.content.0.type: Expected `thinking` or `redacted_thinking`, but found"
            f" `{kind}`. Thinking blocks must be sent back unchanged.",
        )


def _result_texts(message: JsonObject) -> list[str]:
    if message["role"] != "user" or isinstance(message["content"], str):
        return []
    return [
        _plain(block.get("content"))
        for block in message["content"]
        if block["type"] == "tool_result"
    ]


def _plain(content: Any) -> str:
    if isinstance(content, str):
        return content
    return " ".join(part["text"] for part in content or () if part["type"] == "text")


def _client_tools(request: JsonObject, choice: JsonObject) -> tuple[JsonObject, ...]:
    if choice.get("type") == "none":
        return ()
    tools = [tool for tool in request.get("tools") or () if tool.get("type", "custom") == "custom"]
    if choice.get("type") == "tool":
        tools = [tool for tool in tools if tool["name"] == choice["name"]]
    return tuple(tools)
