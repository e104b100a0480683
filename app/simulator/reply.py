"""A reply plan: what to send, when, and how it ends. Whoever carries it out needs no other knowledge."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import orjson

from app.simulator.errors import ApiError, JsonObject
from app.simulator.faults import Fault, Kind
from app.simulator.wire import event

SIMULATED = {"x-simulated": "bursar"}


class Ending(StrEnum):
    """How a reply ends."""

    WHOLE = "whole"
    """All of it is sent."""
    SHORT = "short"
    """It ends properly, but is no whole answer: half a JSON text, a stream that stops early."""
    CUT = "cut"
    """The connection is cut after `pieces`."""
    SILENT = "silent"
    """The connection is cut before the first byte."""


_ENDINGS = {
    Kind.TIMEOUT: Ending.SILENT,
    Kind.CUT_BEFORE_HEADERS: Ending.SILENT,
    Kind.CUT_MID_BODY: Ending.CUT,
    Kind.CUT_MID_STREAM: Ending.CUT,
    Kind.TRUNCATE_JSON: Ending.SHORT,
    Kind.STREAM_EOF: Ending.SHORT,
    Kind.STREAM_ERROR: Ending.SHORT,
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What to do about one request: wait `delay_s`, send the head, then `pieces`, `pause_s` apart.

    `length` is the content-length to state, None for a stream. Call `delivered` after the last byte of a
    WHOLE reply was handed over, and only then: it notes the delivery on the bill.
    """

    status: int
    headers: dict[str, str]
    pieces: Sequence[bytes]
    length: int | None
    delay_s: float = 0.0
    pause_s: float = 0.0
    ending: Ending = Ending.WHOLE
    delivered: Callable[[], None] | None = None


def json_reply(status: int, value: JsonObject, headers: dict[str, str]) -> Reply:
    """A plain JSON reply."""
    body = orjson.dumps(value)
    return Reply(status, {**headers, "content-type": "application/json"}, (body,), len(body))


def error_reply(error: ApiError, request_id: str) -> Reply:
    """An error in the API's shape."""
    headers = {"request-id": request_id, **SIMULATED, **error.headers}
    return json_reply(error.status, error.body(request_id), headers)


def html_reply(status: int, request_id: str) -> Reply:
    """What a proxy says when it cannot reach the API."""
    body = b"<html><head><title>Bad Gateway</title></head><body><h1>Bad Gateway</h1></body></html>"
    headers = {"request-id": request_id, **SIMULATED, "content-type": "text/html"}
    return Reply(status, headers, (body,), len(body), ending=Ending.SHORT)


def shaped(reply: Reply, fault: Fault) -> Reply:
    """The reply as `fault` leaves it."""
    reply = replace(reply, delay_s=fault.delay_s, pause_s=fault.pause_s)
    ending = _ENDINGS.get(fault.kind)
    if ending is None:
        if fault.rule is not None and fault.kind is Kind.SLOW_BODY and reply.length is not None:
            return replace(reply, pieces=_parted(reply.pieces[0], fault.rule.pieces))
        return reply
    if ending is Ending.SILENT:
        return replace(reply, pieces=(), ending=ending)
    if reply.length is not None:
        half = reply.pieces[0][: reply.length // 2]
        length = len(half) if ending is Ending.SHORT else reply.length
        return replace(reply, pieces=(half,), length=length, ending=ending)
    pieces = list(reply.pieces[: len(reply.pieces) // 2])
    if fault.kind is Kind.STREAM_ERROR:
        pieces.append(_overloaded(reply.headers["request-id"]))
    return replace(reply, pieces=pieces, ending=ending)


def _overloaded(request_id: str) -> bytes:
    return event(ApiError(529, "overloaded_error", "Overloaded").body(request_id))


def _parted(body: bytes, count: int) -> list[bytes]:
    size = max(1, -(-len(body) // count))
    return [body[at : at + size] for at in range(0, len(body), size)]
