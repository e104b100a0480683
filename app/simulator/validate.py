"""Checks of a request's fields, as the Messages API of version 2026-10-21 makes them."""

import re
from typing import Any

from app.simulator.errors import JsonObject, invalid, require
from app.simulator.models import Fast, Model, model_named
from app.simulator.prompt import forced
from app.simulator.turns import check_turns

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_SAMPLING = ("temperature", "top_p", "top_k")
_KNOWN = frozenset(
    {
        "betas",
        "billing_policy",
        "cache_control",
        "compaction",
        "container",
        "context_management",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "max_tokens",
        "mcp_servers",
        "messages",
        "metadata",
        "model",
        "output_config",
        "service_tier",
        "speed",
        "stop_sequences",
        "stream",
        "system",
        "thinking",
        "thread",
        "tool_choice",
        "tools",
    }
)
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("adaptive", "enabled", "disabled", "between_tools")
_CHOICES = ("auto", "any", "tool", "none")
_MIN_THINKING_BUDGET = 1_024


def check_request(request: Any, *, counting: bool = False) -> Model:
    """Check a request body; `counting` leaves out what count_tokens does not take.

    Raises:
        ApiError: 400 or 404, in the API's words where they are known.
    """
    require(isinstance(request, dict), "Input should be an object")
    for name in _SAMPLING:
        require(name not in request, f"{name}: this parameter is not supported")
    for name in request:
        require(name in _KNOWN, f"{name}: Extra inputs are not permitted")
    for name in ("model", "messages") if counting else ("model", "max_tokens", "messages"):
        require(name in request, f"{name}: Field required")
    require(isinstance(request["model"], str), "model: Input should be a valid string")
    model = model_named(request["model"])
    if not counting:
        _check_length(request, model)
    _check_system(request.get("system"))
    _check_tools(request, model)
    check_turns(request["messages"], model)
    _check_options(request, model)
    if not counting and request["max_tokens"] == 0:
        _check_prefill_only(request)
    return model


def _check_length(request: JsonObject, model: Model) -> None:
    wanted = request["max_tokens"]
    whole = isinstance(wanted, int) and not isinstance(wanted, bool)
    require(whole, "max_tokens: Input should be a valid integer")
    require(wanted >= 0, "max_tokens: Input should be greater than or equal to 0")
    require(
        wanted <= model.max_output,
        f"max_tokens: {wanted} > {model.max_output}, which is the maximum allowed number of"
        f" output tokens for {model.name}",
    )

    stops = request.get("stop_sequences") or []
    well_formed = isinstance(stops, list) and all(isinstance(stop, str) for stop in stops)
    require(well_formed, "stop_sequences: Input should be a list of strings")
    require(all(stop.strip() for stop in stops), "stop_sequences: each must be non-whitespace")


def _check_prefill_only(request: JsonObject) -> None:
    structured = (request.get("output_config") or {}).get("format")
    thinking = (request.get("thinking") or {}).get("type") in {"enabled", "adaptive"}
    busy = request.get("stream") or structured or thinking or forced(request)
    require(not busy, "max_tokens: 0 only fills the cache and allows no output options")


def _check_system(system: Any) -> None:
    if system is None or isinstance(system, str):
        return
    require(isinstance(system, list), "system: Input should be a string or a list")
    for position, block in enumerate(system):
        text = isinstance(block, dict) and block.get("type") == "text"
        well_formed = text and isinstance(block.get("text"), str)
        require(well_formed, f"system.{position}: Input should be a text block")
        require(block["text"], f"system.{position}: text content blocks must be non-empty")


def _check_tools(request: JsonObject, model: Model) -> None:
    tools = request.get("tools") or []
    require(isinstance(tools, list), "tools: Input should be a valid list")
    names: set[str] = set()
    for position, tool in enumerate(tools):
        _check_tool(tool, f"tools.{position}")
        require(tool["name"] not in names, "tools: Tool names must be unique.")
        names.add(tool["name"])
    choice = request.get("tool_choice")
    if choice is not None:
        _check_choice(choice, names, model)


def _check_tool(tool: Any, where: str) -> None:
    require(isinstance(tool, dict), f"{where}: Input should be an object")
    name = tool.get("name")
    require(isinstance(name, str), f"{where}.name: Field required")
    pattern = "^[a-zA-Z0-9_-]{1,128}$"
    require(_TOOL_NAME.fullmatch(name), f"{where}.name: String should match pattern '{pattern}'")
    if tool.get("type", "custom") == "custom":
        schema = tool.get("input_schema")
        require(isinstance(schema, dict), f"{where}.input_schema: Field required")
        require(
            schema.get("type") == "object", f"{where}.input_schema.type: Input should be 'object'"
        )


def _check_choice(choice: Any, names: set[str], model: Model) -> None:
    known = isinstance(choice, dict) and choice.get("type") in _CHOICES
    require(known, "tool_choice: Input should be one of auto, any, tool, none")
    require(names, "tool_choice: may only be specified while providing tools")
    if choice["type"] in {"any", "tool"}:
        require(model.forced_tools, f"tool_choice: {model.name} does not support forced tool use")
    if choice["type"] == "tool":
        wanted = choice.get("name")
        require(isinstance(wanted, str), "tool_choice.name: Field required")
        require(wanted in names, f"tool_choice: Tool '{wanted}' not found in provided tools")


def _check_options(request: JsonObject, model: Model) -> None:
    stream = request.get("stream", False)
    require(isinstance(stream, bool) or stream is None, "stream: Input should be a valid boolean")
    geo = request.get("inference_geo")
    require(geo in (None, "us", "global"), "inference_geo: Input should be 'us' or 'global'")
    require(geo is None or model.geo, f"inference_geo: {model.name} does not support it")
    speed = request.get("speed")
    require(speed in (None, "standard", "fast"), "speed: Input should be 'standard' or 'fast'")
    refused = speed == "fast" and model.fast is Fast.REFUSED
    require(not refused, f"speed: {model.name} does not support fast mode")
    output = request.get("output_config") or {}
    require(isinstance(output, dict), "output_config: Input should be an object")
    effort = output.get("effort")
    form = output.get("format")
    require(
        form is None or isinstance(form, dict), "output_config.format: Input should be an object"
    )
    require(effort is None or effort in _EFFORTS, f"output_config.effort: unknown {effort!r}")
    _check_thinking(request, model)


def _check_thinking(request: JsonObject, model: Model) -> None:
    thinking = request.get("thinking")
    if thinking is None:
        return
    known = isinstance(thinking, dict) and thinking.get("type") in _THINKING
    require(known, f"thinking.type: Input should be one of {', '.join(_THINKING)}")
    if thinking["type"] == "disabled" and not model.thinking_off:
        raise invalid(f"thinking.type: {model.name} always thinks; it cannot be disabled")
    if thinking["type"] != "enabled":
        return
    require(model.thinking_budget, f"thinking.type: {model.name} does not support 'enabled'")
    budget = thinking.get("budget_tokens")
    require(isinstance(budget, int), "thinking.budget_tokens: Field required")
    above = budget >= _MIN_THINKING_BUDGET
    require(above, "thinking.budget_tokens: Input should be greater than or equal to 1024")
    below = budget < request.get("max_tokens", model.max_output)
    require(below, "`max_tokens` must be greater than `thinking.budget_tokens`")
