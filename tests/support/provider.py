"""A provider that follows a script, and the answers and failures that go into one."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import orjson

from app.llm.answers import parse_answer
from app.llm.provider import JsonObject, ModelAnswer, ModelFailure, ModelRequest, Phase

HAIKU = "claude-haiku-5-5"


class Hang:
    """A line of the script: never answers by itself. `release` lets it answer after all."""

    def __init__(self, answer: ModelAnswer | None = None) -> None:
        self.answer = answer
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    def release(self) -> None:
        """Let the provider answer."""
        self.released.set()


Line = (
    ModelAnswer
    | BaseException
    | Hang
    | Callable[[ModelRequest], ModelAnswer]
    | Callable[[ModelRequest], Awaitable[ModelAnswer]]
)


class ScriptedProvider:
    """Says the lines of its script one by one; asked once more than that, it fails the test."""

    def __init__(self, *script: Line) -> None:
        self.script: list[Line] = list(script)
        self.asked: list[ModelRequest] = []
        self.sent: list[bytes] = []
        """The messages of each request as they were then: a transcript goes on growing."""
        self.closed = False
        self.counts: int | BaseException = 0
        """What a token count answers."""
        self.counted: list[ModelRequest] = []

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        self.asked.append(request)
        self.sent.append(orjson.dumps(request.messages))
        if not self.script:
            raise AssertionError(f"asked {len(self.asked)} times: the script is at its end")
        return await _said(self.script.pop(0), request)

    async def count_tokens(self, request: ModelRequest) -> int:
        self.counted.append(request)
        if isinstance(self.counts, BaseException):
            raise self.counts
        return self.counts

    async def close(self) -> None:
        self.closed = True


async def _said(line: Line, request: ModelRequest) -> ModelAnswer:
    match line:
        case ModelAnswer():
            return line
        case BaseException():
            raise line
        case Hang():
            line.entered.set()
            await line.released.wait()
            return line.answer or answer(text("late"))
        case _:
            said = line(request)
            return said if isinstance(said, ModelAnswer) else await said


def text(words: str) -> JsonObject:
    """A text block."""
    return {"type": "text", "text": words}


def thinking(words: str = "") -> JsonObject:
    """A thinking block."""
    return {"type": "thinking", "thinking": words, "signature": "c2ln"}


def tool_use(call_id: str, name: str = "probe", arguments: Any = None) -> JsonObject:
    """A tool call."""
    return {
        "type": "tool_use",
        "id": call_id,
        "name": name,
        "input": {} if arguments is None else arguments,
    }


def usage(input_tokens: int = 100, output_tokens: int = 20, **meters: Any) -> JsonObject:
    """A usage report."""
    return {"input_tokens": input_tokens, "output_tokens": output_tokens, **meters}


def answer(
    *blocks: JsonObject,
    stop_reason: str | None = "end_turn",
    model: str = HAIKU,
    report: JsonObject | None = None,
    no_usage: bool = False,
    **fields: Any,
) -> ModelAnswer:
    """An answer as the provider's adapter would have read it; `report` is its usage."""
    message: JsonObject = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": list(blocks),
        "stop_reason": stop_reason,
        **fields,
    }
    if not no_usage:
        message["usage"] = usage() if report is None else report
    return parse_answer(orjson.dumps(message), "req_1")


def calls(*uses: JsonObject, before: Iterable[JsonObject] = ()) -> ModelAnswer:
    """An answer that asks for tools."""
    return answer(*before, *uses, stop_reason="tool_use")


def status(code: int, error_type: str = "api_error", **details: Any) -> ModelFailure:
    """The provider answered with an error status, in the API's own shape unless told otherwise."""
    details.setdefault("api_shaped", True)
    return ModelFailure(error_type, "no", phase=Phase.RESPONSE, status=code, **details)


def lost(error_type: str = "answer_lost", **details: Any) -> ModelFailure:
    """The request left and no complete answer came back."""
    return ModelFailure(error_type, "gone", phase=Phase.LOST, **details)


def unreachable() -> ModelFailure:
    """The request never left."""
    return ModelFailure("connection_error", "no route", phase=Phase.CONNECT)


def in_stream(error_type: str) -> ModelFailure:
    """An error inside a stream that had begun well."""
    return ModelFailure(error_type, "broke off", phase=Phase.STREAM, status=200, api_shaped=True)
