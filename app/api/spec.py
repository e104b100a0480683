"""The API's description: what FastAPI derives from the code, put right where it says something else than we do."""

from collections.abc import Iterable
from typing import Any

from fastapi import FastAPI
from starlette.routing import BaseRoute

from app.api.guarded import GuardedRoute
from app.api.idempotency import HEADER, KEY_LIMIT
from app.api.problems import MEDIA_TYPE
from app.api.waiting import WAIT_LIMIT_S

_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_OTHER = {"description": "Any other error, as a problem.", "content": _PROBLEM}
_NOT_OURS = ("HTTPValidationError", "ValidationError")
_PREFER = {
    "name": "Prefer",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "example": "wait=10",
    "description": f"`wait=N` holds the answer until the task has ended, N seconds (at most {WAIT_LIMIT_S}).",
}
_KEY = {
    "name": HEADER,
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": KEY_LIMIT, "pattern": "^[ -~]+$"},
    "description": "Your name for this request. Sent again within 24 hours, the same request makes no other task or run and "
    "is answered as the first time (after a wait with what that brought), with `Idempotency-Replayed: true`; another "
    "request is a 422.",
}
_REPLAYED = {
    "description": "The answer is that of an earlier request with this key.",
    "schema": {"type": "string", "const": "true"},
}
_BEARER = {
    "type": "http",
    "scheme": "bearer",
    "description": "An API key. Needed once there are keys, or always with `BURSAR_AUTH=required`.",
}
_UNAUTHORIZED = {
    "description": "No API key, or one that opens nothing.",
    "headers": {"WWW-Authenticate": {"schema": {"type": "string", "const": "Bearer"}}},
    "content": _PROBLEM,
}
_WAITING = {"create_task", "get_task", "retry_task"}
_KEYED = ("/tasks", "/tasks/{task_id}/retry")


def install(app: FastAPI, routes: Iterable[BaseRoute]) -> None:
    """Let the application describe its errors as it answers them, and the headers it reads by itself."""
    derive = app.openapi
    guarded = {route.name for route in routes if isinstance(route, GuardedRoute)}

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(derive(), guarded)
        return derive()

    app.openapi = describe  # type: ignore[method-assign]  # the way FastAPI documents


def _complete(spec: dict[str, Any], guarded: set[str]) -> None:
    spec["components"]["securitySchemes"] = {"bearer": _BEARER}
    for path in spec["paths"].values():
        for operation in path.values():
            if operation["operationId"] in guarded:
                operation["security"] = [{"bearer": []}, {}]
                operation["responses"]["401"] = _UNAUTHORIZED
            _describe_errors(operation["responses"])
            if operation["operationId"] in _WAITING:
                others = [p for p in operation.get("parameters", []) if p["name"] != "prefer"]
                operation["parameters"] = [*others, _PREFER]
    optional = spec["paths"]["/tasks/{task_id}/retry"]["post"]["requestBody"]
    body = optional["content"]["application/json"]  # it may be missing, but it is never `null`
    body["schema"] = body["schema"]["anyOf"][0]
    for keyed in _KEYED:
        submit = spec["paths"][keyed]["post"]
        submit["parameters"].append(_KEY)
        for status in ("200", "202"):
            submit["responses"][status]["headers"] = {"Idempotency-Replayed": _REPLAYED}
    for name in _NOT_OURS:
        spec["components"]["schemas"].pop(name, None)


def _describe_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status >= "4":
            response["content"] = _PROBLEM
    responses["default"] = _OTHER
