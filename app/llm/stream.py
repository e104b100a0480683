"""A streamed answer: server-sent events in, byte by byte as they come, the whole message out."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.llm.answers import answer_of, to_json
from app.llm.failures import cut_stream, malformed_answer, stream_failure
from app.llm.provider import JsonObject, ModelAnswer, ModelFailure
from app.llm.usage import Usage, WriteLifetime, read_usage

_BOM = b"\xef\xbb\xbf"
_PIECES = {"text_delta": "text", "thinking_delta": "thinking", "input_json_delta": "partial_json"}
"""Deltas that bring the next piece of a long text, and the field that holds it."""


class EventReader:
    """Cuts a byte stream into server-sent events; an event counts once its blank line has come."""

    def __init__(self) -> None:
        self._unfinished: list[bytes] = []
        self._name = b""
        self._data: list[bytes] = []
        self._begun = False

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Name (b"" when it has none) and data of each event that `chunk` completes."""
        if b"\n" not in chunk and b"\r" not in chunk:
            # A long event comes in many chunks: join them once, not once a chunk.
            self._unfinished.append(chunk)
            return
        lines = b"".join((*self._unfinished, chunk)).splitlines(keepends=True)
        # A final "\r" may be the first half of "\r\n".
        self._unfinished = [] if lines[-1].endswith(b"\n") else [lines.pop()]
        for line in lines:
            event = self._line(line.rstrip(b"\r\n"))
            if event is not None:
                yield event

    def _line(self, line: bytes) -> tuple[bytes, bytes] | None:
        if not self._begun:
            self._begun = True
            line = line.removeprefix(_BOM)
        if not line:
            return self._end_of_event()
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._data.append(value)
        elif name == b"event":
            self._name = value
        return None

    def _end_of_event(self) -> tuple[bytes, bytes] | None:
        event = (self._name, b"\n".join(self._data)) if self._data else None
        self._name, self._data = b"", []
        return event


@dataclass(slots=True)
class _Block:
    """A content block still growing; the pieces are joined once, when it ends."""

    value: JsonObject
    pieces: dict[str, list[str]] = field(default_factory=dict)

    def whole(self) -> JsonObject:
        for name, pieces in self.pieces.items():
            text = "".join(pieces)
            if name == "partial_json":
                self._set_input(text)
            else:
                begun = self.value.get(name)
                self.value[name] = begun + text if isinstance(begun, str) else text
        return self.value

    def _set_input(self, text: str) -> None:
        if not text:
            self.value.setdefault("input", {})
            return
        try:
            self.value["input"] = orjson.loads(text)
        except orjson.JSONDecodeError:
            # Cut off by max_tokens. Text where an object belongs cannot be taken for arguments.
            self.value["input"] = text


class MessageStream:
    """One streamed answer. Feed it bytes until `complete`; then `answer()` has the whole message.

    Raises ModelFailure from `feed` and `answer`: `Phase.STREAM` for an error event, `malformed_answer`
    for bytes that are no message stream, `answer_lost` for a stream without `message_stop`.
    Events and deltas of unknown types are passed over. Source: Messages API documentation, streaming.
    `on_text` is told each piece of text.
    """

    def __init__(
        self,
        on_text: Callable[[str], None] | None = None,
        unsplit_writes: WriteLifetime = "1h",
    ) -> None:
        self.unsplit_writes = unsplit_writes
        """How long cache writes live that the report does not split."""
        self.request_id: str | None = None
        self.complete = False
        """`message_stop` has come; whatever follows it is ignored."""
        self._events = EventReader()
        self._message: JsonObject | None = None
        self._blocks: dict[int, _Block] = {}
        self._begun: set[int] = set()
        """Blocks that an event of their own began."""
        self._totals: JsonObject = {}
        self._on_text = on_text

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        for name, data in self._events.feed(chunk):
            if self.complete:
                return
            self._take(name, self._parsed(data))

    def usage_so_far(self) -> Usage | None:
        """What the stream has reported. Before the end, input is real and output a lower bound."""
        if self._message is None:
            return None
        reported, model = self._message.get("usage"), self._message["model"]
        return read_usage(reported, model, unsplit_writes=self.unsplit_writes)

    def answer(self) -> ModelAnswer:
        """The complete message; `raw` is our own encoding of it, with the stream's order of keys."""
        if not self.complete or self._message is None:
            raise cut_stream(request_id=self.request_id, usage_so_far=self.usage_so_far())
        content = [self._blocks[index].whole() for index in sorted(self._blocks)]
        message = {**self._message, "content": content}
        raw, unsplit = to_json(message), self.unsplit_writes
        return answer_of(message, raw, self.request_id, unsplit_writes=unsplit)

    def _take(self, name: bytes, event: JsonObject) -> None:
        kind = event.get("type")
        if kind == "error" or name == b"error":
            raise stream_failure(
                event, request_id=self.request_id, usage_so_far=self.usage_so_far()
            )
        match kind:
            case "message_start":
                self._start(event)
            case "content_block_start":
                self._start_block(event)
            case "content_block_delta":
                self._extend_block(event)
            case "message_delta":
                self._update(event)
            case "message_stop":
                self._require_message()
                self.complete = True
            case _:
                pass

    def _start(self, event: JsonObject) -> None:
        """Begin the message. A gateway that asked again upstream sends a second start: the last counts."""
        message = self._field(event, "message", dict)
        self._field(message, "model", str)
        self._message = message
        # After a pause for code that the provider runs, content may begin here already.
        begun = message.get("content") or []
        if not isinstance(begun, list) or not all(isinstance(block, dict) for block in begun):
            raise self._malformed("a message_start whose content is not a list of blocks")
        self._blocks = {index: _Block(block) for index, block in enumerate(begun)}
        self._begun, self._totals = set(), {}

    def _start_block(self, event: JsonObject) -> None:
        message = self._require_message()
        block = self._field(event, "content_block", dict)
        index = self._field(event, "index", int)
        if index in self._begun:  # said twice: its deltas would be, too
            raise self._malformed("a content block that was started twice")
        self._begun.add(index)
        self._blocks[index] = _Block(block)
        if block.get("type") == "fallback" and isinstance(block.get("to"), dict):
            # Another model took over; a message that comes in one piece names the one that answered.
            message["model"] = self._field(block["to"], "model", str)

    def _extend_block(self, event: JsonObject) -> None:
        block = self._blocks.get(self._field(event, "index", int))
        if block is None:
            raise self._malformed("a delta for a content block that was not started")
        delta = self._field(event, "delta", dict)
        kind = delta.get("type")
        piece = _PIECES.get(kind) if isinstance(kind, str) else None
        if piece is not None:
            text = self._field(delta, piece, str)
            block.pieces.setdefault(piece, []).append(text)
            if piece == "text" and self._on_text is not None:
                self._on_text(text)
        elif kind == "citations_delta":
            known = block.value.get("citations")
            citation = self._field(delta, "citation", dict)
            block.value["citations"] = [*(known if isinstance(known, list) else ()), citation]
        elif kind in ("signature_delta", "compaction_delta"):
            block.value.update((key, value) for key, value in delta.items() if key != "type")

    def _update(self, event: JsonObject) -> None:
        """Apply a `message_delta`: its numbers are totals so far; what it leaves out stays as it was.

        No total falls from one to the next: of a report that takes some back, the larger number counts. The start's
        are no totals, and may be larger than those of the end.
        """
        message = self._require_message()
        news = {key: value for key, value in event.items() if key not in ("type", "delta", "usage")}
        news |= self._field(event, "delta", dict)
        message.update((key, value) for key, value in news.items() if value is not None)
        reported = event.get("usage")
        if isinstance(reported, dict):
            known = message.get("usage")
            totals = {key: value for key, value in reported.items() if value is not None}
            self._totals = _grown(self._totals, totals)
            message["usage"] = known | self._totals if isinstance(known, dict) else self._totals

    def _require_message(self) -> JsonObject:
        if self._message is None:
            raise self._malformed("content before message_start")
        return self._message

    def _parsed(self, data: bytes) -> JsonObject:
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise self._malformed("an event that is not JSON") from error
        if not isinstance(event, dict):
            raise self._malformed("an event that is not an object")
        return event

    def _field(self, owner: JsonObject, key: str, kind: type) -> Any:
        value = owner.get(key)
        if not isinstance(value, kind):
            raise self._malformed(f"an event whose {key} is missing or of the wrong type")
        return value

    def _malformed(self, reason: str) -> ModelFailure:
        return malformed_answer(
            reason, request_id=self.request_id, usage_so_far=self.usage_so_far()
        )


def _grown(known: JsonObject, totals: JsonObject) -> JsonObject:
    """What is known, and the totals; none of them smaller than it was known to be."""
    grown = known | totals
    for key, value in known.items():
        if type(value) is int and type(grown[key]) is int and grown[key] >= 0:
            grown[key] = max(value, grown[key])
    return grown
