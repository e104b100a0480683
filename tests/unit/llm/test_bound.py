"""What a call can cost at most, and the answer a budget can pay."""

import json
import unicodedata
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.llm.bound import (
    UnboundedContent,
    affordable_max_tokens,
    grown_bound,
    prompt_bound,
    worst_case_nano,
)
from app.llm.models import ModelFacts, facts_of
from app.llm.pricing import PriceBook, PriceRow, Rates
from app.llm.provider import JsonObject, ModelRequest
from app.llm.usage import Tokens, Usage, read_usage

AT = date(2026, 11, 22)
BOOK = PriceBook.load()
WIDE = ModelFacts(context_window_tokens=10**9, turn_tag_tokens=0)

models = st.sampled_from(BOOK.known_models())
budgets = st.integers(0, 10**12)
prompts = st.integers(0, 1_200_000)
caches = st.sampled_from(["none", "5m", "1h"])
rates = st.builds(Rates, *[st.integers(0, 10**11)] * 5)
rows = st.builds(
    PriceRow,
    model=st.just("m"),
    row_id=st.just("r"),
    rates=rates,
    long=rates | st.none(),
    long_above_tokens=st.integers(1, 1_000_000) | st.none(),
)
facts = st.builds(ModelFacts, geo_premium=st.booleans(), max_output_tokens=st.integers(1, 200_000))


def request(*content: Any, system: str | None = None, tools: Any = ()) -> ModelRequest:
    messages = [{"role": "user", "content": part} for part in content]
    return ModelRequest("m", 10, messages, system=system, tools=tuple(tools))


def text_cost(text: str) -> int:
    return prompt_bound(request(text), WIDE) - prompt_bound(request(""), WIDE)


@settings(deadline=None)
@given(st.text())
def test_text_is_bounded_by_both_of_its_byte_forms(text):
    """Raw and NFKC-normalised length, whichever is larger; ASCII is its length."""
    wide = text.encode("utf-8", "surrogatepass")
    normal = unicodedata.normalize("NFKC", text).encode("utf-8", "surrogatepass")
    assert text_cost(text) == max(len(wide), len(normal))


def test_text_that_normalisation_lengthens_is_counted_long():
    """One character of three bytes becomes thirty-three; a lone surrogate does not stop the count."""
    assert text_cost("\ufdfa") == 33
    assert text_cost("\ud800") == 3


def test_every_part_of_a_request_counts():
    """System, tools, tool inputs, results and each border make the bound larger."""
    plain = prompt_bound(request("hi"), WIDE)
    tool = {"name": "look", "description": "Look.", "input_schema": {"type": "object"}}
    use = {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "é" * 50}}
    result = {
        "type": "tool_result",
        "tool_use_id": "t1",
        "content": [{"type": "text", "text": "x" * 80}],
    }
    assert prompt_bound(request("hi", system="s" * 40), WIDE) >= plain + 40
    assert prompt_bound(request("hi", tools=[tool]), WIDE) >= plain + 1_000 + len(json.dumps(tool))
    assert prompt_bound(request("hi", [use]), WIDE) >= plain + 20 + len(json.dumps(use))
    assert prompt_bound(request("hi", [result]), WIDE) >= plain + 30 + 80
    assert prompt_bound(request("hi", None), WIDE) == plain + 10
    assert prompt_bound(request("hi"), WIDE, structured=True) == plain + 500


def test_escaped_and_plain_json_are_both_covered():
    """A tool input that normalisation lengthens beyond its escapes is counted at the longer form."""
    value = {"type": "tool_use", "id": "t", "name": "n", "input": {"at": "\ufdfa" * 100}}
    assert prompt_bound(request([value]), WIDE) >= 3_300


def test_the_window_caps_every_bound():
    """A prompt beyond the window is refused by the provider, so it cannot be billed."""
    small = facts_of("claude-haiku-4-5")
    assert prompt_bound(request("x" * 300_000), small) == 200_000
    assert grown_bound(190_000, 9_000, [{"type": "text", "text": "x" * 9_000}], small) == 200_000


OPAQUE: list[Any] = [
    [{"type": "image", "source": {}}],
    [{"type": "document", "source": {}}],
    [{"type": "thinking", "thinking": "", "signature": "s"}],
    [{"type": "redacted_thinking", "data": "d"}],
    [{"type": "web_search_tool_result", "content": []}],
    [{"type": "text", "text": "t", "citations": [{"encrypted_index": "e"}]}],
    [{"type": "text", "text": None}],
    [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image"}]}],
    [{"type": ["text"]}],
    ["text"],
    {"type": "text"},
]


@pytest.mark.parametrize("content", OPAQUE)
def test_opaque_content_has_no_bound(content):
    """Where bytes do not limit tokens, we say so instead of guessing."""
    with pytest.raises(UnboundedContent):
        prompt_bound(request("hi", content), WIDE)


@pytest.mark.parametrize(
    "tool",
    [
        {"type": "web_search_20250305", "name": "web_search"},
        {"name": "look", "input_schema": {}, "allowed_callers": ["code_execution_20260120"]},
    ],
)
def test_the_providers_own_tools_have_no_bound(tool):
    """A built-in tool, or a client tool run through one, brings text we never see."""
    with pytest.raises(UnboundedContent):
        prompt_bound(request("hi", tools=[tool]), WIDE)


def test_growth_covers_opaque_blocks_the_model_wrote():
    """Only new blocks are measured; what was reported covers the rest."""
    block: JsonObject = {"type": "tool_result", "tool_use_id": "t", "content": "x" * 500}
    bound = grown_bound(10_000, 700, [block], facts_of("claude-opus-5-5"))
    assert 11_200 + 100 <= bound <= 11_500
    with pytest.raises(UnboundedContent):
        grown_bound(10_000, 700, [{"type": "image"}], WIDE)


@settings(deadline=None)
@given(rows, facts, prompts, budgets, caches)
def test_affordable_is_the_exact_inverse_of_the_worst_case(row, known, prompt, budget, cache):
    """What it returns fits; one token more does not, unless the model's own limit was reached."""
    most = affordable_max_tokens(row, known, prompt, budget, cache=cache)
    assert 0 <= most <= known.max_output_tokens
    if most > 0:
        assert worst_case_nano(row, known, prompt, most, cache=cache) <= budget
    if most < known.max_output_tokens:
        assert worst_case_nano(row, known, prompt, most + 1, cache=cache) > budget


def meters(cache: str, tokens: tuple[int, int, int, int], output: int) -> Tokens:
    """Tokens on the meters a request with this cache use can be billed on."""
    uncached, read, short, long = tokens
    if cache != "1h":
        short, long = short + long, 0
    if cache == "none":
        uncached, short = uncached + short, 0
    return Tokens(uncached, output, read, short, long)


@settings(deadline=None)
@given(
    models,
    st.tuples(*[st.integers(0, 90_000)] * 4),
    st.integers(0, 50_000),
    st.tuples(st.integers(0, 200_000), st.integers(0, 9_999)),
    caches,
    st.sampled_from([(geo, tier) for geo in ("us", "global") for tier in ("standard", "batch")]),
)
def test_no_call_within_its_bounds_costs_more_than_the_worst_case(
    model, split, output, spare, cache, place
):
    """The reservation holds for every model, split, geography and tier."""
    geo, tier = place
    tokens = meters(cache, split, output)
    usage = Usage(((model, tokens),), service_tier=tier, inference_geo=geo)
    worst = worst_case_nano(
        BOOK.row(model, AT),
        facts_of(model),
        tokens.prompt + spare[0],
        output + spare[1],
        cache=cache,
    )
    assert BOOK.cost(usage, AT).nano <= worst


@settings(deadline=None)
@given(rows, prompts, st.integers(0, 100_000), st.integers(0, 1_200_000))
def test_the_worst_case_holds_across_the_long_context_edge(row, prompt, output, spare):
    """A shorter prompt than the bound may stand on the other side of the edge; either is covered."""
    exact = row.rates_for(prompt).of(Tokens(input=prompt, output=output))
    nano = -(-exact // 1_000_000)
    assert nano <= worst_case_nano(row, WIDE, prompt + spare, output)


def test_a_cheaper_long_context_price_does_not_lower_the_bound():
    """The bound says "long", the prompt may turn out short: the dearer of both prices holds."""
    usd = 10**9
    dear, cheap = Rates(*[2 * usd] * 5), Rates(*[usd] * 5)
    row = PriceRow("m", "r", dear, long=cheap, long_above_tokens=1_000)
    exact = row.rates_for(1_000).of(Tokens(input=1_000, output=50))
    assert exact // 1_000_000 == 2_100_000
    known = ModelFacts(geo_premium=False)
    assert worst_case_nano(row, known, 1_001, 50) == 2_102_000


def test_a_budget_a_hair_short_of_the_prompt_affords_nothing():
    """Not even a negative answer."""
    row, known = PriceRow("m", "r", Rates(*[10**6 + 1] * 5)), ModelFacts(geo_premium=False)
    assert worst_case_nano(row, known, 3, 0) == 4
    assert affordable_max_tokens(row, known, 3, 3) == 0


def test_the_worst_case_is_what_the_price_list_says():
    """Haiku 5.5 at its edge, US premium included: 100,000 and 100,001 prompt tokens."""
    row, known = BOOK.row("claude-haiku-5-5", AT), facts_of("claude-haiku-5-5")
    assert worst_case_nano(row, known, 100_000, 1_000) == 11_550_000
    assert worst_case_nano(row, known, 100_001, 1_000) == 57_750_550
    assert worst_case_nano(row, known, 100_000, 1_000, cache="5m") == 14_300_000
    assert worst_case_nano(row, known, 100_000, 1_000, cache="1h") == 22_550_000


def test_a_free_model_affords_its_own_limit():
    """A price of zero is no division by zero."""
    row = PriceRow("m", "r", Rates(0, 0, 0, 0, 0))
    assert affordable_max_tokens(row, WIDE, 5, 0) == WIDE.max_output_tokens


def test_facts_of_a_model():
    """Dated names, families that always think, and the cautious default."""
    assert facts_of("claude-haiku-4-5-20251001") is facts_of("claude-haiku-4-5")
    assert facts_of("claude-sonnet-4-5").retires_on == date(2026, 11, 30)
    thinkers = ("claude-opus-5-5", "claude-fable-5-2", "claude-mythos-9")
    assert all(facts_of(name).thinking_always for name in thinkers)
    assert {facts_of(name).min_output_tokens for name in thinkers} == {1_024}
    assert facts_of("claude-opus-5").min_output_tokens == 256
    assert facts_of("claude-sonnet-4-6").geo_premium
    assert not facts_of("claude-opus-4-5").geo_premium
    assert facts_of("my-model") == ModelFacts()


def recorded_answers(folder: Path) -> Iterator[tuple[str, JsonObject, JsonObject]]:
    for file in sorted(folder.glob("*.jsonl")):
        for line in file.read_text(encoding="utf-8").splitlines():
            record = json.loads(line)
            asked, answered = record["request"]["body"], record["response"].get("body")
            if isinstance(asked, dict) and isinstance(answered, dict) and "messages" in asked:
                yield record["id"], asked, answered


def as_request(body: JsonObject) -> ModelRequest:
    system = body.get("system")
    if isinstance(system, list):
        system = "\n".join(block["text"] for block in system)
    tools = tuple(body.get("tools") or ())
    return ModelRequest(body["model"], body["max_tokens"], body["messages"], system, tools)


@pytest.mark.corpus
def test_no_recorded_prompt_was_larger_than_its_bound(corpus):
    """Real requests we could send (no remote MCP servers), against what was billed."""
    compared = 0
    for record_id, asked, answered in recorded_answers(corpus / "recordings"):
        usage = read_usage(answered.get("usage"), asked["model"])
        if usage is None or "mcp_servers" in asked:
            continue
        structured = "output_config" in asked or "output_format" in asked
        try:
            bound = prompt_bound(as_request(asked), facts_of(asked["model"]), structured=structured)
        except UnboundedContent:
            continue
        compared += 1
        assert sum(tokens.prompt for _, tokens in usage.parts) <= bound, record_id
    assert compared > 250


def next_prompts(loop: JsonObject) -> Iterator[tuple[int, JsonObject, JsonObject, JsonObject]]:
    """Per step: index, the request before, its answer, the request after (which extends it)."""
    steps = loop["steps"]
    for at in range(len(steps) - 1):
        asked, answered = steps[at]["request"]["body"], steps[at]["response"].get("body")
        grown = steps[at + 1]["request"]["body"]
        if isinstance(answered, dict) and answered.get("type") == "message":
            yield at + 1, asked, answered, grown


def new_blocks(asked: JsonObject, grown: JsonObject) -> list[JsonObject] | None:
    """Blocks after the previous answer; None when the conversation did not simply grow."""
    sent = len(asked["messages"])
    same = all(asked.get(key) == grown.get(key) for key in ("model", "tools", "system"))
    added = grown["messages"][sent:]
    if not same or grown["messages"][:sent] != asked["messages"] or len(added) < 2:
        return None
    contents = [message["content"] for message in added[1:]]
    as_blocks = [[{"type": "text", "text": c}] if isinstance(c, str) else c for c in contents]
    return [block for blocks in as_blocks for block in blocks]


@pytest.mark.corpus
def test_no_recorded_conversation_outgrew_its_bound(corpus):
    """Real loops without server tools: each next prompt fits the bound from the step before."""
    compared = 0
    for line in (corpus / "loops.jsonl").read_text(encoding="utf-8").splitlines():
        loop = json.loads(line)
        for at, asked, answered, grown in next_prompts(loop):
            before = read_usage(answered.get("usage"), asked["model"])
            after = read_usage((loop["steps"][at]["response"].get("body") or {}).get("usage"), "m")
            blocks = new_blocks(asked, grown)
            server = any("server" in b["type"] or "mcp" in b["type"] for b in answered["content"])
            if before is None or after is None or blocks is None or server:
                continue
            tokens = before.parts[0][1]
            try:
                bound = grown_bound(tokens.prompt, tokens.output, blocks, facts_of(asked["model"]))
            except UnboundedContent:
                continue
            compared += 1
            assert after.parts[0][1].prompt <= bound, loop["loop_id"]
    assert compared > 50
