"""What each model can do and needs: window, output limits, floors. Prices are in `pricing`.

Sources: Messages API documentation (models, pricing, prompt caching, data residency, vision, tool use) and the
retirement dates the anthropic SDK 2.12 carries.
"""

import re
from dataclasses import replace
from datetime import date
from functools import lru_cache

from app.domain.record import record


@record(frozen=True, slots=True)
class ModelFacts:
    """Facts of a model family. The defaults are what an unknown model gets: the cautious side."""

    context_window_tokens: int = 1_000_000
    max_output_tokens: int = 128_000
    min_output_tokens: int = 256
    """Floor of a minimal call: below it an answer is not worth asking for."""
    geo_premium: bool = True
    """US-only inference costs 1.1 times as much, and a workspace can switch it on without asking."""
    thinking_always: bool = False
    """Thinking cannot be switched off, so it eats into every `max_tokens`."""
    tool_prompt_tokens: int = 1_000
    """The system prompt the provider adds when a request has tools (dearest `tool_choice`)."""
    turn_tag_tokens: int = 50
    """What the provider may add to each message: the tags that tell a model its remaining context."""
    image_tokens_limit: int = 4_784
    """The most one image can count."""
    cache_minimum_tokens: int = 1_024
    """A shorter prefix is not cached, whatever is asked. Unpublished for the newest families: what their
    predecessors have; a wrong guess loses a little saving, never money."""
    retires_on: date | None = None
    """Announced last day; None when none is announced."""
    gone: bool = False
    """Retired, even where the day is not known: kept so that old answers are still priced right."""


@lru_cache(maxsize=512)
def facts_of(model: str) -> ModelFacts:
    """Facts of a model by its name, dated or not; cautious defaults for a name nobody knows."""
    family = family_of(model)
    known = _FAMILIES.get(family)
    if known is not None:
        return known
    # A later Fable or Mythos than this table knows also thinks always, as all of them do.
    return _THINKER if family.startswith(("claude-fable", "claude-mythos")) else _UNKNOWN


def family_of(model: str) -> str:
    """The model's name without its date."""
    return _VERSION_SUFFIX.sub("", model.lower())


_VERSION_SUFFIX = re.compile(r"([-@]\d{8}|-\d{4}-\d{2}-\d{2}|-latest)$")

_UNKNOWN = ModelFacts()
_LARGE = replace(_UNKNOWN, turn_tag_tokens=0, cache_minimum_tokens=512)
_THINKER = replace(_LARGE, thinking_always=True, min_output_tokens=1_024)
_TAGGED_TOKENS = 50
_MID = ModelFacts(
    context_window_tokens=200_000,
    max_output_tokens=64_000,
    geo_premium=False,
    tool_prompt_tokens=588,
    turn_tag_tokens=0,
    image_tokens_limit=1_568,
)


def _retired(max_output_tokens: int, retires_on: date | None = None) -> ModelFacts:
    """A model that is gone."""
    return replace(
        _MID,
        max_output_tokens=max_output_tokens,
        tool_prompt_tokens=1_000,
        retires_on=retires_on,
        gone=True,
    )


_FAMILIES: dict[str, ModelFacts] = {
    "claude-fable-5-2": _THINKER,
    "claude-fable-5-1": _THINKER,
    "claude-fable-5": _THINKER,
    "claude-mythos-5-2": _THINKER,
    "claude-mythos-5-1": _THINKER,
    "claude-mythos-5": _THINKER,
    "claude-mythos-preview": replace(_THINKER, retires_on=date(2026, 6, 30), gone=True),
    "claude-opus-5-5": _THINKER,
    "claude-opus-5": replace(_LARGE, tool_prompt_tokens=406),
    "claude-opus-4-8": replace(_LARGE, tool_prompt_tokens=410, cache_minimum_tokens=1_024),
    "claude-opus-4-7": replace(_LARGE, tool_prompt_tokens=804, cache_minimum_tokens=2_048),
    "claude-opus-4-6": replace(
        _LARGE, tool_prompt_tokens=589, image_tokens_limit=1_568, cache_minimum_tokens=4_096
    ),
    "claude-opus-4-5": replace(_MID, cache_minimum_tokens=4_096),
    "claude-opus-4-1": _retired(32_000, date(2026, 8, 5)),
    "claude-opus-4-0": _retired(32_000, date(2026, 6, 15)),
    "claude-opus-4": _retired(32_000, date(2026, 6, 15)),
    "claude-sonnet-5-5": _LARGE,
    "claude-sonnet-5": replace(
        _LARGE,
        tool_prompt_tokens=474,
        turn_tag_tokens=_TAGGED_TOKENS,
        cache_minimum_tokens=1_024,
    ),
    "claude-sonnet-4-6": replace(
        _LARGE,
        tool_prompt_tokens=589,
        turn_tag_tokens=_TAGGED_TOKENS,
        image_tokens_limit=1_568,
        cache_minimum_tokens=1_024,
    ),
    "claude-sonnet-4-5": replace(
        _MID, turn_tag_tokens=_TAGGED_TOKENS, retires_on=date(2026, 11, 30)
    ),
    "claude-sonnet-4-0": _retired(64_000, date(2026, 6, 15)),
    "claude-sonnet-4": _retired(64_000, date(2026, 6, 15)),
    "claude-haiku-5-5": _LARGE,
    "claude-haiku-4-5": replace(_MID, turn_tag_tokens=_TAGGED_TOKENS, cache_minimum_tokens=4_096),
    "claude-3-7-sonnet": _retired(64_000, date(2026, 2, 19)),
    "claude-3-5-haiku": _retired(8_192, date(2026, 2, 19)),
    "claude-3-5-sonnet": _retired(8_192),
    "claude-3-opus": _retired(4_096, date(2026, 1, 5)),
    "claude-3-sonnet": _retired(4_096, date(2025, 7, 21)),
    "claude-3-haiku": _retired(4_096),
    "claude-2": _retired(4_096, date(2025, 7, 21)),
    "claude-v1": _retired(4_096, date(2024, 11, 6)),
    "claude-2.1": _retired(4_096, date(2025, 7, 21)),
    "claude-2.0": _retired(4_096, date(2025, 7, 21)),
}
