"""Deterministic token counts: one token for each four UTF-8 bytes begun, plus small fixed overheads.

A count never exceeds the bytes counted plus the overheads below, so a client that bounds a prompt by
its byte length is never surprised. Opaque blocks (images, files, hidden thinking) are the exception,
here as at the real API: their cost has nothing to do with their bytes.
"""

from collections.abc import Callable
from typing import Any

import orjson

from app.simulator.errors import JsonObject
from app.simulator.models import Model

BYTES_PER_TOKEN = 4
BLOCK_OVERHEAD = 2
"""Tokens added for each content block, system block and tool definition."""
MESSAGE_OVERHEAD = 3
"""Tokens added for each message."""
IMAGE_TOKENS = 1_500
"""Every image, whatever its size."""
FILE_TOKENS = 3_000
"""Every document that is not plain text."""


def text_tokens(text: str) -> int:
    """Tokens of a text."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def json_tokens(value: Any) -> int:
    """Tokens of a JSON value, written compactly."""
    return -(-len(orjson.dumps(value)) // BYTES_PER_TOKEN)


def _result_tokens(block: JsonObject) -> int:
    content = block.get("content") or ""
    if isinstance(content, str):
        return text_tokens(content)
    return sum(block_tokens(part) for part in content)


def _document_tokens(block: JsonObject) -> int:
    source = block.get("source") or {}
    text = source.get("data") if source.get("type") == "text" else None
    return text_tokens(text) if isinstance(text, str) else FILE_TOKENS


def _call_tokens(block: JsonObject) -> int:
    return text_tokens(str(block.get("name", ""))) + json_tokens(block.get("input", {}))


def _other_tokens(block: JsonObject) -> int:
    return json_tokens({name: value for name, value in block.items() if name != "cache_control"})


_COUNTERS: dict[str, Callable[[JsonObject], int]] = {
    "text": lambda block: text_tokens(block["text"]),
    "tool_use": _call_tokens,
    "server_tool_use": _call_tokens,
    "tool_result": _result_tokens,
    "document": _document_tokens,
    "image": lambda _: IMAGE_TOKENS,
    "thinking": lambda _: 0,
    "redacted_thinking": lambda _: 0,
}


def block_tokens(block: JsonObject) -> int:
    """Tokens of one content block, overhead included; thinking counts nothing but its overhead here."""
    return BLOCK_OVERHEAD + _COUNTERS.get(block["type"], _other_tokens)(block)


def hidden_tokens(block: JsonObject, model: Model) -> int:
    """Tokens a checked thinking block adds to the prompt: its hidden length, if the model keeps it."""
    if block["type"] != "thinking" or not model.keeps_thinking:
        return 0
    name, tokens, *_ = block["signature"].split(":")
    return int(tokens) if name == model.name else 0


def definition_tokens(definition: JsonObject) -> int:
    """Tokens of one tool definition, overhead included."""
    return BLOCK_OVERHEAD + _other_tokens(definition)
