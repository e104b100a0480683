"""Errors as RFC 9457 problems. `type` is stable and meant for programs, `detail` for people."""

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException as StarletteHTTPException

from app.domain.clock import rfc3339
from app.domain.errors import (
    BudgetExhausted,
    KeyReused,
    NotFound,
    QueueFull,
    Stopping,
    StoreError,
    StoreFull,
    StoreSilent,
    SubmissionRefused,
    TaskFinished,
    TaskNotFailed,
    TaskUnfinished,
    Unauthorized,
)
from app.domain.money import usd_from_nano

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
_log = logging.getLogger(__name__)
_TITLES = {
    400: ("bad-request", "The request cannot be understood."),
    404: ("not-found", "Not found."),
    405: ("method-not-allowed", "This path does not know that method."),
    413: ("body-too-large", "The body is too large."),
    415: ("unsupported-media-type", "The body must be JSON."),
}


def problem(
    status: int,
    kind: str,
    title: str,
    detail: str,
    *,
    retry_after_s: int | None = None,
    **more: object,
) -> Response:
    """A problem response. `more` are members of its own, beside the standard ones."""
    body = {
        "type": f"urn:bursar:problem:{kind}",
        "title": title,
        "status": status,
        "detail": detail,
    }
    headers = {} if retry_after_s is None else {"Retry-After": str(retry_after_s)}
    return Response(orjson.dumps({**body, **more}), status, headers, MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Answer every error the service raises with a problem."""
    for error, handler in _HANDLERS.items():
        app.add_exception_handler(error, _as_handler(handler))


def answer(error: Exception) -> Response:
    """The problem that tells of `error`.

    Raises:
        Exception: the error itself, of which only the log is to know more than that it was one.
    """
    for kind in type(error).__mro__:
        if kind is not Exception and kind in _HANDLERS:
            return _HANDLERS[kind](error)
    raise error


def _as_handler(
    make: Callable[[Any], Response],
) -> Callable[[Request, Exception], Awaitable[Response]]:
    async def handle(_request: Request, error: Exception) -> Response:
        return make(error)

    return handle


def _validation(error: RequestValidationError) -> Response:
    problems = [_field_problem(found) for found in error.errors()]
    detail = "; ".join(
        f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in problems
    )
    return problem(
        422,
        "invalid-request",
        "The request has fields that cannot be accepted.",
        detail,
        errors=problems,
    )


def _field_problem(found: dict[str, Any]) -> dict[str, str]:
    where = [str(part) for part in found["loc"] if part not in {"body", "query", "header", "path"}]
    message = str(found["msg"]).removeprefix("Value error, ")
    if found["type"] == "json_invalid":
        return {"field": "", "message": f"The body is not valid JSON: {found['ctx']['error']}."}
    return {"field": ".".join(where), "message": message}


def _http(error: HTTPException) -> Response:
    kind, title = _TITLES.get(error.status_code, ("http-error", "The request failed."))
    response = problem(error.status_code, kind, title, str(error.detail))
    response.headers.update(error.headers or {})  # a 405 says what is allowed
    return response


def _unauthorized(error: Unauthorized) -> Response:
    response = problem(401, "unauthorized", "An API key is needed.", str(error))
    response.headers["WWW-Authenticate"] = "Bearer"
    return response


def _not_found(error: NotFound) -> Response:
    return problem(404, f"{error.what}-not-found", f"No such {error.what}.", str(error))


def _finished(error: TaskFinished) -> Response:
    return problem(
        409,
        "task-finished",
        "The task has ended.",
        str(error),
        task_id=error.task_id,
        task_status=error.status,
        outcome=error.outcome,
    )


def _unfinished(error: TaskUnfinished) -> Response:
    return problem(
        409,
        "task-unfinished",
        "The task has not ended.",
        str(error),
        task_id=error.task_id,
        task_status=error.status,
    )


def _not_failed(error: TaskNotFailed) -> Response:
    return problem(
        409,
        "task-erased" if error.erased else "task-not-failed",
        "The task cannot be retried.",
        str(error),
        task_id=error.task_id,
        task_status=error.status,
        outcome=error.outcome,
    )


def _budget(error: BudgetExhausted) -> Response:
    return problem(
        402,
        "budget-exhausted",
        "The budget is spent.",
        f"{error} {_advice(error)}",
        **budget_members(error),
    )


def budget_members(error: BudgetExhausted) -> dict[str, Any]:
    """Which budget is spent, and how it stands."""
    remaining = max(error.limit_nano - error.spent_nano - error.reserved_nano, 0)
    return {
        "scope": error.scope,
        "scope_id": error.shown_id,
        "limit_usd": usd_from_nano(error.limit_nano),
        "spent_usd": usd_from_nano(error.spent_nano),
        "reserved_usd": usd_from_nano(error.reserved_nano),
        "remaining_usd": usd_from_nano(remaining),
        "needed_usd": usd_from_nano(error.needed_nano),
        "resets_at": None if error.resets_at_us is None else rfc3339(error.resets_at_us),
    }


def _advice(error: BudgetExhausted) -> str:
    if error.resets_at_us is not None:
        return "It is full again at resets_at; or raise it."
    return f"Raise the {error.scope}'s budget, or use another one."


def _queue_full(error: QueueFull) -> Response:
    return problem(
        429,
        "queue-full",
        "Too many tasks are waiting.",
        str(error),
        retry_after_s=RETRY_AFTER_S,
        queue_limit=error.limit,
    )


def _stopping(error: Stopping) -> Response:
    return problem(
        503, "stopping", "The service is stopping.", str(error), retry_after_s=RETRY_AFTER_S
    )


def _refused(error: SubmissionRefused) -> Response:
    return problem(
        422,
        error.kind,
        f"The {error.field} cannot be used.",
        str(error),
        errors=[{"field": error.field, "message": str(error)}],
    )


def _key_reused(error: KeyReused) -> Response:
    return problem(
        422,
        "idempotency-key-reused",
        "The key stands for another request.",
        f"{error} Send a new key with a new body.",
        errors=[{"field": "Idempotency-Key", "message": str(error)}],
    )


def _store(error: StoreError) -> Response:
    _log.error(
        "store_failed", extra={"error_type": type(error).__name__, "error_message": str(error)}
    )
    if isinstance(error, StoreFull):
        return problem(
            507, "store-full", "No space left.", "The service cannot store more.", retry_after_s=60
        )
    detail = "The service cannot reach its store right now. Nothing of this request was kept."
    if isinstance(error, StoreSilent):
        detail = (
            "The store has not answered in time; it may keep this request all the same. Send it again with the "
            "same Idempotency-Key, or look before you do."
        )
    return problem(
        503, "store-unavailable", "The store is unavailable.", detail, retry_after_s=RETRY_AFTER_S
    )


def _bug(error: Exception) -> Response:
    _log.error("request_failed", exc_info=error)
    detail = "Something went wrong inside the service; its log has the details."
    return problem(500, "internal-error", "Internal error.", detail)


_HANDLERS: dict[type[Exception], Callable[[Any], Response]] = {
    RequestValidationError: _validation,
    StarletteHTTPException: _http,
    Unauthorized: _unauthorized,
    NotFound: _not_found,
    TaskFinished: _finished,
    TaskUnfinished: _unfinished,
    TaskNotFailed: _not_failed,
    BudgetExhausted: _budget,
    QueueFull: _queue_full,
    Stopping: _stopping,
    SubmissionRefused: _refused,
    KeyReused: _key_reused,
    StoreError: _store,
    Exception: _bug,
}
