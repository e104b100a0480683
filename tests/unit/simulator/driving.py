"""Drives a simulator in process: a clock that only moves when told, and short ways to ask."""

from dataclasses import dataclass, field
from typing import Any

import orjson

from app.simulator.core import Simulator
from app.simulator.reply import Reply

MODEL = "claude-haiku-5-5"
KEY = {"Authorization": "Bearer not-a-key"}


@dataclass(slots=True)
class HandClock:
    """Time moves by `advance` and by whoever sleeps."""

    at_us: int = 1_790_000_000_000_000
    slept_s: list[float] = field(default_factory=list)

    def now_us(self) -> int:
        return self.at_us

    def monotonic_s(self) -> float:
        return self.at_us / 1e6

    async def sleep(self, duration_s: float) -> None:
        self.slept_s.append(duration_s)
        self.advance(duration_s)

    def advance(self, seconds: float) -> None:
        self.at_us += round(seconds * 1_000_000)


@dataclass(slots=True)
class Driver:
    """A simulator and its clock."""

    clock: HandClock = field(default_factory=HandClock)
    simulator: Simulator = field(init=False)

    def __post_init__(self) -> None:
        self.simulator = Simulator(self.clock)

    def plan(self, request: object, **headers: str) -> Reply:
        """The plan for one request to /v1/messages."""
        body = orjson.dumps(request)
        return self.simulator.reply("POST", "/v1/messages", {**KEY, **headers}, body)

    def ask(self, messages: Any = "Hello there", **fields: Any) -> dict[str, Any]:
        """The answer to a request, as JSON; `messages` may be one user text."""
        return read(self.plan(asking(messages, **fields)))

    def refusal(self, messages: Any = "Hello there", **fields: Any) -> tuple[int, str]:
        """Status and message of the error a request gets."""
        reply = self.plan(asking(messages, **fields))
        return reply.status, read(reply)["error"]["message"]

    def control(self, method: str, target: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """Status and JSON of one of the simulator's own endpoints."""
        reply = self.simulator.reply(method, f"/simulator/{target}", {}, orjson.dumps(body))
        return reply.status, read(reply)

    def faults(self, *script: dict[str, Any], random: Any = (), seed: int = 0) -> None:
        """Put a fault script in force."""
        wanted = {"script": list(script), "random": list(random), "seed": seed}
        status, answer = self.control("PUT", "faults", wanted)
        assert status == 200, answer

    @property
    def lines(self) -> list[dict[str, Any]]:
        """The bill's lines."""
        found: list[dict[str, Any]] = self.control("GET", "bill")[1]["lines"]
        return found


def asking(messages: Any = "Hello there", **fields: Any) -> dict[str, Any]:
    """A request body; a field given as None is left out."""
    turns = [user(messages)] if isinstance(messages, str) else messages
    request = {"model": MODEL, "max_tokens": 1_000, "messages": turns, **fields}
    return {name: value for name, value in request.items() if value is not None}


def user(content: Any) -> dict[str, Any]:
    """A user message."""
    return {"role": "user", "content": content}


def assistant(content: Any) -> dict[str, Any]:
    """An assistant message."""
    return {"role": "assistant", "content": content}


def results(answer: dict[str, Any], text: str = "done") -> dict[str, Any]:
    """The user message that answers every tool call of `answer`."""
    calls = [block for block in answer["content"] if block["type"] == "tool_use"]
    return user([{"type": "tool_result", "tool_use_id": c["id"], "content": text} for c in calls])


def tool(name: str, **properties: Any) -> dict[str, Any]:
    """A tool definition whose properties are all required."""
    schema = {"type": "object", "properties": properties, "required": list(properties)}
    return {"name": name, "description": f"The {name} tool.", "input_schema": schema}


CALCULATOR = tool("calculator", expression={"type": "string"})
CURRENT_TIME = tool("current_time", timezone={"type": "string"})


def read(reply: Reply) -> dict[str, Any]:
    """A plain reply's JSON."""
    value: dict[str, Any] = orjson.loads(b"".join(reply.pieces))
    return value


def events(reply: Reply) -> list[dict[str, Any]]:
    """A stream's events."""
    chunks = b"".join(reply.pieces).decode().split("\n\n")
    return [orjson.loads(chunk.partition("data: ")[2]) for chunk in chunks if chunk]


def assembled(found: list[dict[str, Any]]) -> dict[str, Any]:
    """The message that a stream's events add up to."""
    message: dict[str, Any] = {}
    written: dict[int, str] = {}
    for event in found:
        match event["type"]:
            case "message_start":
                message = event["message"]
            case "content_block_start":
                message["content"].append(event["content_block"])
            case "content_block_delta":
                _extend(message["content"][event["index"]], event, written)
            case "message_delta":
                message.update(event["delta"])
                message["usage"] = {**message["usage"], **event["usage"]}
            case _:
                pass
    for index, text in written.items():
        message["content"][index]["input"] = orjson.loads(text)
    return message


def _extend(block: dict[str, Any], event: dict[str, Any], written: dict[int, str]) -> None:
    delta = event["delta"]
    match delta["type"]:
        case "text_delta":
            block["text"] += delta["text"]
        case "input_json_delta":
            written[event["index"]] = written.get(event["index"], "") + delta["partial_json"]
        case "signature_delta":
            block["signature"] = delta["signature"]
        case unknown:
            raise AssertionError(unknown)
