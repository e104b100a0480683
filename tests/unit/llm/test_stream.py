"""Events in, message out; and every way a stream can end without one."""

import json
from typing import Any

import pytest

from app.llm.answers import text_of, tool_uses
from app.llm.provider import ModelAnswer, ModelFailure, Phase
from app.llm.stream import EventReader, MessageStream
from app.llm.usage import Tokens
from tests.support.wire import event

START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 30, "output_tokens": 1, "cache_read_input_tokens": 4},
    },
}
STOP: dict[str, Any] = {"type": "message_stop"}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **fields}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(stop_reason: str, **usage: Any) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": stop_reason}, "usage": usage}


def streamed(*events: dict[str, Any]) -> ModelAnswer:
    stream = MessageStream()
    stream.request_id = "req_1"
    for each in events:
        stream.feed(event(each))
    return stream.answer()


def failure_of(*events: dict[str, Any]) -> ModelFailure:
    with pytest.raises(ModelFailure) as caught:
        streamed(*events)
    return caught.value


def test_a_whole_message() -> None:
    """Thinking, text and a tool call are put together; usage is the last that was said."""
    answer = streamed(
        START,
        {"type": "ping"},
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, "thinking_delta", thinking="Hm"),
        delta(0, "thinking_delta", thinking="m."),
        delta(0, "signature_delta", signature="c2ln"),
        end(0),
        begin(1, type="text", text=""),
        delta(1, "text_delta", text="Hel"),
        delta(1, "text_delta", text="lo"),
        end(1),
        begin(2, type="tool_use", id="toolu_1", name="add", input={}),
        delta(2, "input_json_delta", partial_json=""),
        delta(2, "input_json_delta", partial_json='{"a": [1'),
        delta(2, "input_json_delta", partial_json=", 2]}"),
        end(2),
        finish("tool_use", output_tokens=9),
        STOP,
    )
    assert answer.content == [
        {"type": "thinking", "thinking": "Hmm.", "signature": "c2ln"},
        {"type": "text", "text": "Hello"},
        {"type": "tool_use", "id": "toolu_1", "name": "add", "input": {"a": [1, 2]}},
    ]
    assert (answer.stop_reason, answer.request_id) == ("tool_use", "req_1")
    assert answer.usage is not None
    assert answer.usage.parts == (("claude-haiku-5-5", Tokens(input=30, output=9, cache_read=4)),)
    assert json.loads(answer.raw)["content"] == answer.content


def test_blocks_that_come_whole_and_blocks_nobody_knows() -> None:
    """A block without deltas stays as it began; unknown events and deltas are passed over."""
    blocks: list[dict[str, Any]] = [
        {"type": "tool_use", "id": "toolu_1", "name": "roll", "input": {"player": "one"}},
        {"type": "redacted_thinking", "data": "b3BhcXVl"},
        {"type": "hologram", "depth": 3},
    ]
    events = [begin(index, **block) for index, block in enumerate(blocks)]
    answer = streamed(
        START,
        *events,
        delta(2, "hologram_delta", depth=4),
        {"type": "something_new", "index": 9},
        finish("end_turn", output_tokens=2),
        STOP,
    )
    assert answer.content == blocks


def test_citations_and_compaction() -> None:
    """Citations are gathered in order; a compaction brings its text at once."""
    answer = streamed(
        START,
        begin(0, type="text", text="", citations=None),
        delta(0, "citations_delta", citation={"cited_text": "a"}),
        delta(0, "text_delta", text="x"),
        delta(0, "citations_delta", citation={"cited_text": "b"}),
        begin(1, type="compaction", content=None),
        delta(1, "compaction_delta", content="so far", encrypted_content="ZQ=="),
        finish("end_turn", output_tokens=2),
        STOP,
    )
    assert answer.content[0]["citations"] == [{"cited_text": "a"}, {"cited_text": "b"}]
    assert answer.content[1] == {
        "type": "compaction",
        "content": "so far",
        "encrypted_content": "ZQ==",
    }


def test_a_call_cut_off_by_max_tokens_cannot_be_mistaken_for_a_call() -> None:
    """Half of a JSON object is kept as text and marked, however runnable its beginning looks."""
    answer = streamed(
        START,
        begin(0, type="tool_use", id="toolu_1", name="rm", input={}),
        delta(0, "input_json_delta", partial_json='{"path": "/tmp/a'),
        end(0),
        finish("max_tokens", output_tokens=64),
        STOP,
    )
    assert answer.content[0]["input"] == '{"path": "/tmp/a'
    assert [call.malformed for call in tool_uses(answer)] == [True]


def test_a_call_without_arguments() -> None:
    """No JSON at all means no arguments."""
    answer = streamed(
        START,
        begin(0, type="tool_use", id="toolu_1", name="now"),
        delta(0, "input_json_delta", partial_json=""),
        finish("tool_use", output_tokens=3),
        STOP,
    )
    assert [(call.input, call.malformed) for call in tool_uses(answer)] == [({}, False)]


def test_usage_of_the_end_overrides_that_of_the_start_field_by_field() -> None:
    """Totals replace, what is left out or null stays, iterations are kept."""
    passes = [
        {"type": "compaction", "input_tokens": 500, "output_tokens": 50},
        {"type": "message", "input_tokens": 40, "output_tokens": 8},
    ]
    answer = streamed(
        START,
        finish("pause_turn", output_tokens=3),
        finish(
            "end_turn",
            input_tokens=40,
            output_tokens=8,
            cache_read_input_tokens=0,
            cache_creation_input_tokens=None,
            iterations=passes,
        ),
        STOP,
    )
    assert answer.usage is not None
    assert answer.usage.parts == (
        ("claude-haiku-5-5", Tokens(input=500, output=50)),
        ("claude-haiku-5-5", Tokens(input=40, output=8)),
    )
    assert answer.stop_reason == "end_turn"


def test_a_fallback_names_the_model_that_answered() -> None:
    """The price follows the model that took over, not the one that was asked."""
    answer = streamed(
        START,
        begin(0, type="fallback", **{"from": {"model": "claude-haiku-5-5"}}, to={"model": "b"}),
        finish("end_turn", output_tokens=2),
        STOP,
    )
    assert answer.model == "b"
    assert answer.usage is not None
    assert answer.usage.parts[0][0] == "b"


def test_a_second_start_begins_anew() -> None:
    """A gateway that asked again upstream must not leave half of the first message behind."""
    again = {**START, "message": {**START["message"], "id": "msg_2"}}
    answer = streamed(
        START,
        begin(0, type="tool_use", id="toolu_1", name="x", input={}),
        delta(0, "input_json_delta", partial_json='{"half'),
        again,
        begin(0, type="text", text=""),
        delta(0, "text_delta", text="whole"),
        finish("end_turn", output_tokens=2),
        STOP,
    )
    assert answer.content == [{"type": "text", "text": "whole"}]


def test_content_that_the_start_brings_along():
    """A turn that goes on after a pause may begin with blocks; none of them may get lost."""
    call = {"type": "tool_use", "id": "toolu_1", "name": "roll", "input": {"player": "one"}}
    begun = {**START, "message": {**START["message"], "content": [call]}}
    answer = streamed(
        begun,
        begin(1, type="text", text=""),
        delta(1, "text_delta", text="Rolled."),
        finish("tool_use", output_tokens=2),
        STOP,
    )
    assert answer.content == [call, {"type": "text", "text": "Rolled."}]


def test_what_follows_the_end_is_ignored() -> None:
    """A complete answer stays complete, whatever is said after it."""
    answer = streamed(
        START,
        finish("end_turn", output_tokens=2),
        STOP,
        {"type": "error", "error": {"type": "api_error", "message": "late"}},
    )
    assert answer.stop_reason == "end_turn"


def test_an_end_without_message_stop_is_a_lost_answer() -> None:
    """A stream that just ends is not an answer, but what it reported is worth knowing."""
    failure = failure_of(START, begin(0, type="text", text="Hi"), end(0))
    assert (failure.error_type, failure.phase) == ("answer_lost", Phase.LOST)
    assert failure.usage_so_far is not None
    assert failure.usage_so_far.parts[0][1].prompt == 34
    assert failure.request_id == "req_1"


def test_a_message_delta_is_not_the_end() -> None:
    """Even with a stop reason and final usage, only message_stop makes it an answer."""
    failure = failure_of(START, finish("end_turn", output_tokens=7))
    assert failure.phase is Phase.LOST
    assert failure.usage_so_far is not None
    assert failure.usage_so_far.parts[0][1].output == 7


def test_no_bytes_at_all() -> None:
    """Nothing came: lost, and no usage is made up."""
    failure = failure_of()
    assert (failure.error_type, failure.usage_so_far) == ("answer_lost", None)


def test_an_error_event() -> None:
    """The provider's own words, the phase that says it came after status 200, and the usage so far."""
    failure = failure_of(
        START,
        {
            "type": "error",
            "error": {
                "type": "overloaded_error",
                "message": "Overloaded",
                "details": {"error_code": "busy"},
            },
        },
    )
    assert (failure.phase, failure.error_type, failure.status) == (
        Phase.STREAM,
        "overloaded_error",
        200,
    )
    assert (failure.message, failure.error_code, failure.api_shaped) == ("Overloaded", "busy", True)
    assert failure.usage_so_far is not None


def test_an_error_event_of_another_shape() -> None:
    """The event's name is enough; a foreign body does not become a provider's type."""
    stream = MessageStream()
    with pytest.raises(ModelFailure) as caught:
        stream.feed(b'event: error\ndata: {"code": 500}\n\n')
    assert (caught.value.phase, caught.value.error_type, caught.value.api_shaped) == (
        Phase.STREAM,
        "stream_error",
        False,
    )


@pytest.mark.parametrize(
    "events",
    [
        [begin(0, type="text", text="")],
        [STOP],
        [finish("end_turn")],
        [{"type": "message_start"}],
        [{"type": "message_start", "message": {"type": "message"}}],
        [{"type": "message_start", "message": {**START["message"], "content": "Hello"}}],
        [{"type": "message_start", "message": {**START["message"], "content": ["Hello"]}}],
        [START, {"type": "content_block_start", "index": 0}],
        [START, {"type": "content_block_start", "index": "0", "content_block": {}}],
        [START, delta(0, "text_delta", text="x")],
        [START, begin(0, type="text", text=""), delta(0, "text_delta", text=1)],
        [START, begin(0, type="text", text=""), delta(0, "text_delta")],
        [START, begin(0, type="text", text=""), delta(0, "citations_delta")],
        [START, {"type": "message_delta", "usage": {}}],
        [START, begin(0, text="no type"), STOP],
        [START, begin(0, type="text"), STOP],
    ],
)
def test_events_that_make_no_message(events: list[dict[str, Any]]) -> None:
    """A wrong order or a wrong type is a malformed answer, not a crash."""
    failure = failure_of(*events)
    assert (failure.error_type, failure.phase) == ("malformed_answer", Phase.LOST)


@pytest.mark.parametrize("data", [b"{", b"[1]", b"null", b'{"type":"ping","x":"\xff"}'])
def test_data_that_is_no_object(data: bytes) -> None:
    """Data that cannot be read ends the attempt and keeps the usage known by then."""
    stream = MessageStream()
    stream.feed(event(START))
    with pytest.raises(ModelFailure) as caught:
        stream.feed(b"data: " + data + b"\n\n")
    assert caught.value.error_type == "malformed_answer"
    assert caught.value.usage_so_far is not None


WIRE = b'\xef\xbb\xbf: hello\r\nevent: a\r\ndata: {"x":\r\ndata: 1}\r\n\r\nid: 7\n\ndata:2\rretry: 1\r\rdata\n\n'
EVENTS = [(b"a", b'{"x":\n1}'), (b"", b"2"), (b"", b"")]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, 1000])
def test_events_are_the_same_however_the_bytes_are_cut(size: int) -> None:
    """Line ends of all three kinds, comments, a byte order mark: independent of the chunks."""
    reader = EventReader()
    pieces = [WIRE[at : at + size] for at in range(0, len(WIRE), size)]
    assert [found for piece in pieces for found in reader.feed(piece)] == EVENTS


def test_an_event_without_its_blank_line_is_not_an_event() -> None:
    """The rule of server-sent events: what was not finished is thrown away."""
    stream = MessageStream()
    stream.feed(event(START))
    stream.feed(event(STOP)[:-1])
    assert not stream.complete


def test_a_long_event_in_many_chunks() -> None:
    """A megabyte of text in small pieces, one event: read once, not once a piece."""
    text = "x" * 1_000_000
    wire = event(START) + event(begin(0, type="text", text=text))
    wire += event(finish("end_turn", output_tokens=9)) + event(STOP)
    stream = MessageStream()
    for at in range(0, len(wire), 1000):
        stream.feed(wire[at : at + 1000])
    assert text_of(stream.answer()) == text
