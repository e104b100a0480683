"""Compaction on the server, as it is documented (`compact-2026-01-12`).

Once the prompt is larger than the trigger, a pass of its own reads all of it and writes a summary; the answer goes on
from that and begins with a `compaction` block. In later requests everything before the latest such block is passed over.
The extra pass is billed, and shown in `usage.iterations` only: the top level leaves it out.
"""

from collections.abc import Mapping

from app.simulator.bill import usage_json
from app.simulator.errors import JsonObject, invalid, require
from app.simulator.models import Model
from app.simulator.prices import Meters
from app.simulator.prompt import as_blocks, prompt_tokens
from app.simulator.tokens import text_tokens

EDIT = "compact_20260112"
BETA = "compact-2026-01-12"
TRIGGER_TOKENS = 150_000
TRIGGER_LIMIT_TOKENS = 50_000
"""A lower trigger is refused."""
SUMMARY = (
    "Summary of the conversation so far: the task was begun, and its tools have answered. " * 8
)


def trigger_of(request: JsonObject, headers: Mapping[str, str]) -> int | None:
    """Above how many tokens the request is to be compacted; None: never.

    Raises:
        ApiError: 400, the edit is not well-formed or its beta was not asked for.
    """
    management = request.get("context_management")
    edits = management.get("edits") if isinstance(management, dict) else None
    found = [edit for edit in edits or () if isinstance(edit, dict) and edit.get("type") == EDIT]
    if not found:
        return None
    require(BETA in headers.get("anthropic-beta", ""), "context_management: needs its beta header")
    trigger = found[0].get("trigger") or {"type": "input_tokens", "value": TRIGGER_TOKENS}
    value = trigger.get("value") if isinstance(trigger, dict) else None
    if not isinstance(value, int) or value < TRIGGER_LIMIT_TOKENS:
        raise invalid(f"trigger.value: at least {TRIGGER_LIMIT_TOKENS} input tokens")
    return value


def effective(request: JsonObject) -> JsonObject:
    """The request as the model reads it: from the latest summary on."""
    messages = request["messages"]
    for at in range(len(messages) - 1, -1, -1):
        blocks = as_blocks(messages[at]["content"])
        for place, block in enumerate(blocks):
            if block["type"] == "compaction" and block.get("content"):
                rest = [{**messages[at], "content": blocks[place + 1 :]}]
                kept = [*(rest if blocks[place + 1 :] else ()), *messages[at + 1 :]]
                return {**request, "messages": [_summary(block["content"]), *kept]}
    return request


def block() -> JsonObject:
    """The block that an answer begins with."""
    return {"type": "compaction", "content": SUMMARY}


def after(request: JsonObject, model: Model) -> Meters:
    """The prompt of the pass that answers: system, tools and the summary, nothing of it cached."""
    short = {**request, "messages": [_summary(SUMMARY)]}
    return Meters(input=prompt_tokens(short, model))


def summing(prompt: Meters) -> Meters:
    """The pass that reads all of it."""
    return Meters(
        input=prompt.input,
        cache_read=prompt.cache_read,
        cache_write_5m=prompt.cache_write_5m,
        cache_write_1h=prompt.cache_write_1h,
        output=text_tokens(SUMMARY),
    )


def iterations(compacting: Meters, answering: Meters) -> list[JsonObject]:
    """`usage.iterations`."""
    return [
        {"type": "compaction", **usage_json(compacting)},
        {"type": "message", **usage_json(answering)},
    ]


def _summary(text: str) -> JsonObject:
    return {"role": "user", "content": [{"type": "text", "text": text}]}
