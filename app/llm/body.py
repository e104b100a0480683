"""Requests as JSON bodies: the conversation as it is kept, with cache markers laid over it as it leaves.

A message is encoded once; a marker encodes the one message again that it is set on. Nothing here changes the
conversation itself, and nothing walks all of it.
"""

from dataclasses import replace

from app.llm.answers import to_json
from app.llm.provider import CacheMarks, JsonObject, ModelRequest

COMPACTION_EDIT, COMPACTION_BETA = "compact_20260112", "compact-2026-01-12"
_UNMARKABLE = frozenset({"thinking", "redacted_thinking"})
"""Blocks that carry no marker. Source: Messages API documentation, prompt caching."""


def request_body(request: ModelRequest) -> bytes:
    """The request as the JSON body of POST /v1/messages; equal requests give equal bytes.

    Raises:
        TypeError: a message or tool is not plain JSON.
    """
    head: JsonObject = {"model": request.model, "max_tokens": request.max_tokens}
    if request.compact_above_tokens is not None:
        trigger = {"type": "input_tokens", "value": request.compact_above_tokens}
        head["context_management"] = {"edits": [{"type": COMPACTION_EDIT, "trigger": trigger}]}
    return _body(head, request, b',"stream":true' if request.stream else b"")


def batch_params(request: ModelRequest, max_tokens: int) -> bytes:
    """The request as the `params` of a batch's item: in one piece, and nothing cached."""
    return request_body(replace(request, max_tokens=max_tokens, stream=False, marks=None))


def counting_body(request: ModelRequest) -> bytes:
    """The request as the JSON body of POST /v1/messages/count_tokens, which knows no caching."""
    return _joined({"model": request.model, **_prefix(request, None)}, _encoded(request), b"")


def _body(head: JsonObject, request: ModelRequest, tail: bytes) -> bytes:
    messages = _encoded(request)
    if request.marks is not None:
        control = cache_control(request.marks)
        for place in request.marks.messages:
            messages[place] = to_json(marked(request.messages[place], control))
    return _joined(head | _prefix(request, request.marks), messages, tail)


def _joined(head: JsonObject, messages: list[bytes], tail: bytes) -> bytes:
    return b"".join((to_json(head)[:-1], b',"messages":[', b",".join(messages), b"]", tail, b"}"))


def _encoded(request: ModelRequest) -> list[bytes]:
    done = request.encoded[: len(request.messages)]
    return [*done, *map(to_json, request.messages[len(done) :])]


def _prefix(request: ModelRequest, marks: CacheMarks | None) -> JsonObject:
    """System prompt and tools. One marker behind the system prompt covers the tools, which stand before it."""
    prefix: JsonObject = {}
    control = None if marks is None or not marks.prefix else cache_control(marks)
    if request.system is not None:
        prefix["system"] = request.system
        if control is not None and request.system:
            prefix["system"] = [{"type": "text", "text": request.system, "cache_control": control}]
    if request.tools:
        prefix["tools"] = request.tools
        if control is not None and not request.system:
            *others, last = request.tools
            prefix["tools"] = (*others, {**last, "cache_control": control})
        if request.tools_off:
            prefix["tool_choice"] = {"type": "none"}
    return prefix


def cache_control(marks: CacheMarks) -> JsonObject:
    """The marker itself; five minutes are what the provider assumes."""
    if marks.ttl == "5m":
        return {"type": "ephemeral"}
    return {"type": "ephemeral", "ttl": marks.ttl}


def marked(message: JsonObject, control: JsonObject) -> JsonObject:
    """The message with a marker on its last block that can carry one; as it is where none can.

    Text that is not in blocks is written as the one block that it is short for.
    """
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for place in range(len(blocks) - 1, -1, -1):
        block = blocks[place]
        if block["type"] not in _UNMARKABLE and block.get("text") != "":
            with_marker = {**block, "cache_control": control}
            return {**message, "content": [*blocks[:place], with_marker, *blocks[place + 1 :]]}
    return message
