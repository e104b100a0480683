"""Bodies: markers are laid over the conversation as it leaves, and nothing else changes."""

from typing import Any

import orjson
import pytest

from app.llm.answers import to_json
from app.llm.body import counting_body, request_body
from app.llm.provider import CacheMarks, ModelRequest
from tests.support.provider import HAIKU, text, thinking, tool_use

TOOL = {"name": "probe", "description": "A probe.", "input_schema": {"type": "object"}}
MARK = {"type": "ephemeral"}


def asked(*messages: dict[str, Any], **given: Any) -> ModelRequest:
    """A request with these messages."""
    return ModelRequest(HAIKU, 100, list(messages), **given)


def user(content: object) -> dict[str, Any]:
    """A user's message."""
    return {"role": "user", "content": content}


def sent(request: ModelRequest) -> dict[str, Any]:
    """The body as it arrives."""
    found: dict[str, Any] = orjson.loads(request_body(request))
    return found


def test_without_markers_the_conversation_goes_out_as_it_is() -> None:
    """Encoded before or now: the same bytes."""
    messages = (user("Hi."), {"role": "assistant", "content": [text("Ho.")]}, user([text("So?")]))
    request = asked(*messages, system="Be brief.", tools=(TOOL,), stream=True)
    known = asked(*messages, system="Be brief.", tools=(TOOL,), stream=True)
    object.__setattr__(known, "encoded", [to_json(message) for message in messages[:2]])
    assert request_body(request) == request_body(known)
    assert sent(request) == {
        "model": HAIKU,
        "max_tokens": 100,
        "system": "Be brief.",
        "tools": [TOOL],
        "messages": list(messages),
        "stream": True,
    }


def test_one_marker_behind_the_system_prompt_covers_the_tools() -> None:
    """Tools stand before it; without a system prompt the last of them carries the marker."""
    marks = CacheMarks("5m", prefix=True)
    body = sent(asked(user("Hi."), system="Be brief.", tools=(TOOL, TOOL), marks=marks))
    assert body["system"] == [{**text("Be brief."), "cache_control": MARK}]
    assert body["tools"] == [TOOL, TOOL]
    for nothing in (None, ""):
        body = sent(asked(user("Hi."), system=nothing, tools=(TOOL, TOOL), marks=marks))
        assert body["tools"] == [TOOL, {**TOOL, "cache_control": MARK}]


def test_a_marked_message_is_the_same_but_for_its_marker() -> None:
    """Text becomes the block that it is short for; the conversation that is kept stays as it is."""
    messages = (user("Hi."), user([text("a"), text("b")]))
    request = asked(*messages, marks=CacheMarks("1h", prefix=False, messages=(0, 1)))
    before = orjson.dumps(request.messages)
    hour = {"type": "ephemeral", "ttl": "1h"}
    assert sent(request)["messages"] == [
        user([{**text("Hi."), "cache_control": hour}]),
        user([text("a"), {**text("b"), "cache_control": hour}]),
    ]
    assert orjson.dumps(request.messages) == before


@pytest.mark.parametrize(
    "last", [thinking(), {"type": "redacted_thinking", "data": "x"}, text("")], ids=str
)
def test_what_cannot_be_marked_is_passed_over(last: dict[str, Any]) -> None:
    """The marker moves up to the last block that can carry it."""
    blocks = [tool_use("1"), last]
    marks = CacheMarks("5m", prefix=False, messages=(0,))
    (message,) = sent(asked({"role": "assistant", "content": blocks}, marks=marks))["messages"]
    assert message["content"] == [{**tool_use("1"), "cache_control": MARK}, last]
    (message,) = sent(asked({"role": "assistant", "content": [last]}, marks=marks))["messages"]
    assert message["content"] == [last]


def test_a_count_knows_no_markers() -> None:
    """Nor a length."""
    marks = CacheMarks("5m", prefix=True, messages=(0,))
    request = asked(user("Hi."), system="Be brief.", marks=marks)
    assert orjson.loads(counting_body(request)) == {
        "model": HAIKU,
        "system": "Be brief.",
        "messages": [user("Hi.")],
    }


def test_a_conversation_may_be_summarized_above_a_size() -> None:
    """Told in the body; the beta goes in a header."""
    body = sent(asked(user("Hi."), compact_above_tokens=60_000, compacted=True))
    trigger = {"type": "input_tokens", "value": 60_000}
    assert body["context_management"] == {
        "edits": [{"type": "compact_20260112", "trigger": trigger}]
    }
    assert "context_management" not in sent(asked(user("Hi."), compacted=True))
