"""openapi/openapi.json: what is committed, what the code says, and what the service does are one."""

import json
import re
from typing import Any

import pytest

from app import __version__
from app.api.app import openapi
from tests.support.contract import FILE, PROBLEM
from tests.support.service import Running

COMMITTED: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
OPERATIONS = [
    (method, path, operation)
    for path, item in COMMITTED["paths"].items()
    for method, operation in item.items()
]
ENDPOINTS = {
    ("get", "/tasks/{task_id}/ledger"),
    ("get", "/sessions/{session_id}/ledger"),
    ("post", "/tasks"),
    ("get", "/tasks"),
    ("get", "/tasks/{task_id}"),
    ("post", "/tasks/{task_id}/cancel"),
    ("delete", "/tasks/{task_id}"),
    ("get", "/tasks/{task_id}/events"),
    ("get", "/sessions/{session_id}"),
    ("get", "/sessions/{session_id}/usage"),
    ("get", "/usage"),
    ("put", "/sessions/{session_id}/budget"),
    ("put", "/tasks/{task_id}/budget"),
    ("post", "/tasks/{task_id}/retry"),
    ("get", "/models"),
    ("get", "/upstream"),
    ("post", "/quotes"),
    ("get", "/healthz"),
    ("get", "/readyz"),
    ("get", "/metrics"),
}


def _examples() -> list[Any]:
    found = []
    for method, path, operation in OPERATIONS:
        if "requestBody" in operation:
            schema = operation["requestBody"]["content"]["application/json"]["schema"]
            name = schema["$ref"].rpartition("/")[2]
            examples = COMMITTED["components"]["schemas"][name].get("examples", [])
            assert examples, f"{name} has no examples"
            found += [
                pytest.param(method, path, example, id=f"{operation['operationId']}-{number}")
                for number, example in enumerate(examples)
            ]
    return found


def test_no_drift() -> None:
    """The committed file is what `make openapi` writes; run that after a change of the API."""
    written = json.dumps(openapi(__version__), indent=2, ensure_ascii=False) + "\n"
    assert written == FILE.read_text(encoding="utf-8")


async def test_served(bursar: Running) -> None:
    """/openapi.json is the committed description, asked once or twice."""
    for _ in range(2):
        assert (await bursar.client.get("/openapi.json")).json() == COMMITTED


def test_endpoints() -> None:
    """All endpoints are described, and no other."""
    assert {(method, path) for method, path, _ in OPERATIONS} == ENDPOINTS


def test_parameters_stand_once() -> None:
    """A parameter is named once per operation: OpenAPI forbids more, and generators stumble over it."""
    prefer = 0
    for method, path, operation in OPERATIONS:
        named = [(p["in"], p["name"].lower()) for p in operation.get("parameters", [])]
        assert len(set(named)) == len(named), (method, path)
        prefer += ("header", "prefer") in named
    assert prefer == 3, "POST /tasks, GET /tasks/{task_id} and its retry describe the header"


def test_operation_ids() -> None:
    """Every operation has an id of its own: generated clients name their functions after it."""
    ids = [operation["operationId"] for _, _, operation in OPERATIONS]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", name) for name in ids)
    assert all(operation["summary"] for _, _, operation in OPERATIONS)


def test_errors_are_problems() -> None:
    """Every described error is a problem, and what is not described by its status is one by default."""
    for _, path, operation in OPERATIONS:
        assert "default" in operation["responses"], path
        for status, response in operation["responses"].items():
            if status == "default" or int(status) >= 400:
                assert list(response["content"]) == [PROBLEM], (path, status)
    assert "HTTPValidationError" not in json.dumps(COMMITTED)


def test_references_exist() -> None:
    """Every `$ref` leads somewhere, and every schema is used."""
    text = json.dumps(COMMITTED)
    used = set(re.findall(r'"#/components/schemas/(\w+)"', text))
    assert used == set(COMMITTED["components"]["schemas"])


@pytest.mark.parametrize(("method", "path", "example"), _examples())
async def test_examples(bursar: Running, method: str, path: str, example: Any) -> None:
    """Every example of a request works as printed, and a task of an example gets its answer."""
    if path.endswith("/retry"):
        bursar.script({"kind": "spend_cap"})
        path = path.replace("{task_id}", (await bursar.run())["id"])
    if "{task_id}" in path:
        bursar.script({"kind": "latency", "delay_s": 0.5})
        path = path.replace("{task_id}", (await bursar.submit())["id"])
    answer = await bursar.client.request(
        method.upper(), path.replace("{session_id}", "demo"), json=example
    )
    assert answer.is_success, answer.text
    shown = answer.json()
    if path == "/quotes":
        assert shown["accepted"]
        return
    assert {name: shown[name] for name in example} == example
    if "status" in shown:
        assert (await bursar.finished(shown["id"]))["status"] == "succeeded"
