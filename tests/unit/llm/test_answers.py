"""A message as JSON becomes an answer, or a failure that says what is wrong with it."""

import json
from typing import Any

import pytest

from app.llm.answers import ToolUse, parse_answer, text_of, to_json, tool_uses
from app.llm.provider import ModelAnswer, ModelFailure, Phase
from app.llm.usage import Tokens

USAGE = {"input_tokens": 12, "output_tokens": 5, "cache_read_input_tokens": 7}


def message(**changes: Any) -> dict[str, Any]:
    whole = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "end_turn",
        "usage": USAGE,
    }
    return {name: value for name, value in (whole | changes).items() if value is not ...}


def parsed(**changes: Any) -> ModelAnswer:
    return parse_answer(json.dumps(message(**changes)).encode(), "req_1")


def test_a_plain_message() -> None:
    """Every field of the answer comes from the message; the bytes are kept as received."""
    raw = json.dumps(message(), indent=3).encode()
    answer = parse_answer(raw, "req_1")
    assert answer.raw == raw
    assert (answer.model, answer.stop_reason, answer.request_id) == (
        "claude-haiku-5-5",
        "end_turn",
        "req_1",
    )
    assert answer.usage is not None
    assert answer.usage.parts == (("claude-haiku-5-5", Tokens(input=12, output=5, cache_read=7)),)
    assert text_of(answer) == "Hello"
    assert tool_uses(answer) == []


def test_text_is_never_the_first_block_by_assumption() -> None:
    """Thinking comes first and tool calls in between: only text blocks are text."""
    answer = parsed(
        content=[
            {"type": "thinking", "thinking": "", "signature": "c2ln"},
            {"type": "text", "text": "Let me "},
            {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}},
            {"type": "text", "text": "see."},
        ],
    )
    assert text_of(answer) == "Let me see."
    assert tool_uses(answer) == [ToolUse("toolu_1", "add", {"a": 1})]


def test_no_content_is_an_answer() -> None:
    """An empty turn is whole: no text, no calls."""
    answer = parsed(content=[])
    assert (text_of(answer), tool_uses(answer)) == ("", [])


def test_unknown_blocks_are_kept_as_they_are() -> None:
    """What we do not know goes back to the provider unchanged."""
    blocks = [{"type": "hologram", "depth": [1, {"x": None}]}, {"type": "text", "text": "."}]
    assert parsed(content=blocks).content == blocks


def test_parallel_calls_keep_their_order() -> None:
    """Two calls of one turn come out in the order they were made; server tools are not ours to run."""
    answer = parsed(
        content=[
            {"type": "tool_use", "id": "toolu_b", "name": "x", "input": {}},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            {"type": "tool_use", "id": "toolu_a", "name": "y", "input": {}},
        ],
    )
    assert [call.id for call in tool_uses(answer)] == ["toolu_b", "toolu_a"]


@pytest.mark.parametrize(
    ("changes", "read"),
    [
        ({"id": None}, ToolUse("", "add", {"a": 1}, malformed=True)),
        ({"id": ""}, ToolUse("", "add", {"a": 1}, malformed=True)),
        ({"name": 7}, ToolUse("toolu_1", "", {"a": 1}, malformed=True)),
        ({"input": '{"a": 1'}, ToolUse("toolu_1", "add", {}, malformed=True)),
        ({"input": [1]}, ToolUse("toolu_1", "add", {}, malformed=True)),
        ({"input": None}, ToolUse("toolu_1", "add", {}, malformed=True)),
    ],
)
def test_a_call_with_a_wrong_type_is_marked(changes: dict[str, Any], read: ToolUse) -> None:
    """The answer stands and is paid for; the one call in it must not run."""
    block = {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": 1}} | changes
    assert tool_uses(parsed(content=[block])) == [read]


@pytest.mark.parametrize("usage", [None, ..., {}, {"input_tokens": -1, "output_tokens": 2}, "5"])
def test_usage_that_cannot_be_trusted_is_none(usage: Any) -> None:
    """The answer is good, its price unknown; unknown is not zero."""
    assert parsed(usage=usage).usage is None


def test_a_refusal_keeps_its_details() -> None:
    """Why a model refused is handed on."""
    details = {"type": "refusal", "category": "cyber"}
    answer = parsed(stop_reason="refusal", stop_details=details, content=[])
    assert (answer.stop_reason, answer.stop_details) == ("refusal", details)


@pytest.mark.parametrize("stop_reason", ["something_new", None])
def test_any_stop_reason_passes(stop_reason: str | None) -> None:
    """What to do about a new stop reason is the loop's business."""
    assert parsed(stop_reason=stop_reason).stop_reason == stop_reason


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"<html><body>Bad gateway</body></html>",
        json.dumps(message()).encode()[:-9],
        b'{"type":"message","model":"m","content":[{"type":"text","text":"\xff"}]}',
        b"[]",
        b"null",
        b'"message"',
    ],
)
def test_bytes_that_are_no_message(raw: bytes) -> None:
    """Status 200 and no message: it may have been billed, so the attempt is lost, not free."""
    with pytest.raises(ModelFailure) as caught:
        parse_answer(raw, "req_1")
    failure = caught.value
    assert (failure.error_type, failure.phase) == ("malformed_answer", Phase.LOST)
    assert failure.request_id == "req_1"


@pytest.mark.parametrize(
    "changes",
    [
        {"type": "error"},
        {"type": ...},
        {"model": ...},
        {"model": ""},
        {"model": 4},
        {"content": None},
        {"content": ...},
        {"content": "Hello"},
        {"content": {"type": "text", "text": "Hello"}},
        {"content": ["Hello"]},
        {"content": [{"text": "Hello"}]},
        {"content": [{"type": "text"}]},
        {"content": [{"type": "text", "text": None}]},
        {"stop_reason": 1},
        {"stop_details": "cyber"},
    ],
)
def test_an_object_that_is_no_message(changes: dict[str, Any]) -> None:
    """A wrong type where the loop or the ledger looks is caught here, not there."""
    with pytest.raises(ModelFailure) as caught:
        parsed(**changes)
    assert (caught.value.error_type, caught.value.phase) == ("malformed_answer", Phase.LOST)


def test_json_keeps_the_order_of_keys() -> None:
    """A prompt cache compares bytes, so the same history must give the same bytes."""
    assert to_json({"b": 1, "a": [True, None, "é"]}) == '{"b":1,"a":[true,null,"é"]}'.encode()


def test_json_that_the_fast_encoder_refuses() -> None:
    """Deep nesting, wide integers and half a surrogate pair are JSON and must not end a task."""
    deep: Any = 1
    for _ in range(400):
        deep = [deep]
    value = {"deep": deep, "wide": 10**30, "half": "\ud83d"}
    assert json.loads(to_json(value)) == value


def test_what_is_not_json_is_refused() -> None:
    """A value that has no JSON is a bug of the caller's and says so."""
    with pytest.raises(TypeError):
        to_json({"x": {1, 2}})
