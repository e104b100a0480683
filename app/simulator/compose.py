"""The answer to a conversation: same prompt, same answer. Decided here, cut to size in `fit`."""

import re
from dataclasses import dataclass
from hashlib import blake2b
from typing import Protocol

import orjson

from app.simulator.directive import Directive
from app.simulator.errors import JsonObject
from app.simulator.instances import arithmetic, instance, tool_input
from app.simulator.tokens import BYTES_PER_TOKEN
from app.simulator.view import View, call_tag

_TEMPLATES = (
    'About "{topic}": the short answer is yes, with the usual caveats. Details follow on request.',
    'Here is what matters about "{topic}": start small, measure, and keep what works.',
    'You asked about "{topic}". In one sentence: it depends on the context, and both ways can be right.',
    '"{topic}" comes down to two things: clear terms and a careful check of the result.',
)
_FILLER = "This sentence makes the answer as long as it was asked to be, and says nothing else. "
_TOPIC_WORDS = 8
_TOPIC_CHARS = 80
_LONG_ENOUGH = 4_000
"""Tokens of text that an answer forced to end at `max_tokens` has to offer."""
_REASONS: dict[str, str | None] = {
    "null": None,
    "unknown": "reason_of_tomorrow",
    "truncated_tool_use": "max_tokens",
}
_TIME_QUESTION = re.compile(r"\bwhat(?:'s| is)? (?:the )?time\b|\btime is it\b", re.IGNORECASE)


class Ids(Protocol):
    """Where the ids of an answer's parts come from."""

    def next(self, prefix: str) -> str: ...


@dataclass(slots=True)
class Draft:
    """An answer before it is cut to size."""

    blocks: list[JsonObject]
    stop_reason: str | None = "end_turn"
    thinking_tokens: int = 0
    details: JsonObject | None = None
    cut_here: str | None = None
    """How it must end: a forced `stop_sequence` or a tool call broken off."""
    billed: bool = True
    web_fetches: int = 0


class _CallIds:
    """Ids of tool calls that tell which model made them, and pass every other id on."""

    def __init__(self, ids: Ids, model: str) -> None:
        self._ids = ids
        self._model = model

    def next(self, prefix: str) -> str:
        made = self._ids.next(prefix)
        return made + call_tag(self._model) if prefix == "toolu_" else made


def draft(view: View, request: JsonObject, ids: Ids, stop: str | None = None) -> Draft:
    """What the model would say to `view`; `stop` overrides how it ends."""
    directive = view.directive or Directive()
    if view.resumed_call is not None:
        return Draft([_fetched(view.resumed_call), _text(_final_text(view, directive, request))])
    ids = _CallIds(ids, request["model"])
    calls = _calls(view, directive, ids)
    if stop is None and directive.stop and _stops_now(view, directive, calling=bool(calls)):
        stop = directive.stop
    if stop is not None:
        return _stopped(stop, view, directive, request, ids)
    extra = [{"type": "future_block", "data": "opaque"}] if directive.unknown_block else []
    if calls:
        return Draft([*extra, *calls], "tool_use")
    return Draft([*extra, _text(_final_text(view, directive, request))])


def _stops_now(view: View, directive: Directive, *, calling: bool) -> bool:
    if directive.stop_at is not None:
        return view.rounds == directive.stop_at
    if directive.stop == "truncated_tool_use":
        return view.rounds == 0
    return not calling


def _calls(view: View, directive: Directive, ids: Ids) -> list[JsonObject]:
    if not view.tools:
        return []
    if view.rounds < directive.steps or view.forced:
        return _scripted_calls(view, directive, ids)
    if view.directive is None and view.rounds == 0:
        return _sensible_calls(view, ids)
    return []


def _scripted_calls(view: View, directive: Directive, ids: Ids) -> list[JsonObject]:
    tools = [tool for tool in view.tools if tool["name"] in directive.tools] or list(view.tools)
    count = max(1, min(directive.parallel, view.parallel_limit))
    calls = []
    for position in range(count):
        number = view.rounds * count + position
        tool = tools[number % len(tools)]
        given = directive.inputs[number % len(directive.inputs)] if directive.inputs else None
        value = tool_input(tool, view.question, number) if given is None else given
        calls.append(_call(ids, tool["name"], value))
    return calls


def _sensible_calls(view: View, ids: Ids) -> list[JsonObject]:
    offered = {tool["name"] for tool in view.tools}
    expression = arithmetic(view.question)
    if expression and "calculator" in offered:
        return [_call(ids, "calculator", {"expression": expression})]
    if "current_time" in offered and _TIME_QUESTION.search(view.question):
        return [_call(ids, "current_time", {"timezone": "UTC"})]
    return []


def _call(ids: Ids, name: str, value: JsonObject) -> JsonObject:
    return {"type": "tool_use", "id": ids.next("toolu_"), "name": name, "input": value}


def _text(text: str) -> JsonObject:
    return {"type": "text", "text": text}


def _fetched(call_id: str) -> JsonObject:
    missing = {"type": "web_fetch_tool_result_error", "error_code": "unavailable"}
    return {"type": "web_fetch_tool_result", "tool_use_id": call_id, "content": missing}


def _final_text(view: View, directive: Directive, request: JsonObject) -> str:
    text = directive.answer if directive.answer is not None else _own_words(view, request)
    wanted = directive.answer_tokens * BYTES_PER_TOKEN
    return text if not wanted else _padded(text, wanted)


def _padded(text: str, size: int) -> str:
    raw = text.encode()
    filler = _FILLER.encode()
    return (raw + b" " + filler * (size // len(filler) + 1))[:size].decode(errors="ignore")


def _own_words(view: View, request: JsonObject) -> str:
    form = (request.get("output_config") or {}).get("format") or {}
    if form.get("type") == "json_schema":
        schema = form.get("schema") or {}
        return orjson.dumps(instance(schema)).decode()
    if view.results:
        return _from_results(view)
    words = view.question.split()[:_TOPIC_WORDS]
    topic = " ".join(words)[:_TOPIC_CHARS].strip(" .,:;!?\"'") or "that"
    choice = blake2b(view.question.encode(), digest_size=2).digest()
    return _TEMPLATES[choice[0] % len(_TEMPLATES)].format(topic=topic)


def _from_results(view: View) -> str:
    shown = [result if len(result) <= 200 else f"{result[:200]}…" for result in view.results[:3]]
    expression = arithmetic(view.question)
    if expression and len(shown) == 1:
        return f"{expression} = {shown[0]}."
    return f"According to the tools: {'; '.join(shown)}."


def _stopped(stop: str, view: View, directive: Directive, request: JsonObject, ids: Ids) -> Draft:
    text = _final_text(view, directive, request)
    match stop:
        case "refusal" | "refusal_mid":
            return _refusal(text, directive.category, mid=stop == "refusal_mid")
        case "truncated_tool_use" if view.tools:
            calls = _scripted_calls(view, directive, ids)
            return Draft(calls[-1:], "max_tokens", cut_here="tool_use")
        case "empty":
            return Draft([])
        case "pause_turn":
            return _paused(ids)
        case _:
            return _oddly_ended(stop, text)


def _oddly_ended(stop: str, text: str) -> Draft:
    if stop == "max_tokens":
        text = _padded(text, _LONG_ENOUGH * BYTES_PER_TOKEN)
    reason = _REASONS.get(stop, stop)
    return Draft([_text(text)], reason, cut_here=stop if stop == "stop_sequence" else None)


def _refusal(text: str, category: str | None, *, mid: bool) -> Draft:
    details = {"type": "refusal", "category": category, "explanation": "Asked to refuse."}
    blocks = [_text(text[: max(1, len(text) // 2)])] if mid else []
    return Draft(blocks, "refusal", details=details, billed=mid)


def _paused(ids: Ids) -> Draft:
    call = {
        "type": "server_tool_use",
        "id": ids.next("srvtoolu_"),
        "name": "web_fetch",
        "input": {"url": "https://example.com/"},
    }
    return Draft([_text("Looking that up."), call], "pause_turn", web_fetches=1)
