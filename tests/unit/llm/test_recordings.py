"""Recorded traffic of the real API: every message parses to what it says, every error to its fields."""

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import anthropic
import httpx2
import jsonschema
import pytest

from app.llm.answers import parse_answer, text_of, tool_uses
from app.llm.body import request_body
from app.llm.failures import status_failure
from app.llm.provider import ModelAnswer, ModelRequest, Phase
from app.llm.stream import MessageStream
from app.llm.usage import read_usage

pytestmark = pytest.mark.corpus

MESSAGE_COUNT = 594
STREAM_COUNT = 269
STREAMED_MESSAGE_COUNT = 289
ERROR_COUNT = 43
RATE_LIMITED_COUNT = 4

SPLICED = "vercel-ai:61"
"""Two different messages in one stream, the first broken off: the SDK mixes them, we keep the second."""
UNREADABLE = {
    "dd-trace-js:19": "recorded as compressed bytes without saying so: its status is all there is",
}


def records(corpus: Path) -> Iterator[dict[str, Any]]:
    for path in sorted((corpus / "recordings").glob("*.jsonl")):
        with path.open(encoding="utf-8") as lines:
            yield from (json.loads(line) for line in lines)


def is_messages_call(record: dict[str, Any]) -> bool:
    """Also the fixtures that have no request: those are messages or streams of messages."""
    path = record["request"]["path"]
    return path is None or path.split("?")[0] == "/v1/messages"


def recorded_messages(corpus: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for record in records(corpus):
        body = record["response"].get("body")
        if is_messages_call(record) and (record["response"]["status"] or 200) < 300 and body:
            yield record["id"], body


def recorded_streams(corpus: Path) -> Iterator[tuple[str, list[str]]]:
    """Id and the streams in it: some fixtures are a conversation's streams, one behind the other."""
    for record in records(corpus):
        sse = record["response"].get("sse")
        if is_messages_call(record) and sse:
            yield record["id"], split_streams(sse)


def split_streams(sse: str) -> list[str]:
    streams, current = [], ""
    for part in sse.replace("\r\n", "\n").split("\n\n"):
        current += f"{part}\n\n" if part.strip() else ""
        if "event: message_stop" in part or '"type":"message_stop"' in part:
            streams.append(current)
            current = ""
    return [*streams, current] if current else streams


def recorded_errors(corpus: Path) -> Iterator[dict[str, Any]]:
    return (record for record in records(corpus) if (record["response"]["status"] or 0) >= 400)


def accumulated(stream: str, size: int) -> ModelAnswer:
    raw = stream.encode()
    accumulator = MessageStream()
    for at in range(0, len(raw), size):
        accumulator.feed(raw[at : at + size])
    return accumulator.answer()


def bare(value: Any) -> Any:
    """Without nulls and without the field that the SDK makes up: what is left must be equal."""
    if isinstance(value, dict):
        return {
            key: bare(item)
            for key, item in value.items()
            if item is not None and key != "parsed_output"
        }
    return [bare(item) for item in value] if isinstance(value, list) else value


class Sdk:
    """The SDK's own accumulation, over a transport that plays one recorded stream."""

    def __init__(self) -> None:
        self._sse = ""
        self._client = anthropic.Anthropic(
            api_key="test-key",
            max_retries=0,
            http_client=httpx2.Client(transport=httpx2.MockTransport(self._play)),
        )

    def message(self, sse: str) -> dict[str, Any]:
        self._sse = sse
        question: Any = [{"role": "user", "content": "?"}]
        with self._client.beta.messages.stream(
            model="claude-haiku-5-5", max_tokens=1, messages=question
        ) as stream:
            whole = stream.get_final_message()
        found = whole.model_dump(mode="json", warnings=False, exclude_unset=True, by_alias=True)
        assert isinstance(found, dict)
        return found

    def _play(self, request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, text=self._sse)


@pytest.fixture
def sdk():
    return Sdk()


def test_every_message(corpus: Path) -> None:
    """Stop reason, text, calls and usage of each recorded message, against its JSON read by other code."""
    count = 0
    for record_id, message in recorded_messages(corpus):
        answer = parse_answer(json.dumps(message).encode(), "req_1")
        texts = [block["text"] for block in message["content"] if "text" in block]
        calls = [block for block in message["content"] if block["type"] == "tool_use"]
        assert text_of(answer) == "".join(texts), record_id
        assert [(call.id, call.name, call.input) for call in tool_uses(answer)] == [
            (block["id"], block["name"], block["input"]) for block in calls
        ], record_id
        assert not any(call.malformed for call in tool_uses(answer)), record_id
        assert answer.stop_reason == message["stop_reason"], record_id
        assert (answer.model, answer.content) == (message["model"], message["content"]), record_id
        check_usage(record_id, answer, message["usage"])
        count += 1
    assert count == MESSAGE_COUNT


def check_usage(record_id: str, answer: ModelAnswer, reported: dict[str, Any]) -> None:
    """Against the plain sums of the report; iterations are the usage reader's own subject."""
    assert answer.usage == read_usage(reported, answer.model), record_id
    assert answer.usage is not None, record_id
    if reported.get("iterations"):
        return
    ((model, tokens),) = answer.usage.parts
    prompt = sum(
        reported.get(name) or 0
        for name in ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    )
    assert (model, tokens.prompt) == (answer.model, prompt), record_id
    assert tokens.output == reported["output_tokens"], record_id


@pytest.mark.timeout(timedelta(minutes=2).total_seconds())
def test_every_stream_gives_what_the_sdk_makes_of_it(corpus: Path, sdk: Sdk) -> None:
    """Our message equals the one the SDK accumulates from the same bytes, block by block and in usage."""
    stream_count = message_count = 0
    for record_id, streams in recorded_streams(corpus):
        stream_count += 1
        for stream in streams:
            message_count += 1
            if record_id == SPLICED:
                continue
            answer = accumulated(stream, size=4096)
            assert bare(json.loads(answer.raw)) == bare(sdk.message(stream)), record_id
            assert answer.usage is not None, record_id
            assert not any(call.malformed for call in tool_uses(answer)), record_id
    assert (stream_count, message_count) == (STREAM_COUNT, STREAMED_MESSAGE_COUNT)


def test_every_stream_is_the_same_however_it_is_cut(corpus: Path) -> None:
    """Chunks end anywhere, in the middle of a character too."""
    count = 0
    for record_id, streams in recorded_streams(corpus):
        for stream in streams:
            assert accumulated(stream, size=7) == accumulated(stream, size=1 << 20), record_id
            count += 1
    assert count == STREAMED_MESSAGE_COUNT


def test_a_spliced_stream_is_its_second_message(corpus: Path) -> None:
    """The one stream the SDK is no judge of."""
    ((stream,),) = [
        streams for record_id, streams in recorded_streams(corpus) if record_id == SPLICED
    ]
    answer = accumulated(stream, size=100)
    assert answer.stop_reason == "tool_use"
    assert [(call.id, call.input) for call in tool_uses(answer)] == [
        ("toolu_second", {"value": "Sparkle Day"})
    ]
    assert answer.content[0] == {
        "type": "thinking",
        "thinking": "Let me call the tool.",
        "signature": "sig-second",
    }
    assert answer.usage is not None
    assert (answer.usage.parts[0][1].input, answer.usage.parts[0][1].output) == (17, 65)


def test_every_error(corpus: Path) -> None:
    """Type, message, request id and the server's word on retrying, for every recorded error."""
    ids, rate_limited = [], 0
    for record in recorded_errors(corpus):
        response = record["response"]
        ids.append(record["id"])
        told = response.get("body") or {"error": {}}
        raw = json.dumps(told) if "body" in response else response["text"]
        headers = httpx2.Headers(response["headers"])
        failure = status_failure(response["status"], headers, raw.encode(), now_us=0)
        shaped = record["id"] not in UNREADABLE
        assert failure.api_shaped is shaped, record["id"]
        assert failure.error_type == (told["error"]["type"] if shaped else "http_401"), record["id"]
        assert not shaped or failure.message == told["error"]["message"], record["id"]
        assert (failure.phase, failure.status) == (Phase.RESPONSE, response["status"])
        assert failure.request_id == (headers.get("request-id") or told.get("request_id"))
        said = {"true": True, "false": False, None: None}[headers.get("x-should-retry")]
        assert (failure.should_retry, failure.retry_after_s) == (said, None), record["id"]
        if response["status"] == 429:
            assert (failure.should_retry, failure.error_type) == (True, "rate_limit_error")
            rate_limited += 1
    assert (len(ids), rate_limited) == (ERROR_COUNT, RATE_LIMITED_COUNT)
    assert set(UNREADABLE) <= set(ids)


@pytest.mark.parametrize("streaming", [False, True])
def test_requests_are_valid(corpus: Path, streaming: bool) -> None:
    """Every recorded conversation, asked by us, is a valid request by the SDK's own schema."""
    name = "Streaming" if streaming else "NonStreaming"
    path = corpus / "schema" / f"MessageCreateParams{name}.schema.json"
    validator = jsonschema.Draft202012Validator(json.loads(path.read_text(encoding="utf-8")))
    count = 0
    for record in records(corpus):
        asked = record["request"]["body"]
        if not is_messages_call(record) or not isinstance(asked, dict):
            continue
        system = asked.get("system")
        request = ModelRequest(
            model=asked["model"],
            max_tokens=asked["max_tokens"],
            messages=asked["messages"],
            system=system if isinstance(system, str) else None,
            tools=tuple(asked.get("tools") or ()),
            stream=streaming,
        )
        if validator.is_valid({**asked, "stream": streaming}):
            validator.validate(json.loads(request_body(request)))
            count += 1
    assert count > 300
