"""Tool calls that no tool can answer: what faults make of an answer's calls. Its tokens, and so its bill, stay."""

from dataclasses import replace
from typing import Protocol

from app.simulator.errors import JsonObject
from app.simulator.faults import Kind
from app.simulator.fit import Answer

MANY = 1_000
HUGE_BYTES = 10 * 1024 * 1024
_BROKEN = '{"expression": "1 +'


class Ids(Protocol):
    """Where the calls' ids come from."""

    def next(self, prefix: str) -> str: ...


def with_odd_calls(answer: Answer, kind: Kind, request: JsonObject, ids: Ids) -> Answer:
    """The answer, asking for tools as `kind` says."""
    name, broken = request["tools"][0]["name"], None
    match kind:
        case Kind.BAD_TOOL_JSON:
            blocks, broken = [_call(ids, name, _BROKEN)], _BROKEN
        case Kind.UNKNOWN_TOOL:
            blocks = [_call(ids, "tool_of_tomorrow", {})]
        case Kind.HUGE_ARGUMENTS:
            blocks = [_call(ids, name, {"expression": "1" * HUGE_BYTES})]
        case Kind.DUPLICATE_IDS:
            blocks = [_call(ids, name, {"expression": "1 + 1"})] * 2
        case _:
            blocks = [_call(ids, name, {"expression": "1 + 1"}) for _ in range(MANY)]
    return replace(answer, blocks=blocks, stop_reason="tool_use", broken_input=broken)


def _call(ids: Ids, name: str, value: object) -> JsonObject:
    return {"type": "tool_use", "id": ids.next("toolu_"), "name": name, "input": value}
