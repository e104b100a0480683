"""Cut an answer to its limits: `max_tokens`, the context window, stop sequences. Counts its tokens."""

import orjson

from app.domain.record import record
from app.simulator.compose import Draft
from app.simulator.errors import JsonObject
from app.simulator.tokens import BLOCK_OVERHEAD, BYTES_PER_TOKEN, block_tokens

_EMPTY_TOKENS = 2
"""Output billed for an answer without any block."""


@record(frozen=True, slots=True)
class Answer:
    """An answer as it is sent and billed. Tokens are output tokens, thinking included."""

    blocks: list[JsonObject]
    stop_reason: str | None
    stop_sequence: str | None
    stop_details: JsonObject | None
    tokens: int
    thinking_tokens: int
    web_fetches: int
    billed: bool
    broken_input: str | None = None
    """The last tool call's input as far as it was written, when it was broken off."""


def fit(
    made: Draft, thinking: JsonObject | None, max_tokens: int, room: int, stops: list[str]
) -> Answer:
    """Cut `made` to `max_tokens` and to the `room` left in the window, whichever is smaller.

    `thinking` comes first and takes its `made.thinking_tokens` out of the same limit.
    """
    limit = min(max_tokens, room)
    sequence = _apply_stops(made, stops)
    head = [thinking] if thinking is not None else []
    spent = min(limit, made.thinking_tokens)
    blocks, used, broken = _cut(made.blocks, limit - spent)
    reason = made.stop_reason
    if broken is not None:
        reason = "max_tokens" if max_tokens <= room else "model_context_window_exceeded"
        sequence = None
    if made.cut_here == "tool_use" and broken is None:
        blocks, used, broken = _break_call(blocks, used)
    tokens = spent + used
    return Answer(
        blocks=head + blocks,
        stop_reason=reason,
        stop_sequence=sequence,
        stop_details=made.details,
        tokens=tokens or (min(limit, _EMPTY_TOKENS) if made.billed else 0),
        thinking_tokens=spent,
        web_fetches=made.web_fetches,
        billed=made.billed,
        broken_input=broken or None,
    )


def _apply_stops(made: Draft, stops: list[str]) -> str | None:
    """End the text at the first stop sequence it contains; a forced one counts as the text's next word."""
    if made.cut_here == "stop_sequence":
        return stops[0] if stops else "\n\nHuman:"
    for index, block in enumerate(made.blocks):
        if not stops or block["type"] != "text":
            continue
        found = [(block["text"].find(stop), stop) for stop in stops if stop in block["text"]]
        if found:
            at, stop = min(found)
            kept = [{"type": "text", "text": block["text"][:at]}] if at else []
            made.blocks = made.blocks[:index] + kept
            made.stop_reason = "stop_sequence"
            return stop
    return None


def _cut(blocks: list[JsonObject], limit: int) -> tuple[list[JsonObject], int, str | None]:
    """The blocks within `limit`, their tokens, and what was broken: None when nothing was."""
    kept: list[JsonObject] = []
    used = 0
    for block in blocks:
        tokens = block_tokens(block)
        if used + tokens <= limit:
            kept.append(block)
            used += tokens
            continue
        partial, broken = _partial(block, limit - used - BLOCK_OVERHEAD)
        return kept + partial, limit, broken
    return kept, used, None


def _partial(block: JsonObject, limit: int) -> tuple[list[JsonObject], str]:
    if limit <= 0:
        return [], ""
    if block["type"] == "text":
        text = block["text"].encode()[: limit * BYTES_PER_TOKEN].decode(errors="ignore")
        return ([{"type": "text", "text": text}] if text else []), ""
    if block["type"] == "tool_use":
        raw = orjson.dumps(block["input"])[: limit * BYTES_PER_TOKEN // 2]
        return [{**block, "input": {}}], raw.decode(errors="ignore") or "{"
    return [], ""


def _break_call(blocks: list[JsonObject], used: int) -> tuple[list[JsonObject], int, str | None]:
    """Break the last tool call off in the middle of its input, whatever room there was."""
    if not blocks or blocks[-1]["type"] != "tool_use":
        return blocks, used, None
    raw = orjson.dumps(blocks[-1]["input"]).decode()
    return [*blocks[:-1], {**blocks[-1], "input": {}}], used, raw[: max(1, len(raw) // 2)]
