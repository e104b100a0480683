"""A mixed load: what clients ask for, what goes wrong meanwhile, and how each kind of task may end."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import orjson

TIGHT_SESSIONS = 5
TIGHT_BUDGET_USD = 0.012
"""Pays for a few calls' reservations at once: the others have to wait their turn."""
_TOOLS = ["calculator", "current_time", "text_stats"]


@dataclass(frozen=True)
class Kind:
    """One kind of task. `ends` are its own outcomes where nothing goes wrong."""

    ends: frozenset[str]
    body: Callable[[int], dict[str, Any]]


def _kind(*ends: str, sim: dict[str, Any] | None = None, **fields: Any) -> Kind:
    directive = "" if sim is None else f" [[sim {orjson.dumps(sim).decode()}]]"

    def body(number: int) -> dict[str, Any]:
        text = f"Question {number}: why is the sky blue?{directive}"
        made = {"task": text, "complexity": "simple", **fields}
        if "session_id" in made:
            made["session_id"] = f"{made['session_id']}-{number % TIGHT_SESSIONS}"
        return made

    return Kind(frozenset(ends), body)


_TIGHT: dict[str, Any] = {"session_id": "tight", "max_tokens": 4_000}
KINDS: dict[str, Kind] = {
    "plain": _kind("answered"),
    "medium": _kind("answered", complexity="medium"),
    "complex": _kind("answered", complexity="complex", max_tokens=1_500),
    "tools": _kind("answered", sim={"steps": 3, "parallel": 2}, tools=_TOOLS),
    "thinking": _kind(
        "answered",
        sim={"steps": 2, "parallel": 3, "thinking": True},
        tools=_TOOLS,
        priority=1,
        budget_usd=2,  # pays for a full window: thinking without usage has no smaller bound
    ),
    "too many calls": _kind("answered", sim={"steps": 1, "parallel": 25}, tools=["calculator"]),
    "too many steps": _kind("max_steps", sim={"steps": 6}, tools=["calculator"], max_steps=3),
    "streamed": _kind("answered", max_tokens=9_000),
    "streamed tools": _kind("answered", sim={"steps": 2}, tools=_TOOLS, max_tokens=9_000),
    "small budget": _kind(
        "budget_exhausted", sim={"steps": 9, "parallel": 2}, tools=_TOOLS, budget_usd=0.0009
    ),
    "penniless": _kind("budget_exhausted", budget_usd=0.000001),
    "tight": _kind("answered", "budget_exhausted", **_TIGHT),
    "tight tools": _kind(
        "answered", "budget_exhausted", sim={"steps": 2}, tools=["calculator"], **_TIGHT
    ),
    "refused": _kind("refused", sim={"stop": "refusal"}),
    "refused midway": _kind("refused", sim={"stop": "refusal_mid"}),
    "cut off": _kind("truncated", sim={"stop": "max_tokens"}, max_tokens=50),
    "enlarged": _kind("answered", sim={"answer_tokens": 300}, max_tokens=None),
    "cut-off call": _kind("truncated", sim={"stop": "truncated_tool_use"}, tools=["calculator"]),
    "empty": _kind("empty_answer", sim={"stop": "empty"}),
    "paused": _kind("answered", sim={"stop": "pause_turn"}, budget_usd=2),
    "window": _kind("truncated", sim={"stop": "model_context_window_exceeded"}),
    "unknown stop": _kind("upstream_failed", sim={"stop": "unknown"}),
    "unknown block": _kind("answered", sim={"unknown_block": True}),
    "late": _kind("deadline", "answered", deadline_s=0.05),
    "cancelled": _kind("cancelled", "answered", sim={"steps": 4}, tools=_TOOLS),
}
BY_FAULT = frozenset({"upstream_failed", "refused", "truncated", "empty_answer"})
"""How any task may end when the faults below strike it."""
BY_MONEY = frozenset({"budget_exhausted"})
"""How a task with a small budget may end, too: a lost answer costs it the whole reservation."""

FAULTS: list[dict[str, Any]] = [
    {"kind": "latency", "delay_s": [0, 0.04], "probability": 1},
    {"kind": "rate_limit", "probability": 0.03},
    {"kind": "rate_limit", "retry_after": 0.05, "probability": 0.03},
    {"kind": "overloaded", "probability": 0.03},
    {"kind": "server_error", "probability": 0.03},
    {"kind": "html_page", "probability": 0.01},
    {"kind": "html_page", "probability": 0.01, "status": 504, "billed": True},
    {"kind": "cut_before_headers", "probability": 0.03},
    {"kind": "cut_mid_body", "probability": 0.03},
    {"kind": "truncate_json", "probability": 0.03},
    {"kind": "cut_mid_stream", "probability": 0.15},
    {"kind": "stream_error", "probability": 0.1},
    {"kind": "stream_eof", "probability": 0.1},
    {"kind": "slow_body", "probability": 0.02, "pieces": 3, "delay_s": 0.01},
    {"kind": "refusal", "probability": 0.02},
    {"kind": "stop", "stop": "max_tokens", "probability": 0.02},
    {"kind": "usage_missing", "probability": 0.02},
    {"kind": "usage_null", "probability": 0.02},
    {"kind": "usage_negative", "probability": 0.02},
]


Wave = list[tuple[str, dict[str, Any]]]


def load(count: int) -> Wave:
    """`count` tasks, the kinds in turn."""
    names = list(KINDS)
    return [(names[n % len(names)], KINDS[names[n % len(names)]].body(n)) for n in range(count)]


def waves(count: int, size: int) -> list[Wave]:
    """`count` tasks in waves of `size`; then those of tight sessions, by themselves: sessions take turns at the
    workers, and among many others a session's second task starts when its first has ended."""
    tasks = load(count)
    plain = [one for one in tasks if not one[0].startswith("tight")]
    tight = [one for one in tasks if one[0].startswith("tight")]
    return [*(plain[at : at + size] for at in range(0, len(plain), size)), tight]


def may_end(name: str, outcome: str) -> bool:
    """Whether a task of this kind may end so while the faults strike."""
    return outcome in KINDS[name].ends | BY_FAULT | (
        BY_MONEY if "tight" in name or "small" in name else frozenset()
    )
