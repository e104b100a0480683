"""What a task can cost, and what it will likely cost, before it runs. Pure."""

from app.agent.classify import question
from app.agent.transcript import TOOL_CALLS_LIMIT, enlarged_max_tokens
from app.domain.record import record
from app.domain.task import BudgetPolicy, TaskSpec, Urgency
from app.llm.bound import CacheUse, UnboundedContent, compaction_nano, prompt_bound, worst_case_nano
from app.llm.models import ModelFacts, facts_of
from app.llm.pricing import BATCH_DIVISOR, PriceRow
from app.llm.provider import JsonObject, ModelRequest

_TURN_TOKENS = 400
"""What a turn adds to the prompt besides answers and results: borders, a question of ours."""
_RESULT_TOKENS = 200
"""Envelope of one tool result."""
_FURTHER_CALLS_FACTOR = 20
"""Calls beyond the limit are answered with an error each: at most this many tokens for a token of the answer."""
BYTES_PER_TOKEN = 4
"""Of ordinary text; a rule of thumb, for likely costs only."""
LIKELY_OUTPUT_TOKENS = 300
LIKELY_STEPS_WITH_TOOLS = 3
LIKELY_RESULT_TOKENS = 100


@record(frozen=True, slots=True)
class QuoteLimits:
    """What bounds a task's calls besides its own words."""

    attempts: int
    """Attempts of one model call; each lost one counts in full."""
    tool_result_bytes: int
    caching: bool = False
    """Prompts may be written to the cache, which costs more than reading them plainly."""


def first_question(spec: TaskSpec, model: str, tools: tuple[JsonObject, ...]) -> ModelRequest:
    """What the task asks first."""
    return ModelRequest(
        model=model,
        max_tokens=spec.max_tokens,
        messages=[{"role": "user", "content": spec.text}],
        system=spec.system,
        tools=tools,
    )


def first_prompt_tokens(spec: TaskSpec, model: str, tools: tuple[JsonObject, ...]) -> int:
    """Upper bound of the first prompt, in tokens."""
    facts = facts_of(model)
    try:
        return prompt_bound(first_question(spec, model, tools), facts)
    except UnboundedContent:
        return facts.context_window_tokens


def worst_nano(
    spec: TaskSpec, row: PriceRow, tools: tuple[JsonObject, ...], limits: QuoteLimits
) -> int:
    """The most that all calls of the task can cost if no budget stops them: every step, every attempt lost."""
    facts = facts_of(row.model)
    prompt, total = first_prompt_tokens(spec, row.model, tools), 0
    output = spec.max_tokens
    if not spec.max_tokens_explicit:
        output = enlarged_max_tokens(row.model, output)
    results = TOOL_CALLS_LIMIT * (limits.tool_result_bytes + _RESULT_TOKENS) if spec.tools else 0
    if spec.on_budget is BudgetPolicy.FINALIZE:  # any of its questions may be the closing one
        prompt = _grown(prompt, facts)
    for left in range(spec.max_steps, 0, -1):
        cache = _dearest_cache(spec, facts, prompt, left) if limits.caching else "none"
        if spec.compact_above_tokens is not None and prompt > spec.compact_above_tokens:
            total += limits.attempts * compaction_nano(row, facts, prompt, cache=cache)
            prompt = facts.context_window_tokens
        total += limits.attempts * worst_case_nano(row, facts, prompt, output, cache=cache)
        further = output * _FURTHER_CALLS_FACTOR if spec.tools else 0
        prompt = _grown(prompt + output + results + further, facts)
        # Another model counts from bytes, and an answer may have many for a token. A step up leaves out the
        # answer it follows; without tools no other one is kept.
        if spec.downgrade or spec.fallback or (spec.escalate and spec.tools):
            prompt = facts.context_window_tokens
    # Each time another model goes on, the attempts of that question begin anew.
    total += len(spec.fallback) * limits.attempts * worst_case_nano(row, facts, prompt, output)
    return at_tier(spec, total)


def classifier_worst_nano(spec: TaskSpec, row: PriceRow, limits: QuoteLimits) -> int:
    """The most that the second opinion can cost, every attempt lost; `row` is whom it is asked of."""
    facts, request = facts_of(row.model), question(spec, row.model)
    return limits.attempts * worst_case_nano(
        row, facts, prompt_bound(request, facts), request.max_tokens
    )


def likely_nano(spec: TaskSpec, row: PriceRow, tools: tuple[JsonObject, ...]) -> int:
    """What such a task costs by a rule of thumb: a few short steps, none repeated."""
    facts, rates = facts_of(row.model), row.rates
    prompt = first_prompt_tokens(spec, row.model, tools) // BYTES_PER_TOKEN
    output = min(LIKELY_OUTPUT_TOKENS, spec.max_tokens)
    steps = min(LIKELY_STEPS_WITH_TOOLS if spec.tools else 1, spec.max_steps)
    exact = 0
    for _ in range(steps):
        exact += prompt * rates.input + output * rates.output
        prompt = _grown(prompt + output + LIKELY_RESULT_TOKENS, facts)
    return at_tier(spec, -(-exact // 1_000_000))


def at_tier(spec: TaskSpec, nano: int) -> int:
    """What costs so much when it is asked at once, at the price of the task's urgency."""
    return -(-nano // BATCH_DIVISOR) if spec.urgency is Urgency.ECONOMY else nano


def _dearest_cache(spec: TaskSpec, facts: ModelFacts, prompt: int, steps_left: int) -> CacheUse:
    """For how long a question may be written to the cache, at most."""
    if prompt < facts.cache_minimum_tokens:
        return "none"
    return "1h" if spec.tools and steps_left > 1 else "5m"


def _grown(prompt_tokens: int, facts: ModelFacts) -> int:
    return min(
        prompt_tokens + _TURN_TOKENS + 2 * facts.turn_tag_tokens, facts.context_window_tokens
    )
