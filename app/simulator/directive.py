"""What a prompt may ask of the simulator: `[[sim {"steps": 3, "parallel": 2, "stop": "refusal"}]]`.

The latest user text that carries a directive governs every answer from there on. Fields, all optional:

| field | meaning |
|---|---|
| `steps` | rounds of tool calls before the final answer (0) |
| `parallel` | calls a round (1) |
| `tools` | names to call, in turn (every tool offered) |
| `inputs` | inputs to call them with, in turn (made from the tool's schema) |
| `answer` | the final answer's text, word for word |
| `answer_tokens` | length of the final answer |
| `stop` | how the answer ends, see `STOPS` |
| `stop_at` | the round whose answer ends so: 0 is the first answer (the final answer) |
| `category` | `stop_details.category` of a refusal |
| `thinking` | true: each answer begins with a thinking block, which must come back unchanged |
| `thinking_tokens` | its hidden length (24) |
| `unknown_block` | true: each answer carries a block of a type nobody knows yet |
"""

from dataclasses import fields
from typing import Any

import orjson

from app.domain.record import record
from app.simulator.errors import JsonObject, invalid, require

OPENING = "[[sim "
STOPS = (
    "refusal",
    "refusal_mid",
    "max_tokens",
    "truncated_tool_use",
    "empty",
    "pause_turn",
    "model_context_window_exceeded",
    "stop_sequence",
    "unknown",
    "null",
)
STEP_LIMIT = 1_000
PARALLEL_LIMIT = 100


@record(frozen=True, slots=True)
class Directive:
    """A directive, checked."""

    steps: int = 0
    parallel: int = 1
    tools: tuple[str, ...] = ()
    inputs: tuple[JsonObject, ...] = ()
    answer: str | None = None
    answer_tokens: int = 0
    stop: str | None = None
    stop_at: int | None = None
    category: str | None = None
    thinking: bool = False
    thinking_tokens: int = 24
    unknown_block: bool = False


_NAMES = frozenset(field.name for field in fields(Directive))
_BOUNDS = {
    "steps": STEP_LIMIT,
    "parallel": PARALLEL_LIMIT,
    "answer_tokens": 128_000,
    "stop_at": STEP_LIMIT,
    "thinking_tokens": 128_000,
}


def find_directive(text: str) -> Directive | None:
    """The directive in `text`, or None.

    Raises:
        ApiError: 400, there is one and it is not well-formed.
    """
    start = text.find(OPENING)
    if start < 0:
        return None
    raw, closed, _ = text[start + len(OPENING) :].partition("]]")
    require(closed, "simulator directive: no closing ]]")
    try:
        asked = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise invalid(f"simulator directive: not JSON: {error}") from None
    require(isinstance(asked, dict), "simulator directive: must be an object")
    return _checked(asked)


def without_directive(text: str) -> str:
    """The text as a person would have written it."""
    before, found, rest = text.partition(OPENING)
    return f"{before} {rest.partition(']]')[2]}".strip() if found else text


def _checked(asked: JsonObject) -> Directive:
    for name, value in asked.items():
        require(name in _NAMES, f"simulator directive: unknown field {name!r}")
        if name in _BOUNDS:
            require(
                _within(value, _BOUNDS[name]),
                f"simulator directive: {name} must be a whole number from 0 to {_BOUNDS[name]}",
            )
    stop = asked.get("stop")
    require(stop is None or stop in STOPS, f"simulator directive: stop must be one of {STOPS}")
    return Directive(**{**asked, **_lists(asked)})


def _lists(asked: JsonObject) -> JsonObject:
    named = asked.get("tools", [])
    names = [named] if isinstance(named, str) else named
    require(_all(names, str), "simulator directive: tools must be a list of names")
    inputs = asked.get("inputs", [])
    require(_all(inputs, dict), "simulator directive: inputs must be a list of objects")
    answer = asked.get("answer")
    require(answer is None or isinstance(answer, str), "simulator directive: answer must be a text")
    return {"tools": tuple(names), "inputs": tuple(inputs)}


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


def _within(value: Any, limit: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= limit
