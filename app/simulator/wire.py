"""An answer as bytes: one JSON message, or the events of a stream (documentation page "Streaming")."""

from collections.abc import Iterator

import orjson

from app.domain.record import record
from app.simulator.bill import usage_json
from app.simulator.errors import JsonObject
from app.simulator.fit import Answer
from app.simulator.prices import Meters

_PLACEHOLDER_TOKENS = 1
"""Output tokens that `message_start` states before there are any."""
_DELTA_CHARS = 40
_DELTA_LIMIT = 200
"""Deltas a block has at most: long ones come in bigger pieces."""
_DELTA_FIELDS = (
    "input_tokens",
    "cache_creation_input_tokens",
    "cache_read_input_tokens",
    "output_tokens",
    "output_tokens_details",
    "server_tool_use",
)
_PING = b'event: ping\ndata: {"type": "ping"}\n\n'


@record(frozen=True, slots=True)
class Envelope:
    """What surrounds an answer; `usage` None leaves it out."""

    message_id: str
    model: str
    usage: JsonObject | None


def usage_of(
    meters: Meters, answer: Answer, *, geo: str, speed: str, tier: str = "standard"
) -> JsonObject:
    """The usage an answer reports."""
    fetched = {"web_search_requests": 0, "web_fetch_requests": answer.web_fetches}
    return {
        **usage_json(meters),
        "server_tool_use": fetched if answer.web_fetches else None,
        "service_tier": tier,
        "inference_geo": geo,
        "speed": speed,
    }


def message_json(envelope: Envelope, answer: Answer) -> JsonObject:
    """The message as one JSON object."""
    message: JsonObject = {
        "id": envelope.message_id,
        "type": "message",
        "role": "assistant",
        "model": envelope.model,
        "content": answer.blocks,
        "stop_reason": answer.stop_reason,
        "stop_sequence": answer.stop_sequence,
        "stop_details": answer.stop_details,
        "container": None,
        "diagnostics": None,
    }
    if envelope.usage is not None:
        message["usage"] = envelope.usage
    return message


def event(payload: JsonObject) -> bytes:
    """One server-sent event."""
    return b"event: %s\ndata: %s\n\n" % (payload["type"].encode(), orjson.dumps(payload))


def stream_events(envelope: Envelope, answer: Answer) -> Iterator[bytes]:
    """The answer as the events of a stream, one piece of bytes each."""
    yield event({"type": "message_start", "message": _opening(envelope, answer)})
    yield _PING
    for index, block in enumerate(answer.blocks):
        last = index == len(answer.blocks) - 1
        yield from _block_events(index, block, answer.broken_input if last else None)
    closing: JsonObject = {
        "type": "message_delta",
        "delta": {
            "stop_reason": answer.stop_reason,
            "stop_sequence": answer.stop_sequence,
            "stop_details": answer.stop_details,
            "container": None,
        },
    }
    if envelope.usage is not None:
        closing["usage"] = {name: envelope.usage[name] for name in _DELTA_FIELDS}
        if "iterations" in envelope.usage:
            closing["usage"]["iterations"] = envelope.usage["iterations"]
    yield event(closing)
    yield event({"type": "message_stop"})


def _opening(envelope: Envelope, answer: Answer) -> JsonObject:
    message = message_json(envelope, answer)
    message.update(content=[], stop_reason=None, stop_sequence=None, stop_details=None)
    if envelope.usage is not None:
        placeholder = {"output_tokens": _PLACEHOLDER_TOKENS, "output_tokens_details": None}
        if envelope.usage["output_tokens"] is None:
            placeholder = {}
        begun = {name: value for name, value in envelope.usage.items() if name != "iterations"}
        message["usage"] = {**begun, **placeholder, "server_tool_use": None}
    return message


def _block_events(index: int, block: JsonObject, broken_input: str | None) -> Iterator[bytes]:
    empty, deltas = _deltas(block, broken_input)
    yield event({"type": "content_block_start", "index": index, "content_block": empty})
    for delta in deltas:
        yield event({"type": "content_block_delta", "index": index, "delta": delta})
    yield event({"type": "content_block_stop", "index": index})


def _deltas(block: JsonObject, broken_input: str | None) -> tuple[JsonObject, list[JsonObject]]:
    match block["type"]:
        case "text":
            pieces = _split(block["text"])
            return {**block, "text": ""}, [{"type": "text_delta", "text": p} for p in pieces]
        case "tool_use" | "server_tool_use":
            written = broken_input or orjson.dumps(block["input"]).decode()
            deltas = [{"type": "input_json_delta", "partial_json": p} for p in _split(written)]
            return {**block, "input": {}}, [
                {"type": "input_json_delta", "partial_json": ""},
                *deltas,
            ]
        case "thinking":
            delta = {"type": "signature_delta", "signature": block["signature"]}
            return {**block, "signature": ""}, [delta]
        case "compaction":
            return {**block, "content": None}, [{**block, "type": "compaction_delta"}]
        case _:
            return block, []


def _split(text: str) -> list[str]:
    size = max(_DELTA_CHARS, -(-len(text) // _DELTA_LIMIT))
    return [text[at : at + size] for at in range(0, len(text), size)]
