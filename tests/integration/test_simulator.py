"""The simulator on a socket: the real SDK talks to it, and every way a connection can fail."""

import asyncio
import io
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest
from anthropic import AsyncAnthropic, DefaultAioHttpClient
from anthropic.types import Message, MessageParam
from typing_extensions import override

from app.domain.clock import SystemClock
from app.simulator.core import Simulator
from app.simulator.server import RunningServer, serve, start

_MODEL = "claude-haiku-5-5"
_ASK: list[MessageParam] = [{"role": "user", "content": "Why is the sky blue?"}]
_TOOLS: list[Any] = [
    {
        "name": name,
        "description": name,
        "input_schema": {
            "type": "object",
            "properties": {key: {"type": "string"}},
            "required": [key],
        },
    }
    for name, key in (("calculator", "expression"), ("current_time", "timezone"))
]


@pytest.fixture
async def server() -> AsyncIterator[RunningServer]:
    """A simulator on a free port of loopback."""
    running = await start(Simulator(SystemClock()))
    yield running
    await running.close()


@pytest.fixture(params=["default", "aiohttp"])
async def client(
    server: RunningServer, request: pytest.FixtureRequest
) -> AsyncIterator[AsyncAnthropic]:
    """The SDK without retries, on each of its transports."""
    transport = DefaultAioHttpClient() if request.param == "aiohttp" else None
    made = AsyncAnthropic(
        api_key="not-a-key", base_url=server.url, max_retries=0, http_client=transport
    )
    async with made:
        yield made


@pytest.fixture
async def http(server: RunningServer) -> AsyncIterator[aiohttp.ClientSession]:
    """Plain HTTP, for the simulator's own endpoints."""
    async with aiohttp.ClientSession(server.url) as session:
        yield session


async def _bill(http: aiohttp.ClientSession) -> dict[str, Any]:
    async with http.get("/simulator/bill") as response:
        bill: dict[str, Any] = await response.json()
        return bill


async def _fault(http: aiohttp.ClientSession, **rule: Any) -> None:
    async with http.put("/simulator/faults", json={"script": [rule]}) as response:
        assert response.status == 200


async def _ask(client: AsyncAnthropic) -> Message:
    return await client.messages.create(model=_MODEL, max_tokens=200, messages=_ASK)


async def _stream(client: AsyncAnthropic) -> Message:
    async with client.messages.stream(model=_MODEL, max_tokens=200, messages=_ASK) as stream:
        return await stream.get_final_message()


async def test_plain_and_streamed(client: AsyncAnthropic, http: aiohttp.ClientSession) -> None:
    """The SDK reads the same answer both ways; both are billed as delivered."""
    plain, streamed = await _ask(client), await _stream(client)
    assert plain.content[0].to_dict()["text"] == streamed.content[0].to_dict()["text"]
    assert plain.usage.to_dict() == streamed.usage.to_dict()
    bill = await _bill(http)
    assert [line["status"] for line in bill["lines"]] == ["delivered", "delivered"]
    assert bill["lines"][0]["request_id"] == plain._request_id
    cost = plain.usage.input_tokens * 100 + plain.usage.output_tokens * 500
    assert bill["total"]["nano"] == 2 * cost


@pytest.mark.parametrize("streaming", [False, True])
async def test_tool_loop(
    client: AsyncAnthropic, http: aiohttp.ClientSession, streaming: bool
) -> None:
    """Three rounds of two parallel calls with thinking, as an agent's loop makes them."""
    directive = '[[sim {"steps": 3, "parallel": 2, "thinking": true, "answer": "Done."}]]'
    turns: list[MessageParam] = [{"role": "user", "content": f"Work. {directive}"}]
    calls = 0
    answer = await _step(client, turns, streaming=streaming)
    while answer.stop_reason == "tool_use":
        used = [block for block in answer.content if block.type == "tool_use"]
        calls += len(used)
        made: list[Any] = [
            {"type": "tool_result", "tool_use_id": call.id, "content": "ok"} for call in used
        ]
        blocks: list[Any] = [block.to_dict() for block in answer.content]
        turns += [{"role": "assistant", "content": blocks}, {"role": "user", "content": made}]
        answer = await _step(client, turns, streaming=streaming)
    assert calls == 6
    assert (answer.stop_reason, answer.content[-1].to_dict()["text"]) == ("end_turn", "Done.")
    lines = (await _bill(http))["lines"]
    assert len(lines) == 4
    assert sum(line["usage"]["cache_read_input_tokens"] for line in lines) > 0


async def _step(client: AsyncAnthropic, turns: list[MessageParam], *, streaming: bool) -> Message:
    fields: dict[str, Any] = {
        "model": "claude-opus-5-5",
        "max_tokens": 500,
        "messages": turns,
        "tools": _TOOLS,
        "system": "Be useful. " * 200,
        "cache_control": {"type": "ephemeral"},
    }
    if not streaming:
        created: Message = await client.messages.create(**fields)
        return created
    async with client.messages.stream(**fields) as stream:
        return await stream.get_final_message()


async def test_count_tokens(client: AsyncAnthropic, http: aiohttp.ClientSession) -> None:
    """The SDK counts tokens, for free."""
    counted = await client.messages.count_tokens(model=_MODEL, messages=_ASK)
    assert counted.input_tokens == (await _ask(client)).usage.input_tokens
    assert (await _bill(http))["total"]["lines"] == 1


async def test_headers(client: AsyncAnthropic) -> None:
    """Answers carry request id, rate limits, and that they are simulated."""
    raw = await client.messages.with_raw_response.create(
        model=_MODEL, max_tokens=9, messages=_ASK, extra_headers={"x-bursar-attempt": "a1"}
    )
    assert raw.headers["x-simulated"] == "bursar"
    assert raw.headers["request-id"].startswith("req_")
    assert int(raw.headers["anthropic-ratelimit-requests-remaining"]) > 0


@pytest.mark.parametrize(
    ("rule", "error"),
    [
        ({"kind": "rate_limit", "retry_after": 3600}, anthropic.RateLimitError),
        ({"kind": "overloaded"}, anthropic.OverloadedError),
        ({"kind": "server_error"}, anthropic.InternalServerError),
        ({"kind": "spend_cap"}, anthropic.EnforcedSpendLimitReachedError),
        ({"kind": "html_page"}, anthropic.InternalServerError),
        ({"kind": "cut_before_headers"}, anthropic.APIConnectionError),
        ({"kind": "cut_mid_body"}, anthropic.APIConnectionError),
        ({"kind": "timeout", "delay_s": 0.01}, anthropic.APIConnectionError),
    ],
)
async def test_failed_requests(
    client: AsyncAnthropic,
    http: aiohttp.ClientSession,
    rule: dict[str, Any],
    error: type[Exception],
) -> None:
    """Each fault is the exception the SDK has for it; lost answers are on the bill, errors are not."""
    await _fault(http, **rule)
    with pytest.raises(error):
        await _ask(client)
    lost = rule["kind"] in {"cut_before_headers", "cut_mid_body", "timeout"}
    assert [line["status"] for line in (await _bill(http))["lines"]] == ["cut"] * lost
    assert (await _ask(client)).stop_reason == "end_turn"


async def test_authentication(server: RunningServer) -> None:
    """Without a key the SDK is told 401."""
    no_key = {"Authorization": "Basic"}
    made = AsyncAnthropic(api_key="x", base_url=server.url, max_retries=0, default_headers=no_key)
    async with made as client:
        with pytest.raises(anthropic.AuthenticationError):
            await _ask(client)


@pytest.mark.parametrize("kind", ["truncate_json", "usage_missing", "usage_null"])
async def test_answers_that_are_not_whole(http: aiohttp.ClientSession, kind: str) -> None:
    """Half a JSON text, or an answer without usable usage, arrives with status 200."""
    await _fault(http, kind=kind)
    status, body = await _post(http)
    assert status == 200
    assert body.endswith(b"}") == (kind != "truncate_json")
    assert (b'"output_tokens":null' in body) == (kind == "usage_null")
    delivered = (await _bill(http))["lines"][0]["delivered"]
    assert delivered == (kind != "truncate_json")


async def _post(http: aiohttp.ClientSession, **fields: Any) -> tuple[int, bytes]:
    body = {"model": _MODEL, "max_tokens": 200, "messages": _ASK, **fields}
    async with http.post("/v1/messages", json=body, headers={"x-api-key": "k"}) as response:
        return response.status, await response.read()


async def test_stream_error_event(client: AsyncAnthropic, http: aiohttp.ClientSession) -> None:
    """An error inside a stream that began with 200."""
    await _fault(http, kind="stream_error")
    with pytest.raises(anthropic.APIStatusError) as caught:
        await _stream(client)
    assert (caught.value.status_code, caught.value.type) == (200, "overloaded_error")
    assert (await _bill(http))["lines"][0]["status"] == "cut"


async def test_stream_cut(client: AsyncAnthropic, http: aiohttp.ClientSession) -> None:
    """A connection cut in mid-stream is a transport error after the first events."""
    await _fault(http, kind="cut_mid_stream")
    with pytest.raises(httpx2.HTTPError):
        await _stream(client)
    assert (await _bill(http))["lines"][0]["status"] == "cut"


async def test_stream_that_just_ends(client: AsyncAnthropic, http: aiohttp.ClientSession) -> None:
    """A stream without message_stop gives no exception and no stop reason."""
    await _fault(http, kind="stream_eof")
    assert (await _stream(client)).stop_reason is None
    assert (await _bill(http))["lines"][0]["status"] == "cut"


@pytest.mark.parametrize("stream", [False, True])
async def test_slow_body(http: aiohttp.ClientSession, stream: bool) -> None:
    """A slow answer arrives whole, and is delivered."""
    await _fault(http, kind="slow_body", delay_s=0.001, pieces=5)
    status, body = await _post(http, stream=stream)
    assert status == 200
    assert body.endswith(b"\n\n" if stream else b"}")
    assert (await _bill(http))["lines"][0]["delivered"]


class _StuckClock(SystemClock):
    """Whoever sleeps is heard, and sleeps for good."""

    def __init__(self) -> None:
        self.asleep = asyncio.Event()
        self.woken = asyncio.Event()

    @override
    async def sleep(self, duration_s: float) -> None:
        self.asleep.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.woken.set()


async def test_a_client_that_hangs_up_pays() -> None:
    """A client gone before its answer came ends its handler, and has a line on the bill, marked cut."""
    clock = _StuckClock()
    server = await start(Simulator(clock))
    async with aiohttp.ClientSession(server.url) as http:
        await _fault(http, kind="latency", delay_s=60)
        asking = asyncio.create_task(_post(http))
        await clock.asleep.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await clock.woken.wait()
        assert [line["status"] for line in (await _bill(http))["lines"]] == ["cut"]
    await server.close()


async def test_too_large(http: aiohttp.ClientSession) -> None:
    """A body above 32 MB is refused without reading it all."""
    body = b" " * (32 * 1024 * 1024 + 1)
    async with http.post(
        "/v1/messages", data=io.BytesIO(body), headers={"x-api-key": "k"}
    ) as response:
        assert response.status == 413


async def test_a_hundred_at_once(server: RunningServer, http: aiohttp.ClientSession) -> None:
    """Concurrent requests each get their own line."""
    await asyncio.gather(*(_post(http, stream=bool(n % 2)) for n in range(100)))
    lines = (await _bill(http))["lines"]
    assert [line["sequence"] for line in lines] == list(range(1, 101))
    assert len({line["request_id"] for line in lines}) == 100
    assert all(line["delivered"] for line in lines)


async def test_serve_until_cancelled() -> None:
    """`serve` says where it listens, and stops listening when cancelled."""
    started: asyncio.Future[RunningServer] = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve("127.0.0.1", 0, 7, started=started))
    running = await started
    assert running.simulator.seed == 7
    async with aiohttp.ClientSession(running.url) as http:
        assert (await _post(http))[0] == 200
        serving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await serving
        with pytest.raises(aiohttp.ClientConnectionError):
            await _post(http)


async def test_a_port_that_is_taken(server: RunningServer) -> None:
    """A taken port is an OSError."""
    with pytest.raises(OSError, match="address already in use"):
        await start(Simulator(SystemClock()), port=server.port)
