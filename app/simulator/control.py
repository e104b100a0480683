"""The simulator's own endpoints, under /simulator/: its bill, its faults, what it was asked.

GET /simulator/bill (`?lines=0`: totals only) · POST /simulator/reset · GET and PUT /simulator/faults ·
GET /simulator/requests (`?limit=`, `?after=` a number) · /simulator/batches (see `app.simulator.batch_control`). They need no key: the simulator is for loopback.
"""

from typing import Protocol
from urllib.parse import parse_qs

import orjson

from app.simulator.batch_control import batch_control
from app.simulator.batches import Batches
from app.simulator.bill import Bill
from app.simulator.errors import ApiError, JsonObject
from app.simulator.fault_rules import load_rules, show_rules
from app.simulator.faults import FaultBook
from app.simulator.log import KEPT, RequestLog
from app.simulator.reply import SIMULATED, Reply, error_reply, json_reply

_DEFAULT_LIMIT = 50
_LAST = 10**12
_NO_REQUEST_ID = "req_simulator"


class Books(Protocol):
    """What the endpoints show and change."""

    bill: Bill
    faults: FaultBook
    log: RequestLog
    batches: Batches

    def reset(self) -> None: ...


def control(books: Books, method: str, path: str, query: str, body: bytes) -> Reply:
    """The reply to one request under /simulator/."""
    try:
        shown = _shown(books, method, path, parse_qs(query), body)
    except ApiError as error:
        return error_reply(error, _NO_REQUEST_ID)
    return json_reply(200, shown, dict(SIMULATED))


def _shown(
    books: Books, method: str, path: str, query: dict[str, list[str]], body: bytes
) -> JsonObject:
    match method, path:
        case "GET", "/simulator/bill":
            return books.bill.as_json(with_lines=query.get("lines", ["1"])[-1] != "0")
        case "POST", "/simulator/reset":
            books.reset()
            return {"reset": True}
        case "GET", "/simulator/faults":
            return show_rules(books.faults)
        case "PUT", "/simulator/faults":
            load_rules(books.faults, _json(body))
            return show_rules(books.faults)
        case "GET", "/simulator/requests":
            limit = _whole(query, "limit", _DEFAULT_LIMIT, 1, KEPT)
            after = _whole(query, "after", 0, 0, _LAST)
            return {"requests": books.log.latest(limit, after)}
        case _ if path.startswith("/simulator/batches"):
            return batch_control(books.batches, method, path, _json(body) if body else None)
        case _:
            raise ApiError(404, "not_found_error", f"Not found: {method} {path}")


def _json(body: bytes) -> object:
    try:
        parsed: object = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(422, "invalid_request_error", f"Not JSON: {error}.") from None
    return parsed


def _whole(query: dict[str, list[str]], name: str, default: int, low: int, high: int) -> int:
    given = query.get(name, [str(default)])[-1]
    digits = given.isascii() and given.isdigit() and len(given) <= len(str(high))
    if not digits or not low <= int(given) <= high:
        message = f"{name} must be a whole number from {low} to {high}."
        raise ApiError(422, "invalid_request_error", message)
    return int(given)
