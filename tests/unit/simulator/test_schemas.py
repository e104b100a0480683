"""Replies against JSON Schemas generated from the SDK's types."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import orjson
import pytest

from app.simulator.directive import STOPS
from tests.unit.simulator.driving import CALCULATOR, KEY, Driver, asking, events, read

pytestmark = pytest.mark.corpus
_TYPED = [stop for stop in STOPS if stop != "unknown"]
_ASKED: dict[str, dict[str, Any]] = {
    "steps": {"steps": 1, "parallel": 3},
    "thinking": {"thinking": True},
}
_ODD = ["steps", "thinking", "plain", *_TYPED]


def _schema(corpus: Path, name: str) -> Any:
    return json.loads((corpus / "schema" / f"{name}.schema.json").read_text())


def _request(odd: str, **fields: Any) -> dict[str, Any]:
    asked = _ASKED.get(odd, {"stop": odd} if odd in STOPS else {})
    text = f"Why? [[sim {orjson.dumps(asked).decode()}]]"
    return asking(text, tools=[CALCULATOR], **fields)


@pytest.mark.parametrize("odd", _ODD)
def test_messages(corpus: Path, driver: Driver, odd: str) -> None:
    """Every kind of answer is a Message."""
    answer = read(driver.plan(_request(odd)))
    jsonschema.validate(answer, _schema(corpus, "Message"))


@pytest.mark.parametrize("odd", _ODD)
def test_stream_events(corpus: Path, driver: Driver, odd: str) -> None:
    """Every event of every kind of stream is a RawMessageStreamEvent."""
    validator = jsonschema.Draft202012Validator(_schema(corpus, "RawMessageStreamEvent"))
    found = [e for e in events(driver.plan(_request(odd, stream=True))) if e["type"] != "ping"]
    assert found[-1]["type"] == "message_stop"
    for event in found:
        validator.validate(event)


def test_errors(corpus: Path, driver: Driver) -> None:
    """Every error is an ErrorResponse; 413 alone has a type the SDK does not know."""
    driver.faults(*({"kind": kind} for kind in ("rate_limit", "overloaded", "server_error")))
    replies = [driver.plan(asking()) for _ in range(3)]
    replies += [driver.plan({}), driver.plan(asking(model="x"))]
    replies += [driver.simulator.reply("POST", "/v1/messages", {}, b"")]
    assert [reply.status for reply in replies] == [429, 529, 500, 400, 404, 401]
    for reply in replies:
        jsonschema.validate(read(reply), _schema(corpus, "ErrorResponse"))


def test_token_counts(corpus: Path, driver: Driver) -> None:
    """A count is a MessageTokensCount."""
    request = asking()
    del request["max_tokens"]
    body = orjson.dumps(request)
    counted = driver.simulator.reply("POST", "/v1/messages/count_tokens", KEY, body)
    jsonschema.validate(read(counted), _schema(corpus, "MessageTokensCount"))


def test_recorded_requests_are_understood(corpus: Path, driver: Driver) -> None:
    """What the real API answered, from many clients' tool loops, is not refused here."""
    loops = [json.loads(line) for line in (corpus / "loops.jsonl").read_text().splitlines()]
    steps = [step for loop in loops for step in loop["steps"] if step["response"]["status"] == 200]
    replies = [driver.plan(_of_today(step["request"]["body"])) for step in steps]
    refused = [read(reply)["error"]["message"] for reply in replies if reply.status != 200]
    assert len(steps) > 200
    assert refused == []


def _of_today(body: dict[str, Any]) -> dict[str, Any]:
    """A recorded request without what its time or its headers allowed: sampling, edits, retired models, other signatures."""
    dropped = {"temperature", "top_p", "top_k", "thinking", "tool_choice", "stream"}
    dropped |= {"context_management"}
    request = {name: value for name, value in body.items() if name not in dropped}
    messages = [
        {**message, "content": _signed_elsewhere_left_out(message["content"])}
        for message in request["messages"]
    ]
    inserted = any(message["role"] == "system" for message in messages)
    model = "claude-opus-4-8" if inserted else "claude-opus-4-5"
    return {**request, "model": model, "messages": messages}


def _signed_elsewhere_left_out(content: Any) -> Any:
    if isinstance(content, str):
        return content
    return [block for block in content if block["type"] != "thinking"]
