"""When the simulator's batches are processed: the endpoints that say so.

GET /simulator/batches · PUT /simulator/batches `{"delay_s": 5, "creates": ["lost"]}` (`delay_s` null: only on
command) · POST /simulator/batches/process `{"id": "msgbatch_…", "count": 2}` (both optional).
"""

from typing import Any

from app.simulator.batches import CREATES, Batches
from app.simulator.errors import ApiError, JsonObject


def batch_control(batches: Batches, method: str, path: str, asked: Any) -> JsonObject:
    """What the endpoint answers.

    Raises:
        ApiError: 404, 422.
    """
    match method, path:
        case "GET", "/simulator/batches":
            batches.look()
        case "PUT", "/simulator/batches":
            _set(batches, asked)
        case "POST", "/simulator/batches/process":
            _process(batches, asked)
        case _:
            raise ApiError(404, "not_found_error", f"Not found: {method} {path}")
    shown = [batch.as_json() for batch in batches.all.values()]
    return {"delay_s": batches.delay_s, "creates": list(batches.creates), "batches": shown}


def _set(batches: Batches, asked: Any) -> None:
    asked = _object(asked, {"delay_s", "creates"})
    delay_s, creates = asked.get("delay_s", batches.delay_s), asked.get("creates", [])
    if delay_s is not None and (type(delay_s) not in {int, float} or delay_s < 0):
        raise _unusable("delay_s must be a number of seconds, or null.")
    if not isinstance(creates, list) or any(how not in CREATES for how in creates):
        raise _unusable(f"creates must be a list of {', '.join(CREATES)}.")
    batches.delay_s = delay_s
    batches.creates.clear()
    batches.creates.extend(creates)


def _process(batches: Batches, asked: Any) -> None:
    asked = _object(asked, {"id", "count"})
    wanted, count = asked.get("id"), asked.get("count")
    if count is not None and (type(count) is not int or count < 0):
        raise _unusable("count must be a whole number.")
    if wanted is not None and wanted not in batches.all:
        raise ApiError(404, "not_found_error", f"No message batch with id {wanted}")
    for batch in batches.all.values():
        if batch.ended_at_us is None and wanted in (None, batch.id):
            batches.process(batch, count)


def _object(asked: Any, known: set[str]) -> JsonObject:
    if asked is None:
        return {}
    if not isinstance(asked, dict) or asked.keys() - known:
        raise _unusable(f"The body must be an object with {', '.join(sorted(known))}.")
    return asked


def _unusable(message: str) -> ApiError:
    return ApiError(422, "invalid_request_error", message)
