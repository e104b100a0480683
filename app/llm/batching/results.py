"""What came of an item: an answer, or how it failed. Source: Messages API documentation, batch processing."""

from dataclasses import replace
from typing import Any

import orjson

from app.domain.record import record
from app.llm.answers import answer_of, to_json
from app.llm.failures import MESSAGE_LIMIT, NAME_LIMIT
from app.llm.provider import ModelAnswer, ModelFailure, Phase

MISSING = orjson.dumps({"type": "missing"})
"""Ours, for an item that its batch said nothing of: it may have been answered and billed."""
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}


@record(frozen=True, slots=True)
class Returned:
    """`kind` is the provider's word for it: `succeeded`, `errored`, `canceled`, `expired`; ours is `missing`."""

    kind: str
    outcome: ModelAnswer | ModelFailure


def refused(failure: ModelFailure) -> bytes:
    """What is kept of a batch that was refused as a whole, for each of its items."""
    error = {
        "type": failure.error_type,
        "message": failure.message,
        "details": {"error_code": failure.error_code},
    }
    return orjson.dumps({"type": "errored", "status": failure.status, "error": {"error": error}})


def read_result(result: bytes, model: str) -> Returned:
    """The item's `result` object; `model` is what was asked."""
    try:
        found: Any = orjson.loads(result)
    except orjson.JSONDecodeError:
        found = {}
    kind = found.get("type") if isinstance(found, dict) else None
    match kind:
        case "succeeded":
            return Returned("succeeded", _answer(found.get("message"), model))
        case "errored":
            return Returned("errored", _error(found))
        case "canceled" | "expired":
            message = f"The batch gave the question back unanswered ({kind})."
            return Returned(kind, ModelFailure(f"batch_{kind}", message, phase=Phase.UNDONE))
        case _:
            message = "The batch ended without a word on this question."
            return Returned("missing", ModelFailure("answer_lost", message, phase=Phase.LOST))


def _answer(message: object, model: str) -> ModelAnswer | ModelFailure:
    if isinstance(message, dict):
        try:
            answer = answer_of(message, to_json(message), None)
        except ModelFailure as failure:
            return failure
        # Half the price is what was bought; a server that does not name a tier has no other.
        raw = message.get("usage")
        if answer.usage is not None and isinstance(raw, dict) and raw.get("service_tier") is None:
            return replace(answer, usage=replace(answer.usage, service_tier="batch"))
        return answer
    return ModelFailure(
        "malformed_answer", f"the answer of {model} is no message", phase=Phase.LOST
    )


def _error(found: dict[str, Any]) -> ModelFailure:
    """An errored item is never billed, whatever the error."""
    outer = found.get("error")
    error = outer.get("error") if isinstance(outer, dict) else None
    error = error if isinstance(error, dict) else {}
    name = error.get("type")
    name = name[:NAME_LIMIT] if isinstance(name, str) and name else "batch_errored"
    message = error.get("message")
    details = error.get("details")
    code = details.get("error_code") if isinstance(details, dict) else None
    status = found.get("status")
    return ModelFailure(
        name,
        message[:MESSAGE_LIMIT] if isinstance(message, str) else "the item errored",
        phase=Phase.RESPONSE,
        status=status if type(status) is int else _STATUSES.get(name, 500),
        error_code=code[:NAME_LIMIT] if isinstance(code, str) else None,
        api_shaped=True,
    )
