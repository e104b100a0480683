"""The API's description: what FastAPI derives from the code, put right where it says something else than we do."""

from typing import Any

from fastapi import FastAPI

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
_WAITING = {"create_task", "get_task"}


def install(app: FastAPI) -> None:
    """Let the application describe its errors as it answers them, and the headers it reads by itself."""
    derive = app.openapi

    def describe() -> dict[str, Any]:
        if app.openapi_schema is None:
            _complete(derive())
        return derive()

    app.openapi = describe  # type: ignore[method-assign]  # the way FastAPI documents


def _complete(spec: dict[str, Any]) -> None:
    for path in spec["paths"].values():
        for operation in path.values():
            _describe_errors(operation["responses"])
            if operation["operationId"] in _WAITING:
                others = [p for p in operation.get("parameters", []) if p["name"] != "prefer"]
                operation["parameters"] = [*others, _PREFER]
    for name in _NOT_OURS:
        spec["components"]["schemas"].pop(name, None)


def _describe_errors(responses: dict[str, Any]) -> None:
    for status, response in responses.items():
        if status >= "4":
            response["content"] = _PROBLEM
    responses["default"] = _OTHER
