"""A spent budget and the clients people use: a 402 is asked for once, where a 429 would be asked for again."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest
from aiohttp import web

from tests.acceptance.client import submit
from tests.support.contract import PROBLEM
from tests.support.process import NO_KEY, Service, service, simulator

_BODY = {"task": "Say hello.", "session_id": "spent", "complexity": "simple"}
_MODEL = "claude-haiku-5-5"
_MESSAGES: Any = [{"role": "user", "content": "Say hello."}]
_STOCK_REQUESTS = 3
"""What a stock client makes of an error that it repeats: its first request, and two retries."""


@dataclass
class Front:
    """A server in front of the service: whatever is posted to it becomes the same POST /tasks.

    `status` None hands the service's response on untouched; else it only changes the status, and asks for a
    short wait.
    """

    bursar: httpx.AsyncClient
    status: int | None = None
    url: str = ""
    requests: int = 0

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, and count it."""
        assert request.method == "POST"
        await request.read()
        self.requests += 1
        answer = await self.bursar.post("/tasks", json=_BODY)
        headers = dict(answer.headers)
        if self.status is not None:
            headers["retry-after"] = "0.01"
        status = self.status or answer.status_code
        return web.Response(status=status, headers=headers, body=answer.content)


@asynccontextmanager
async def _listening(front: Front) -> AsyncIterator[Front]:
    runner = web.ServerRunner(web.Server(front.handle, access_log=None))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        front.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        yield front
    finally:
        await runner.cleanup()


async def _spend(bursar: Service) -> None:
    """Let the session spend something, and leave nothing of its budget."""
    async with bursar.client() as client:
        task_id = await submit(client, _BODY)
        task = await client.get(f"/tasks/{task_id}", headers={"prefer": "wait=20"})
        spent = task.json()["cost_usd"]
        assert spent > 0
        await client.put("/sessions/spent/budget", json={"budget_usd": spent})


@pytest.fixture
async def front(tmp_path: Path) -> AsyncIterator[Front]:
    """A real service, on its own port, that refuses every task of a session."""
    async with (
        simulator(tmp_path) as upstream,
        service(tmp_path, str(upstream.base_url)) as bursar,
    ):
        await bursar.start()
        await _spend(bursar)
        async with bursar.client() as client, _listening(Front(client)) as listening:
            yield listening


async def _messages(url: str) -> Any:
    async with anthropic.AsyncAnthropic(api_key=NO_KEY, base_url=url) as client:
        with pytest.raises(anthropic.APIStatusError) as caught:
            await client.messages.create(model=_MODEL, max_tokens=100, messages=_MESSAGES)
    return caught.value


async def _message_stream(url: str) -> Any:
    async with anthropic.AsyncAnthropic(api_key=NO_KEY, base_url=url) as client:
        asked = client.messages.stream(model=_MODEL, max_tokens=100, messages=_MESSAGES)
        with pytest.raises(anthropic.APIStatusError) as caught:
            await asked.__aenter__()
    return caught.value


async def _chat(url: str) -> Any:
    async with openai.AsyncOpenAI(api_key=NO_KEY, base_url=f"{url}/v1") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=_MODEL, messages=_MESSAGES)
    return caught.value


async def _responses(url: str) -> Any:
    async with openai.AsyncOpenAI(api_key=NO_KEY, base_url=f"{url}/v1") as client:
        with pytest.raises(openai.APIStatusError) as caught:
            await client.responses.create(model=_MODEL, input="Say hello.")
    return caught.value


Ask = Callable[[str], Awaitable[Any]]
"""Asks the server at an address by a stock client; returns the exception that says why there is no answer."""
_CLIENTS: list[Ask] = [_messages, _message_stream, _chat, _responses]


@pytest.mark.parametrize("ask", _CLIENTS, ids=lambda ask: ask.__name__.strip("_"))
async def test_a_spent_budget_is_asked_for_once(front: Front, ask: Ask) -> None:
    """One request, and the exception carries the status and our body; as a 429 it would be three."""
    error = await ask(front.url)
    assert front.requests == 1
    assert error.status_code == 402
    assert error.response.headers["content-type"] == PROBLEM
    assert "retry-after" not in error.response.headers
    body = error.response.json()
    assert (body["type"], body["status"]) == ("urn:bursar:problem:budget-exhausted", 402)
    assert (body["scope"], body["resets_at"]) == ("session", None)
    assert body["limit_usd"] == body["spent_usd"] > 0
    assert (body["reserved_usd"], body["remaining_usd"]) == (0, 0)
    front.requests, front.status = 0, 429
    assert (await ask(front.url)).status_code == 429
    assert front.requests == _STOCK_REQUESTS
