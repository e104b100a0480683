"""A reply plan: what to send, when, and how it ends. Whoever carries it out needs no other knowledge."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum

import orjson

from app.domain.record import record
from app.simulator.errors import ApiError, JsonObject
from app.simulator.faults import Fault, Kind
from app.simulator.mangle import FILLING, FILLING_EVENT, MANGLES, first_part, parted
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
    ENDLESS = "endless"
    """After the pieces `filling` follows, again and again, until the client has gone."""


_ENDINGS = {
    Kind.TIMEOUT: Ending.SILENT,
    Kind.CUT_BEFORE_HEADERS: Ending.SILENT,
    Kind.CUT_MID_BODY: Ending.CUT,
    Kind.CUT_MID_STREAM: Ending.CUT,
    Kind.TRUNCATE_JSON: Ending.SHORT,
    Kind.STREAM_EOF: Ending.SHORT,
    Kind.STREAM_ERROR: Ending.SHORT,
    Kind.STALL: Ending.CUT,
    Kind.ENDLESS: Ending.ENDLESS,
    Kind.GZIP_BOMB: Ending.SHORT,
    Kind.EMPTY_BODY: Ending.SHORT,
    Kind.INVALID_UTF8: Ending.SHORT,
    Kind.DUPLICATE_EVENTS: Ending.SHORT,
    Kind.REORDERED_EVENTS: Ending.SHORT,
}


@record(frozen=True, slots=True)
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
    stall_s: float = 0.0
    """Before the cut."""
    filling: bytes = b""
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
    reply = replace(reply, delay_s=fault.delay_s, pause_s=fault.pause_s, stall_s=fault.stall_s)
    rule, pieces = fault.rule, tuple(reply.pieces)
    if rule is None:
        return reply
    ending = _ENDINGS.get(rule.kind, Ending.WHOLE)
    match rule.kind:
        case Kind.SLOW_BODY if reply.length is not None:
            made: Sequence[bytes] = parted(pieces[0], rule.pieces)
        case Kind.CUT_MID_BODY | Kind.CUT_MID_STREAM | Kind.STALL | Kind.TRUNCATE_JSON:
            made = first_part(pieces, rule.after_bytes)
        case Kind.STREAM_EOF:
            made = pieces[: len(pieces) // 2]
        case Kind.STREAM_ERROR:
            made = (*pieces[: len(pieces) // 2], _overloaded(reply.headers["request-id"]))
        case _ if ending is Ending.SILENT:
            made = ()
        case _:
            return _mangled(reply, pieces, rule.kind, ending)
    stated = None if reply.length is None else reply.length
    if stated is not None and ending is Ending.SHORT:
        stated = sum(map(len, made))
    return replace(reply, pieces=made, length=stated, ending=ending)


def _mangled(reply: Reply, pieces: tuple[bytes, ...], kind: Kind, ending: Ending) -> Reply:
    """A reply whose bytes are not what they should be."""
    plain = reply.length is not None
    if kind is Kind.ENDLESS:
        begun = first_part(pieces, 1 if plain else None)
        filling = FILLING if plain else FILLING_EVENT
        return replace(reply, pieces=begun, length=None, ending=ending, filling=filling)
    made = MANGLES[kind](pieces) if kind in MANGLES else pieces
    headers = reply.headers
    if kind is Kind.GZIP_BOMB:
        headers = {**headers, "content-encoding": "gzip"}
    length = sum(map(len, made)) if plain else None
    return replace(reply, headers=headers, pieces=made, length=length, ending=ending)


def _overloaded(request_id: str) -> bytes:
    return event(ApiError(529, "overloaded_error", "Overloaded").body(request_id))
