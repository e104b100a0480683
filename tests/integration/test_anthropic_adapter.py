"""The Anthropic adapter with the real SDK, over loopback, against a server that sends what it is told."""

import asyncio
import gzip
import json
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.llm.answers import text_of
from app.llm.anthropic import BODY_LIMIT, ERROR_BODY_LIMIT, AnthropicProvider
from app.llm.body import request_body
from app.llm.provider import ModelFailure, ModelRequest, Phase, Progress, Provider
from app.llm.usage import Tokens
from tests.support.wire import Then, Wire, chunk, event, json_reply, reply, stream_head

KEY = "test-key"
MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "claude-haiku-5-5",
    "content": [{"type": "text", "text": "Hello"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 30, "output_tokens": 5},
}
START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        **MESSAGE,
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 30, "output_tokens": 1},
    },
}
BODY = [
    START,
    {
        "type": "content_block_start",
        "index": 0,
        "content_block": {"type": "text", "text": ""},
    },
    {
        "type": "content_block_delta",
        "index": 0,
        "delta": {"type": "text_delta", "text": "Hello"},
    },
    {"type": "content_block_stop", "index": 0},
    {
        "type": "message_delta",
        "delta": {"stop_reason": "end_turn"},
        "usage": {"output_tokens": 5},
    },
]
STOP: dict[str, Any] = {"type": "message_stop"}
OVERLOADED = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    async with Wire() as server:
        yield server


@pytest.fixture
async def provider(wire: Wire) -> AsyncIterator[AnthropicProvider]:
    adapter = AnthropicProvider(KEY, wire.url)
    yield adapter
    await adapter.close()


def question(**changes: Any) -> ModelRequest:
    whole: dict[str, Any] = {
        "model": "claude-haiku-5-5",
        "max_tokens": 100,
        "messages": [{"role": "user", "content": "Hi"}],
        "timeout_s": 20.0,
    }
    return ModelRequest(**(whole | changes))


async def failure_of(provider: Provider, **changes: Any) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        await provider.ask(question(**changes))
    return caught.value


def streamed(*events: dict[str, Any]) -> bytes:
    return b"".join(chunk(event(each)) for each in events)


async def test_headers_are_found_whatever_their_case(
    wire: Wire, provider: AnthropicProvider
) -> None:
    """A proxy may have changed it: the rates, the request id and the kind of the body are still understood."""
    shouted: dict[str, Any] = {"Anthropic_RateLimit_Requests_Limit": "50", "Request_ID": "req_loud"}
    wire.play(json_reply(MESSAGE, request_id=None, **shouted))
    wire.play(
        stream_head(content_type=None, Content_Type="TEXT/event-stream", request_id=None, **shouted)
        + streamed(*BODY, STOP)
        + chunk(b"")
    )
    for _ in range(2):
        progress = Progress()
        answer = await provider.ask(question(progress=progress))
        assert (text_of(answer), answer.request_id) == ("Hello", "req_loud")
        assert progress.rates is not None
        assert progress.rates.values[0] == 50


async def test_a_question_and_its_answer(wire: Wire, provider: AnthropicProvider) -> None:
    """One POST with the key, our bytes as the body, and the answer with its request id."""
    wire.play(json_reply(MESSAGE))
    request = question(system="Be brief.", tools=({"name": "t", "input_schema": {}},))
    answer = await provider.ask(request)
    assert (text_of(answer), answer.stop_reason, answer.request_id) == (
        "Hello",
        "end_turn",
        "req_wire",
    )
    assert answer.usage is not None
    assert answer.usage.parts == (("claude-haiku-5-5", Tokens(input=30, output=5)),)
    (received,) = wire.requests
    assert received.line == "POST /v1/messages HTTP/1.1"
    assert received.headers["authorization"] == f"Bearer {KEY}"
    assert received.headers["content-type"] == "application/json"
    assert received.headers["anthropic-version"]
    assert received.body == request_body(request)
    assert json.loads(received.body) == {
        "model": "claude-haiku-5-5",
        "max_tokens": 100,
        "system": "Be brief.",
        "tools": [{"name": "t", "input_schema": {}}],
        "messages": [{"role": "user", "content": "Hi"}],
    }


async def test_the_connection_is_used_again(wire: Wire, provider: AnthropicProvider) -> None:
    """Three calls, answered whole, streamed and refused, go over one connection."""
    wire.play(stream_head(), streamed(*BODY, STOP), chunk(b""))
    wire.play(json_reply(OVERLOADED, status=529))
    wire.play(json_reply(MESSAGE))
    await provider.ask(question(stream=True))
    await failure_of(provider)
    await provider.ask(question())
    assert [received.connection for received in wire.requests] == [1, 1, 1]


async def test_a_compressed_answer(wire: Wire, provider: AnthropicProvider) -> None:
    """Compression is undone, and the bytes kept are the message's."""
    packed = gzip.compress(json.dumps(MESSAGE).encode())
    wire.play(reply(packed, content_encoding="gzip"))
    answer = await provider.ask(question())
    assert json.loads(answer.raw) == MESSAGE


async def test_retry_after_on_an_answer_means_nothing(
    wire: Wire, provider: AnthropicProvider
) -> None:
    """The API sends the header with status 200, too: that is no reason to wait or to fail."""
    wire.play(json_reply(MESSAGE, retry_after="40", x_should_retry="true"))
    assert text_of(await provider.ask(question())) == "Hello"


async def test_a_streamed_answer(wire: Wire, provider: AnthropicProvider) -> None:
    """The request asks for a stream, and the answer is the same as without."""
    whole = b"".join(event(each) for each in [*BODY, STOP])
    pieces = [chunk(whole[at : at + 50]) for at in range(0, len(whole), 50)]
    wire.play(stream_head(), *pieces, chunk(b""))
    answer = await provider.ask(question(stream=True))
    assert json.loads(wire.requests[0].body)["stream"] is True
    assert (text_of(answer), answer.stop_reason, answer.request_id) == (
        "Hello",
        "end_turn",
        "req_wire",
    )
    assert answer.usage is not None
    assert answer.usage.parts[0][1] == Tokens(input=30, output=5)


async def test_a_server_that_does_not_stream(wire: Wire, provider: AnthropicProvider) -> None:
    """Some local servers answer whole although a stream was asked for: it is an answer all the same."""
    wire.play(json_reply(MESSAGE))
    assert text_of(await provider.ask(question(stream=True))) == "Hello"


@pytest.mark.parametrize("ending", [Then.STALL, Then.RESET])
async def test_an_answer_is_complete_at_message_stop(
    wire: Wire, provider: AnthropicProvider, ending: Then
) -> None:
    """What the connection does after message_stop cannot take the answer away."""
    wire.play(stream_head(), streamed(*BODY, STOP), ending)
    answer = await asyncio.wait_for(provider.ask(question(stream=True)), 5)
    assert text_of(answer) == "Hello"


async def test_what_comes_after_message_stop_is_read_and_ignored(
    wire: Wire, provider: AnthropicProvider
) -> None:
    """The connection is read to its end, so that the next call can use it."""
    noise = chunk(b": " + b"x" * 100_000 + b"\n\n")
    wire.play(stream_head(), streamed(*BODY, STOP), noise, streamed(OVERLOADED), chunk(b""))
    wire.play(json_reply(MESSAGE))
    assert text_of(await provider.ask(question(stream=True))) == "Hello"
    await provider.ask(question())
    assert wire.connection_count == 1


@pytest.mark.parametrize("ending", [chunk(b""), Then.CLOSE, Then.RESET])
async def test_a_stream_that_ends_too_early(
    wire: Wire, provider: AnthropicProvider, ending: bytes | Then
) -> None:
    """In good order, cut in the middle or torn down: lost, with the input that was reported."""
    wire.play(stream_head(), streamed(*BODY[:3]), ending)
    if ending == chunk(b""):
        wire.play(json_reply(MESSAGE))
    failure = await failure_of(provider, stream=True)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "answer_lost")
    assert failure.usage_so_far is not None
    assert failure.usage_so_far.parts[0][1].input == 30
    assert failure.request_id == "req_wire"
    if ending == chunk(b""):
        await provider.ask(question())


async def test_an_error_inside_a_stream(wire: Wire, provider: AnthropicProvider) -> None:
    """Status 200, then `event: error`: the provider's type, the phase STREAM, the usage so far."""
    wire.play(stream_head(), streamed(*BODY[:2], OVERLOADED), Then.STALL)
    failure = await failure_of(provider, stream=True)
    assert (failure.phase, failure.error_type, failure.message) == (
        Phase.STREAM,
        "overloaded_error",
        "Overloaded",
    )
    assert failure.usage_so_far is not None
    await asyncio.wait_for(wire.client_gone.wait(), 10)


async def test_a_stream_that_stalls(wire: Wire, provider: AnthropicProvider) -> None:
    """The time of the attempt runs out in the middle: a timeout that knows the input, and a closed socket."""
    wire.play(stream_head(), streamed(*BODY[:3]), Then.STALL)
    failure = await failure_of(provider, stream=True, timeout_s=0.3)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "timeout")
    assert failure.usage_so_far is not None
    await asyncio.wait_for(wire.client_gone.wait(), 10)


async def test_an_answer_that_does_not_come(wire: Wire, provider: AnthropicProvider) -> None:
    """`timeout_s` is for the attempt as a whole, and the connection is given up with it."""
    wire.play(Then.STALL)
    failure = await failure_of(provider, timeout_s=0.1)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "timeout")
    assert failure.usage_so_far is None
    await asyncio.wait_for(wire.client_gone.wait(), 10)


@pytest.mark.parametrize(
    "script",
    [
        (),
        (reply(b"", length=500),),
        (stream_head(), streamed(*BODY[:3])),
    ],
    ids=["before the headers", "in a body", "in a stream"],
)
async def test_cancelling_closes_the_connection(
    wire: Wire, provider: AnthropicProvider, script: tuple[bytes, ...]
) -> None:
    """The caller gives up: the cancellation comes back as such, and the server sees us hang up."""
    wire.play(*script, Then.STALL)
    asking = asyncio.create_task(provider.ask(question(stream=True)))
    await asyncio.wait_for(wire.arrived.wait(), 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.wait_for(wire.client_gone.wait(), 10)


@pytest.mark.parametrize(
    "script",
    [
        (Then.CLOSE,),
        (Then.RESET,),
        (b"HTTP/1.1 200 OK\r\ncontent-le", Then.CLOSE),
        (reply(b'{"type": "mess', length=500), Then.CLOSE),
        (reply(b'{"type": "mess', length=500), Then.RESET),
        (b"SSH-2.0-OpenSSH_9.6\r\n\r\n", Then.CLOSE),
    ],
    ids=["closed", "reset", "in the headers", "in the body", "reset in the body", "not HTTP"],
)
async def test_a_lost_answer_is_not_asked_for_again(
    wire: Wire, provider: AnthropicProvider, script: tuple[bytes | Then, ...]
) -> None:
    """The request left and no answer came: lost, and sent exactly once."""
    wire.play(*script)
    failure = await failure_of(provider)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "answer_lost")
    assert len(wire.requests) == wire.connection_count == 1


@pytest.mark.parametrize("ending", [Then.CLOSE, Then.RESET])
async def test_a_kept_connection_that_breaks(
    wire: Wire, provider: AnthropicProvider, ending: Then
) -> None:
    """A used connection dies under the second request: we cannot know how far it came, so it is lost."""
    wire.play(json_reply(MESSAGE))
    wire.play(ending)
    await provider.ask(question())
    failure = await failure_of(provider)
    assert failure.phase is Phase.LOST
    assert [received.connection for received in wire.requests] == [1, 1]
    assert wire.connection_count == 1


async def test_nobody_listens() -> None:
    """A refused connection is free: nothing was sent."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        provider = AnthropicProvider(KEY, f"http://127.0.0.1:{taken.getsockname()[1]}")
        failure = await failure_of(provider)
        await provider.close()
    assert (failure.phase, failure.error_type) == (Phase.CONNECT, "connection_error")


async def test_no_free_connection(wire: Wire) -> None:
    """Waiting for a connection in vain is free, too."""
    provider = AnthropicProvider(KEY, wire.url, connect_timeout_s=0.1, max_connections=1)
    wire.play(Then.STALL)
    first = asyncio.create_task(provider.ask(question()))
    await asyncio.wait_for(wire.arrived.wait(), 10)
    failure = await failure_of(provider)
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    await provider.close()
    assert (failure.phase, failure.error_type) == (Phase.CONNECT, "connection_error")
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>Welcome</html>", content_type="text/html"),
        reply(json.dumps(MESSAGE).encode()[:-20]),
        reply(b""),
        reply(b'{"type":"message","model":"\xff"}'),
        json_reply({**MESSAGE, "content": "Hello"}),
        json_reply(OVERLOADED),
        reply(b"this is not gzip", content_encoding="gzip"),
        reply(b"", status=204, content_length=None),
    ],
    ids=["page", "cut", "empty", "utf8", "types", "error", "gzip", "no content"],
)
async def test_status_200_without_a_message(
    wire: Wire, provider: AnthropicProvider, answer: bytes
) -> None:
    """Whatever it is, it is not an answer, and it may have cost money."""
    wire.play(answer)
    failure = await failure_of(provider)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "malformed_answer")
    assert failure.request_id == "req_wire"


async def test_an_answer_without_end(wire: Wire, provider: AnthropicProvider) -> None:
    """A small compressed body that unpacks to more than we hold is given up."""
    bomb = gzip.compress(b" " * (BODY_LIMIT + 1), compresslevel=1)
    wire.play(reply(bomb, content_encoding="gzip"))
    failure = await failure_of(provider)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "malformed_answer")
    assert str(BODY_LIMIT) in failure.message


async def test_a_stream_without_end(wire: Wire, provider: AnthropicProvider) -> None:
    """The same bound holds for a stream."""
    bomb = gzip.compress(b": " + b"x" * BODY_LIMIT, compresslevel=1)
    head = stream_head(
        content_encoding="gzip", transfer_encoding=None, content_length=str(len(bomb))
    )
    wire.play(head, bomb)
    failure = await failure_of(provider, stream=True)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "malformed_answer")
    assert str(BODY_LIMIT) in failure.message


async def test_an_error_status(wire: Wire, provider: AnthropicProvider) -> None:
    """What the error says is told; the SDK neither retries nor waits."""
    body = {**OVERLOADED, "request_id": "req_body"}
    wire.play(json_reply(body, status=529, retry_after="3600", x_should_retry="true"))
    failure = await failure_of(provider)
    assert (failure.phase, failure.status, failure.error_type) == (
        Phase.RESPONSE,
        529,
        "overloaded_error",
    )
    assert (failure.retry_after_s, failure.should_retry) == (3600.0, True)
    assert (failure.api_shaped, failure.request_id) == (True, "req_wire")
    assert len(wire.requests) == 1


@pytest.mark.parametrize(
    "answer",
    [
        reply(b"<html>413</html>", status=413, content_type="text/html"),
        reply(b" " * (ERROR_BODY_LIMIT + 1), status=413),
        reply(gzip.compress(b" " * ERROR_BODY_LIMIT * 8), status=413, content_encoding="gzip"),
        reply(b"no gzip", status=413, content_encoding="gzip"),
    ],
    ids=["page", "long", "bomb", "not gzip"],
)
async def test_an_error_page(wire: Wire, provider: AnthropicProvider, answer: bytes) -> None:
    """Somebody in front of the provider refused: the status stands, whatever the body is."""
    wire.play(answer)
    failure = await failure_of(provider)
    assert (failure.phase, failure.status, failure.api_shaped) == (Phase.RESPONSE, 413, False)


async def test_an_error_that_is_cut(wire: Wire, provider: AnthropicProvider) -> None:
    """The status came; that its body did not makes it no lost answer."""
    wire.play(reply(b'{"type": "err', status=500, length=400), Then.RESET)
    failure = await failure_of(provider)
    assert (failure.phase, failure.status, failure.error_type) == (Phase.RESPONSE, 500, "http_500")


async def test_a_redirect_is_not_followed(wire: Wire, provider: AnthropicProvider) -> None:
    """A redirected POST would be a second send, and the key would go with it."""
    wire.play(reply(b"", status=307, location=f"{wire.url}/elsewhere"))
    failure = await failure_of(provider)
    assert (failure.phase, failure.status) == (Phase.RESPONSE, 307)
    assert len(wire.requests) == 1


async def test_a_gateway_that_echoes_the_key(wire: Wire, provider: AnthropicProvider) -> None:
    """Our key is in no message, in whatever phase it comes back."""
    echo = {"type": "error", "error": {"type": "x", "message": f"key {KEY} is not known"}}
    wire.play(json_reply(echo, status=401))
    wire.play(stream_head(), streamed(START, echo), Then.STALL)
    for stream in (False, True):
        failure = await failure_of(provider, stream=stream)
        assert str(failure) == failure.message == "key [hidden] is not known"


async def test_the_environment_adds_nothing(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys, headers and addresses lying about in the environment stay there."""
    monkeypatch.setenv("ANTHROPIC_API_KEY", "env-key")
    monkeypatch.setenv("ANTHROPIC_AUTH_TOKEN", "env-token")
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ANTHROPIC_CUSTOM_HEADERS", "X-Sneaky: env\nAuthorization: env")
    for key, sent in ((KEY, f"Bearer {KEY}"), (None, None), ("", None)):
        provider = AnthropicProvider(key, wire.url)
        wire.play(json_reply(MESSAGE))
        await provider.ask(question())
        await provider.close()
        headers = wire.requests[-1].headers
        assert headers.get("authorization") == sent
        assert "x-api-key" not in headers
        assert "env" not in " ".join(headers.values())


@pytest.mark.parametrize("key", ["line\nbreak", "schlüssel"])
def test_a_key_that_no_header_can_carry(key: str) -> None:
    """It is refused at start-up and not shown."""
    with pytest.raises(ValueError, match="API key") as caught:
        AnthropicProvider(key, None)
    assert key not in str(caught.value)


async def test_a_request_that_is_not_json(wire: Wire, provider: AnthropicProvider) -> None:
    """A bug of the caller's is no failure of the provider's, and nothing is sent."""
    with pytest.raises(TypeError):
        await provider.ask(question(messages=[{"role": "user", "content": {1, 2}}]))
    assert wire.connection_count == 0


async def test_many_at_once(wire: Wire, provider: AnthropicProvider) -> None:
    """Calls in flight at the same time do not wait for one another, nor mix up their answers."""
    for number in range(200):
        text = [{"type": "text", "text": str(number)}]
        wire.play(json_reply({**MESSAGE, "content": text}))
    answers = await asyncio.gather(*(provider.ask(question()) for _ in range(200)))
    assert {text_of(answer) for answer in answers} == {str(number) for number in range(200)}


async def test_a_client_that_cannot_be_opened(
    wire: Wire, monkeypatch: pytest.MonkeyPatch, log_lines: Any
) -> None:
    """Nothing was sent, and the log says why; once the cause is gone the next question goes through."""
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere/ca.pem")
    adapter = AnthropicProvider(KEY, wire.url)
    adapter.warm_up()
    failure = await failure_of(adapter)
    assert (failure.phase, failure.error_type) == (Phase.CONNECT, "client_failed")
    assert "ca.pem" in failure.message or "FileNotFoundError" in failure.message
    assert log_lines.entries("upstream_client_failed")
    monkeypatch.delenv("SSL_CERT_FILE")
    wire.play(json_reply(MESSAGE))
    assert text_of(await adapter.ask(question())) == "Hello"
    await adapter.close()


async def test_a_login_beside_a_key(wire: Wire) -> None:
    """A request can carry only one of them: nothing is sent, and so nothing is booked."""
    adapter = AnthropicProvider(KEY, wire.url.replace("//", "//user:word@"))
    failure = await failure_of(adapter)
    assert (failure.phase, failure.error_type) == (Phase.CONNECT, "client_failed")
    assert "word" not in failure.message
    await adapter.close()
    wire.play(json_reply(MESSAGE))
    alone = AnthropicProvider(None, wire.url.replace("//", "//user:word@"))
    assert text_of(await alone.ask(question())) == "Hello"
    await alone.close()
    assert wire.connection_count == 1


async def test_a_client_that_is_being_opened_is_closed(wire: Wire) -> None:
    """Whoever leaves at once leaves nothing open; whoever never asked has nothing to close."""
    adapter = AnthropicProvider(KEY, wire.url)
    await adapter.close()
    adapter.warm_up()
    await adapter.close()
    assert not [t for t in asyncio.all_tasks() if t.get_name() == "open-line"]


def test_importing_the_adapter_is_cheap() -> None:
    """The SDK takes a second of CPU to load; that is spent when a client is opened, not before."""
    code = "import sys, app.llm.anthropic; print({'anthropic', 'httpx2', 'aiohttp'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    assert done.stdout.strip() == "set()"


@pytest.mark.corpus
async def test_every_recorded_answer_over_the_wire(
    corpus: Path, wire: Wire, provider: AnthropicProvider
) -> None:
    """Recorded bodies and headers, sent again by a server: each comes out as the answer or failure it is."""
    kinds: Counter[str] = Counter()
    for path in sorted((corpus / "recordings").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            records = [json.loads(line) for line in lines]
        for record in records:
            if (record["request"]["path"] or "").split("?")[0] == "/v1/messages":
                kinds[await replay(record["response"], wire, provider)] += 1
    assert kinds == {"message": 522, "stream": 228, "error": 28}


async def replay(response: dict[str, Any], wire: Wire, provider: AnthropicProvider) -> str:
    dropped = (
        "content-length",
        "content-encoding",
        "transfer-encoding",
        "connection",
        "set-cookie",
    )
    headers = {
        name.replace("-", "_"): value
        for name, value in response["headers"].items()
        if name.lower() not in dropped
    }
    sse = response.get("sse")
    if sse:
        headers.setdefault("content_type", "text/event-stream")  # some recordings left it out
    body = response.get("text") or sse or json.dumps(response.get("body"))
    wire.play(reply(body.encode(), status=response["status"], **headers))
    if response["status"] >= 400:
        failure = await failure_of(provider)
        assert (failure.phase, failure.status) == (Phase.RESPONSE, response["status"])
        return "error"
    answer = await provider.ask(question(stream=bool(sse)))
    assert answer.usage is not None
    assert answer.stop_reason is not None
    if sse:
        assert f'"stop_reason":"{answer.stop_reason}"' in sse.replace(": ", ":")
        return "stream"
    assert json.loads(answer.raw) == response["body"]
    return "message"
