"""A request's prompt in its documented order: tools, then system, then messages, block by block."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from app.simulator.errors import JsonObject
from app.simulator.models import Model
from app.simulator.tokens import MESSAGE_OVERHEAD, block_tokens, definition_tokens, hidden_tokens


class Part(NamedTuple):
    """One block of the prompt: whose it is (`tools`, `system` or a role), itself, its tokens."""

    owner: str
    block: JsonObject
    tokens: int


def as_blocks(content: Any) -> list[JsonObject]:
    """Content as blocks: a string is one text block."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    blocks: list[JsonObject] = content
    return blocks


def forced(request: JsonObject) -> bool:
    """Whether `tool_choice` forces a call."""
    return (request.get("tool_choice") or {}).get("type") in {"any", "tool"}


def parts(request: JsonObject, model: Model) -> Iterator[Part]:
    """The blocks of a checked request in cache order; the hidden tool prompt counts to the first tool."""
    tools = request.get("tools") or ()
    extra = model.forced_tool_prompt if forced(request) else model.tool_prompt
    for tool in tools:
        yield Part("tools", tool, definition_tokens(tool) + extra)
        extra = 0
    for block in as_blocks(request.get("system") or []):
        yield Part("system", block, block_tokens(block))
    for message in request["messages"]:
        extra = MESSAGE_OVERHEAD
        for block in as_blocks(message["content"]):
            tokens = block_tokens(block) + hidden_tokens(block, model) + extra
            yield Part(message["role"], block, tokens)
            extra = 0


def prompt_tokens(request: JsonObject, model: Model) -> int:
    """Tokens of the whole prompt."""
    return sum(part.tokens for part in parts(request, model))
