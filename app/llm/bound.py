"""What a call can cost at most, known before it is made; and the largest answer a budget can pay.

Tokens are bounded by bytes: a byte-level tokenizer emits no more tokens than the text has bytes,
before or after NFKC normalisation, which some tokenizers apply and which can make text longer.
Money follows from it with the dearest rates the call can meet. Pure; nothing here waits.
"""

import json
import unicodedata
from collections.abc import Sequence
from typing import Literal

from app.domain.record import record
from app.llm.models import ModelFacts
from app.llm.pricing import TOKENS_PER_RATE, PriceRow, Rates
from app.llm.provider import JsonObject, ModelRequest

CacheUse = Literal["none", "5m", "1h"]

ITEM_TOKENS = 10
"""What marks the borders of a message, a content block or a tool definition."""
HIDDEN_PROMPT_TOKENS = 500
"""Added for a structured answer, and for models that are told their remaining context."""
TURN_TOKENS = 100
"""Slack of one more turn: its borders, and an answer that reads back longer than it was written."""
GEO_TENTHS = 11
"""US-only inference costs 11 tenths, and a workspace's default can switch it on unasked."""

_BOUNDED_TOOL_KEYS = frozenset(
    {"type", "name", "description", "input_schema", "input_examples", "strict", "cache_control"}
)


@record(frozen=True, slots=True)
class ClosingTurn:
    """A call that may follow, and whose price is held back: it reads what the call before it read and wrote."""

    new_tokens: int
    """What is added to the conversation before it, at most."""
    max_tokens: int
    """Its output."""


class UnboundedContent(Exception):  # noqa: N818  (a finding about the request, not a bug)
    """The request holds something whose tokens its bytes do not bound; `what` names it."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"No upper bound is known for {what}: the bytes sent do not limit its tokens."
        )
        self.what = what


def prompt_bound(request: ModelRequest, facts: ModelFacts, *, structured: bool = False) -> int:
    """Upper bound of the prompt in tokens, from the request's bytes; at most the context window.

    `structured` says that the request asks for an answer of a given JSON Schema.

    Raises:
        UnboundedContent: images, documents, thinking, server tools and their results, or a shape
            that is not known. In a conversation that only grew, `grown_bound` covers what the
            model itself wrote.
    """
    tokens = TURN_TOKENS
    if request.system is not None:
        tokens += ITEM_TOKENS + _text_bytes(request.system)
    if request.tools:
        tokens += facts.tool_prompt_tokens + sum(_tool_bound(tool) for tool in request.tools)
    if structured or facts.turn_tag_tokens:
        tokens += HIDDEN_PROMPT_TOKENS
    for message in request.messages:
        tokens += ITEM_TOKENS + facts.turn_tag_tokens + _content_bound(message.get("content"))
    return min(tokens, facts.context_window_tokens)


def grown_bound(
    previous_prompt: int,
    previous_output: int,
    new_blocks: Sequence[JsonObject],
    facts: ModelFacts,
) -> int:
    """Upper bound of the next prompt of a conversation that only grew; at most the context window.

    The previous prompt and output are as reported (tokens), and cover every block they contain, hidden
    thinking too. `new_blocks` are the content blocks appended after the previous answer. Valid
    only for the same model, system text and tools, with nothing removed or rewritten since, and
    without server tools: their results come back larger than anything the answer reported.

    Raises:
        UnboundedContent: a new block is not bounded by its bytes.
    """
    tokens = previous_prompt + previous_output + TURN_TOKENS + facts.turn_tag_tokens
    return min(tokens + _content_bound(list(new_blocks)), facts.context_window_tokens)


def worst_case_nano(
    row: PriceRow,
    facts: ModelFacts,
    prompt_tokens: int,
    max_tokens: int,
    *,
    cache: CacheUse = "none",
) -> int:
    """The most a call can cost, in nano-dollars, rounded up.

    Holds for any split of at most `prompt_tokens` over the input meters that `cache` (the longest
    lifetime the request asks for) allows, and at most `max_tokens` of output, at standard speed
    and without server tools.
    """
    price_in, price_out, tenths = _worst_rates(row, facts, prompt_tokens, cache)
    exact = (prompt_tokens * price_in + max_tokens * price_out) * tenths
    return -(-exact // (TOKENS_PER_RATE * 10))


def affordable_max_tokens(
    row: PriceRow,
    facts: ModelFacts,
    prompt_tokens: int,
    budget_nano: int,
    *,
    cache: CacheUse = "none",
) -> int:
    """The largest `max_tokens` whose worst case fits the budget, at most the model's own limit.

    0 when not even the prompt fits. The exact inverse of `worst_case_nano`.
    """
    price_in, price_out, tenths = _worst_rates(row, facts, prompt_tokens, cache)
    left = budget_nano * TOKENS_PER_RATE * 10 // tenths - prompt_tokens * price_in
    if left < 0:
        return 0
    if price_out == 0:
        return facts.max_output_tokens
    return min(left // price_out, facts.max_output_tokens)


def compaction_nano(
    row: PriceRow, facts: ModelFacts, prompt_tokens: int, *, cache: CacheUse = "none"
) -> int:
    """The most that a pass can cost which summarizes the prompt: no limit of its output is known but the model's own."""
    return worst_case_nano(row, facts, prompt_tokens, facts.max_output_tokens, cache=cache)


def compacted_bound(prompt_tokens: int, facts: ModelFacts) -> int:
    """Upper bound of the prompt after such a pass: what was there, and its summary."""
    return min(prompt_tokens + facts.max_output_tokens, facts.context_window_tokens)


def closing_nano(
    row: PriceRow, facts: ModelFacts, prompt_tokens: int, max_tokens: int, closing: ClosingTurn
) -> int:
    """The most the closing turn can cost after a call with this prompt and output."""
    grown = prompt_tokens + max_tokens + closing.new_tokens
    return worst_case_nano(row, facts, min(grown, facts.context_window_tokens), closing.max_tokens)


def affordable_before_closing(
    row: PriceRow,
    facts: ModelFacts,
    prompt_tokens: int,
    budget_nano: int,
    closing: ClosingTurn,
    *,
    cache: CacheUse = "none",
) -> int:
    """The largest `max_tokens` after whose worst case the closing turn can still be paid; -1 when none is.

    Found by halving: both prices only grow with the output. The closing turn itself is never cached.
    """
    low, high = -1, affordable_max_tokens(row, facts, prompt_tokens, budget_nano, cache=cache)
    while low < high:
        middle = (low + high + 1) // 2
        call = worst_case_nano(row, facts, prompt_tokens, middle, cache=cache)
        rest = closing_nano(row, facts, prompt_tokens, middle, closing)
        if call + rest <= budget_nano:
            low = middle
        else:
            high = middle - 1
    return low


def _worst_rates(
    row: PriceRow, facts: ModelFacts, prompt_tokens: int, cache: CacheUse
) -> tuple[int, int, int]:
    """Dearest input rate, dearest output rate, and the geography's tenths."""
    rates = row.rates
    above = row.long_above_tokens
    if row.long is not None and above is not None and prompt_tokens > above:
        rates = rates.dearest(row.long)
    return _dearest_input(rates, cache), rates.output, GEO_TENTHS if facts.geo_premium else 10


def _dearest_input(rates: Rates, cache: CacheUse) -> int:
    # Reads count without a marker too: some gateways cache by themselves and report it.
    price = max(rates.input, rates.cache_read)
    if cache == "none":
        return price
    price = max(price, rates.cache_write_5m)
    return price if cache == "5m" else max(price, rates.cache_write_1h)


def _content_bound(content: object) -> int:
    if content is None:
        return 0
    if isinstance(content, str):
        return ITEM_TOKENS + _text_bytes(content)
    if not isinstance(content, list):
        what = f"content that is a {type(content).__name__}"
        raise UnboundedContent(what)
    return sum(_block_bound(block) for block in content)


def _block_bound(block: object) -> int:
    kind = block.get("type") if isinstance(block, dict) else None
    if isinstance(block, dict) and not block.get("citations"):
        if kind == "text" and isinstance(block.get("text"), str):
            return ITEM_TOKENS + _text_bytes(block["text"])
        if kind == "compaction" and not block.get("encrypted_content"):
            return ITEM_TOKENS + _json_bytes(block)
        if kind == "tool_use":
            return ITEM_TOKENS + _json_bytes(block)
        if kind == "tool_result":
            envelope = {key: value for key, value in block.items() if key != "content"}
            return ITEM_TOKENS + _json_bytes(envelope) + _content_bound(block.get("content"))
    what = f"a content block of type {kind!r}" if isinstance(kind, str) else "a malformed block"
    raise UnboundedContent(what)


def _tool_bound(tool: JsonObject) -> int:
    """A client tool is its own JSON; the provider's built-in tools have definitions we don't see."""
    kind = tool.get("type", "custom")
    if kind not in (None, "custom"):
        what = f"the built-in tool {kind!r}"
        raise UnboundedContent(what)
    for option in tool.keys() - _BOUNDED_TOOL_KEYS:
        what = f"the tool option {option!r}"  # code execution or tool search, by a side door
        raise UnboundedContent(what)
    return ITEM_TOKENS + _json_bytes(tool)


def _text_bytes(text: str) -> int:
    if text.isascii():
        return len(text)
    return max(_utf8_len(text), _utf8_len(unicodedata.normalize("NFKC", text)))


def _utf8_len(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))  # a lone surrogate must not stop the count


def _json_bytes(value: JsonObject) -> int:
    """The larger of both ways to write JSON: with escapes, and with the characters themselves."""
    escaped = json.dumps(value)
    if "\\u" not in escaped:
        return len(escaped)
    return max(len(escaped), _text_bytes(json.dumps(value, ensure_ascii=False)))
