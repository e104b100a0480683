"""`POST /tasks` goes past the framework's layers, and nobody can tell: every answer is the framework's own."""

import json
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from app.api.bodies import TEXT_LIMIT_BYTES
from app.api.shortcut import Shortcut
from app.api.strict import BODY_LIMIT_BYTES
from tests.integration.api.test_refusals import UNREADABLE
from tests.support.service import BASE_URL, Running, started

JSON = {"content-type": "application/json"}
GOOD = b'{"task":"Say hello."}'


@pytest.fixture
async def framework(bursar: Running) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the same service without the shortcut."""
    async with httpx.AsyncClient(
        transport=httpx.ASGITransport(without_shortcut(bursar)), base_url=BASE_URL
    ) as client:
        yield client


def without_shortcut(running: Running) -> Any:
    """The application's layers as they would be."""
    app = running.service.app
    kept, app.user_middleware = app.user_middleware, []
    assert [str(layer.cls) for layer in kept] == [str(Shortcut)]
    try:
        layers = app.build_middleware_stack()
    finally:
        app.user_middleware = kept

    async def asked(scope: Scope, receive: Receive, send: Send) -> None:
        await layers({**scope, "app": app}, receive, send)

    return asked


def shown(answer: httpx.Response) -> tuple[int, Any, Mapping[str, str]]:
    """All of an answer but what differs between two tasks."""
    body = answer.json()
    headers = dict(answer.headers)
    if answer.status_code in {200, 202}:
        assert headers["location"] == body["links"]["self"] == f"/tasks/{body['id']}"
        del headers["location"]
        body = {k: v for k, v in body.items() if k not in {"id", "session_id", "links"}}
        body = {k: v for k, v in body.items() if not k.endswith("_at")}
    return answer.status_code, body, headers


REQUESTS: dict[str, tuple[bytes, dict[str, str]]] = {
    **{f"body: {what}": (body, JSON) for what, body in UNREADABLE.items()},
    "no media type": (GOOD, {}),
    "a form": (b"task=x", {"content-type": "application/x-www-form-urlencoded"}),
    "JSON by another name": (GOOD, {"content-type": "application/ld+json"}),
    "JSON with a charset": (GOOD, {"content-type": "Application/JSON; charset=utf-8"}),
    "too large": (b'{"task":"' + b"x" * BODY_LIMIT_BYTES + b'"}', JSON),
    "too long a text": (b'{"task":"' + b"x" * (TEXT_LIMIT_BYTES + 1) + b'"}', JSON),
    "an unknown field": (b'{"task":"x","color":"red"}', JSON),
    "several wrong fields": (b'{"task":1,"max_steps":"many","budget_usd":-1}', JSON),
    "an unknown model": (b'{"task":"x","model":"gpt"}', JSON),
    "too small a budget": (b'{"task":"x","budget_usd":0.0000001}', JSON),
    "a bad idempotency key": (GOOD, {**JSON, "idempotency-key": "\x7f" * 300}),
    "a good one": (GOOD, JSON),
}


async def test_answers_are_the_same(bursar: Running, framework: httpx.AsyncClient) -> None:
    """Status, headers and body, whatever is sent."""
    statuses = set()
    for what, (body, headers) in REQUESTS.items():
        short = await bursar.client.post("/tasks", content=body, headers=headers)
        long = await framework.post("/tasks", content=body, headers=headers)
        assert shown(short) == shown(long), what
        statuses.add(short.status_code)
    assert statuses == {202, 413, 415, 422}


async def test_refusals_of_strangers_are_the_same(tmp_path: Path) -> None:
    """Without a key nothing of the body matters."""
    async with started(tmp_path, auth="required") as bursar:
        transport = httpx.ASGITransport(without_shortcut(bursar))
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as framework:
            for body in (GOOD, b"{"):
                short = await bursar.client.post("/tasks", content=body, headers=JSON)
                long = await framework.post("/tasks", content=body, headers=JSON)
                assert short.status_code == 401
                assert shown(short) == shown(long)


async def test_refusals_for_want_of_money_are_the_same(tmp_path: Path) -> None:
    """Which budget is spent, and how it stands."""
    async with started(tmp_path, service_daily_budget_usd=0.0000001) as bursar:
        transport = httpx.ASGITransport(without_shortcut(bursar))
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as framework:
            short = await bursar.client.post("/tasks", content=GOOD, headers=JSON)
            long = await framework.post("/tasks", content=GOOD, headers=JSON)
            assert short.status_code == 402
            assert shown(short) == shown(long)


async def test_other_methods_and_paths_pass(bursar: Running) -> None:
    """Only this one is taken."""
    assert (await bursar.client.get("/tasks")).status_code == 200
    assert (await bursar.client.put("/tasks", json={})).status_code == 405
    assert (await bursar.client.post("/tasks/", json={})).status_code == 404


@pytest.mark.parametrize("sent", [[], [b'{"task":']])
async def test_a_client_that_goes_away_is_no_bug(
    bursar: Running, log_lines: Any, sent: list[bytes]
) -> None:
    """Half a body makes no task, and no alarm: as without the shortcut."""
    seen = []
    for app in (bursar.service.app, without_shortcut(bursar)):
        messages: list[Message] = [
            {"type": "http.request", "body": piece, "more_body": True} for piece in sent
        ]
        answered: list[Message] = []

        async def receive(left: list[Message] = messages) -> Message:
            return left.pop(0) if left else {"type": "http.disconnect"}

        async def send(message: Message, heard: list[Message] = answered) -> None:
            heard.append(message)

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/tasks",
            "raw_path": b"/tasks",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"content-type", b"application/json")],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8000),
        }
        await app(scope, receive, send)
        seen.append(answered)
    assert seen[0] == seen[1]
    assert log_lines.entries("request_failed") == []
    assert (await bursar.client.get("/tasks")).json()["tasks"] == []


async def test_a_bug_is_answered_as_any_other(bursar: Running, log_lines: Any) -> None:
    """An error that nobody expected is a 500 that says nothing, and a log line that says all."""
    bursar.service.services.defaults = None  # type: ignore[assignment]  # what no endpoint can work with
    transport = httpx.ASGITransport(bursar.service.app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
        answer = await client.post("/tasks", content=GOOD, headers=JSON)
    assert (answer.status_code, answer.json()["type"]) == (500, "urn:bursar:problem:internal-error")
    assert json.loads(answer.content)["detail"].startswith("Something went wrong")
    assert len(log_lines.entries("request_failed")) == 1
