"""The committed OpenAPI description as a check of every response."""

import json
import re
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import httpx
from jsonschema import Draft202012Validator, FormatChecker

FILE = Path(__file__).parents[2] / "openapi" / "openapi.json"
PROBLEM = "application/problem+json"
_PROBLEM_TYPE = re.compile(r"urn:bursar:problem:[a-z]+(-[a-z]+)*")
_LEAKS = ("Traceback", 'File "', ".py", "sqlite", "site-packages")
"""What no problem may say: where the code lies, or what it is made of."""
_formats = FormatChecker(())


@_formats.checks("date-time", raises=ValueError)
def _is_instant(value: object) -> bool:
    if not isinstance(value, str):
        return True
    return value.endswith("Z") and datetime.fromisoformat(value) is not None


@cache
def description() -> dict[str, Any]:
    """The committed description; shapes of answers are closed, so that an undocumented field shows."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    for name, shape in found["components"]["schemas"].items():
        if name != "Problem" and "properties" in shape:
            shape.setdefault("additionalProperties", False)
    return found


@cache
def _validator(pointer: str) -> Draft202012Validator:
    schema = {"components": description()["components"], "paths": description()["paths"]}
    return Draft202012Validator({**schema, "$ref": f"#/{pointer}"}, format_checker=_formats)


@cache
def _paths() -> list[tuple[str, re.Pattern[str]]]:
    return [
        (path, re.compile(re.sub(r"\{[a-z_]+\}", "[^/]+", path))) for path in description()["paths"]
    ]


def _declared(method: str, path: str, status: int, media: str) -> str | None:
    """A pointer to the response's schema; None for paths and methods that are not in the description."""
    found = [name for name, pattern in _paths() if pattern.fullmatch(path)]
    operation = description()["paths"][found[0]].get(method.lower()) if found else None
    if operation is None:
        return None
    key = str(status) if str(status) in operation["responses"] else "default"
    declared = operation["responses"][key].get("content", {})
    assert media in declared or not declared, f"{method} {path} {status}: {media} is not declared"
    if "schema" not in declared.get(media, {}):
        return ""
    parts = ["paths", found[0], method.lower(), "responses", key, "content", media, "schema"]
    return "/".join(part.replace("~", "~0").replace("/", "~1") for part in parts)


async def check_response(response: httpx.Response) -> None:
    """Fail unless the response is as the description says. An event hook for `httpx.AsyncClient`."""
    request, status = response.request, response.status_code
    await response.aread()
    media = response.headers.get("content-type", "").partition(";")[0]
    pointer = _declared(request.method, request.url.path, status, media)
    if status >= 400:
        check_problem(response)
    elif pointer and media == "application/json":
        _check(pointer, response.json(), f"{request.method} {request.url.path} {status}")


def check_problem(response: httpx.Response) -> None:
    """Fail unless the response is a problem of a stable type that gives nothing away."""
    assert response.headers["content-type"] == PROBLEM, response.text
    body = response.json()
    _check("components/schemas/Problem", body, "problem")
    assert body["status"] == response.status_code
    assert _PROBLEM_TYPE.fullmatch(body["type"]), body["type"]
    if response.status_code == 401:
        assert response.headers["www-authenticate"] == "Bearer"
    assert body["title"]
    assert body["detail"]
    for leak in _LEAKS:
        assert leak not in response.text, f"{leak!r} in {response.text}"


def _check(pointer: str, body: object, what: str) -> None:
    found = [
        f"{error.json_path}: {error.message[:200]}"
        for error in _validator(pointer).iter_errors(body)
    ]
    assert not found, f"{what} is not as described: {'; '.join(found)}"
