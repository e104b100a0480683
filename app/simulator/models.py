"""What each model takes and refuses (Messages API documentation and model pages, November 2026)."""

from enum import StrEnum

from app.domain.record import record
from app.simulator.errors import ApiError


class Fast(StrEnum):
    """What a model does with `speed: fast`."""

    YES = "yes"
    IGNORED = "ignored"
    REFUSED = "refused"


@record(frozen=True, slots=True)
class Model:
    """One model's rules. Sizes are tokens; `name` is what a response calls it."""

    name: str
    window: int = 1_000_000
    max_output: int = 128_000
    cache_minimum: int = 512
    """Shortest prefix that is cached at all."""
    tool_prompt: int = 350
    """Hidden prompt when tools are offered; unpublished for the newest models, so this is assumed."""
    forced_tool_prompt: int = 470
    """The same when `tool_choice` forces a call."""
    prefill: bool = False
    forced_tools: bool = True
    geo: bool = True
    """Takes `inference_geo` (4.6 and later)."""
    fast: Fast = Fast.REFUSED
    thinking_budget: bool = False
    """Takes `thinking: enabled` with a budget (4.6 and earlier)."""
    thinking_off: bool = True
    """Takes `thinking: disabled`."""
    keeps_thinking: bool = True
    """Earlier thinking stays in the context and is billed as input."""
    binds_thinking: bool = False
    """Refuses a thinking block whose conversation changed since."""
    system_turns: bool = False
    """Takes messages with role `system`."""


def _newest(
    name: str, *, fast: Fast = Fast.REFUSED, off: bool = False, forced: bool = False
) -> Model:
    return Model(name, fast=fast, thinking_off=off, forced_tools=forced, binds_thinking=True)


def _fifth(name: str) -> Model:
    return Model(
        name, tool_prompt=286, forced_tool_prompt=406, thinking_off=False, system_turns=True
    )


def _fourth(name: str, minimum: int, *, keeps: bool) -> Model:
    return Model(
        name,
        window=200_000,
        max_output=64_000,
        cache_minimum=minimum,
        tool_prompt=496,
        forced_tool_prompt=588,
        prefill=True,
        geo=False,
        thinking_budget=True,
        keeps_thinking=keeps,
    )


_OPUS_5 = Model(
    "claude-opus-5", tool_prompt=286, forced_tool_prompt=406, fast=Fast.YES, system_turns=True
)
_OPUS_48 = Model(
    "claude-opus-4-8",
    cache_minimum=1_024,
    tool_prompt=290,
    forced_tool_prompt=410,
    fast=Fast.YES,
    system_turns=True,
)
_OPUS_47 = Model("claude-opus-4-7", cache_minimum=2_048, tool_prompt=675, forced_tool_prompt=804)
_OPUS_46 = Model(
    "claude-opus-4-6",
    cache_minimum=4_096,
    tool_prompt=497,
    forced_tool_prompt=589,
    fast=Fast.IGNORED,
    thinking_budget=True,
)
_SONNET_5 = Model("claude-sonnet-5", cache_minimum=1_024, tool_prompt=354, forced_tool_prompt=474)
_SONNET_46 = Model(
    "claude-sonnet-4-6",
    cache_minimum=1_024,
    tool_prompt=497,
    forced_tool_prompt=589,
    thinking_budget=True,
)

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        _newest("claude-fable-5-2", fast=Fast.YES),
        _newest("claude-mythos-5-2", fast=Fast.YES),
        _newest("claude-fable-5-1"),
        _newest("claude-mythos-5-1"),
        _fifth("claude-fable-5"),
        _fifth("claude-mythos-5"),
        _newest("claude-opus-5-5", fast=Fast.YES),
        _OPUS_5,
        _OPUS_48,
        _OPUS_47,
        _OPUS_46,
        _fourth("claude-opus-4-5-20251101", 4_096, keeps=True),
        _newest("claude-sonnet-5-5", off=True),
        _SONNET_5,
        _SONNET_46,
        _fourth("claude-sonnet-4-5-20250929", 1_024, keeps=False),
        _newest("claude-haiku-5-5", off=True, forced=True),
        _fourth("claude-haiku-4-5-20251001", 4_096, keeps=False),
    )
}
_ALIASES = {
    "claude-opus-4-5": "claude-opus-4-5-20251101",
    "claude-sonnet-4-5": "claude-sonnet-4-5-20250929",
    "claude-haiku-4-5": "claude-haiku-4-5-20251001",
}


def model_named(name: str) -> Model:
    """The model a request asks for, by its name or alias.

    Raises:
        ApiError: 404, nobody sells it (retired models included).
    """
    found = MODELS.get(_ALIASES.get(name, name))
    if found is None:
        raise ApiError(404, "not_found_error", f"model: {name}")
    return found
