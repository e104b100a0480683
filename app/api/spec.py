"""The API's description: what FastAPI derives from the code, put right where it says something else than we do."""

from typing import Any

from fastapi import FastAPI

from app.api.problems import MEDIA_TYPE

_PROBLEM = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
_OTHER = {"description": "Any other error, as a problem.", "content": _PROBLEM}
_NOT_OURS = ("HTTPValidationError", "ValidationError")


def install(app: FastAPI) -> None:
    """Let the application describe its errors as it answers them: every one is a problem."""
    derive = app.openapi

    def describe() -> dict[str, Any]:
        return _with_problems(derive())

    app.openapi = describe  # type: ignore[method-assign]  # the way FastAPI documents


def _with_problems(spec: dict[str, Any]) -> dict[str, Any]:
    for path in spec["paths"].values():
        for operation in path.values():
            responses = operation["responses"]
            for status, response in responses.items():
                if status >= "4":
                    response["content"] = _PROBLEM
            responses["default"] = _OTHER
    for name in _NOT_OURS:
        spec["components"]["schemas"].pop(name, None)
    return spec
