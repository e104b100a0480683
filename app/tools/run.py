"""Run one tool call. Whatever the tool does, the model gets an answer and the caller its time back."""

import asyncio
import inspect
import math
from collections.abc import Collection, Coroutine, Sequence
from dataclasses import replace
from typing import Any

from app.domain.clock import Clock
from app.domain.record import record
from app.tools.errors import InvalidArgumentsError, NoFreeThreadError, ToolError
from app.tools.port import JsonObject, Tool, ToolOutcome, ToolResult, called_as
from app.tools.registry import ToolRegistry
from app.tools.text import RESULT_LIMIT_MIN_BYTES, one_line, render

RESULT_LIMIT_BYTES = 65_536
TIMEOUT_LIMIT_S = 600.0
_MESSAGE_LIMIT = 500
_TEXT_LIMIT = 2_000
_NAME_LIMIT = 64
_NAMES_SHOWN = 20
_NOTHING = (
    "The tool returned nothing. It ran without an error, but its result is empty: do not assume "
    "that it found or did anything."
)
_NO_OUTPUT = "(no output)"


@record(frozen=True, slots=True, kw_only=True)
class ToolLimits:
    """What one task allows its tool calls.

    Raises:
        ValueError: a limit is out of range.
    """

    result_limit_bytes: int = RESULT_LIMIT_BYTES
    """Text for the model, in UTF-8; longer results lose their middle."""
    timeout_limit_s: float = TIMEOUT_LIMIT_S
    """No tool gets longer, whatever it declares (a task near its deadline lowers this)."""

    def __post_init__(self) -> None:
        if self.result_limit_bytes < RESULT_LIMIT_MIN_BYTES:
            message = f"result_limit_bytes must be at least {RESULT_LIMIT_MIN_BYTES}"
            raise ValueError(message)
        if not 0 < self.timeout_limit_s < math.inf:
            message = "timeout_limit_s must be above 0 and finite"
            raise ValueError(message)


async def run_tool(
    registry: ToolRegistry,
    *,
    name: str,
    arguments: JsonObject,
    allowed: Collection[str],
    limits: ToolLimits,
    clock: Clock,
    key: str = "",
) -> ToolResult:
    """Answer the model's call `name(arguments)`, of which only the names in `allowed` may run.

    `key` is what the tool's function finds as `call_key()`: the same whenever this call runs again.

    Every failure of a tool is a result. A tool that does not stop at its deadline, or that the
    caller's cancellation finds running, is left behind.

    Raises:
        asyncio.CancelledError: the caller was cancelled.
    """
    started_s = clock.monotonic_s()
    with called_as(key):
        result = await _answer(registry, name, arguments, allowed, limits, started_s)
    return replace(result, duration_s=max(0.0, clock.monotonic_s() - started_s))


async def side_by_side(answering: Sequence[Coroutine[Any, Any, ToolResult]]) -> list[ToolResult]:
    """All the results; when one cannot be had, the others are told to stop."""
    tasks = [asyncio.ensure_future(one) for one in answering]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise


async def _answer(
    registry: ToolRegistry,
    name: object,
    arguments: JsonObject,
    allowed: Collection[str],
    limits: ToolLimits,
    now_s: float,
) -> ToolResult:
    tool = registry.find(name) if isinstance(name, str) else None
    if tool is None:
        return _unknown(name, allowed)
    if tool.name not in allowed:
        return _failure(ToolOutcome.DENIED, "not_allowed", f"This task may not use {tool.name}.")
    try:
        values = _checked(tool, arguments)
    except InvalidArgumentsError as error:
        text = f"Invalid arguments for {tool.name}, which did not run: {error}"
        return _failure(ToolOutcome.ERROR, "invalid_arguments", text)
    except Exception as error:  # noqa: BLE001  (a validator may be anybody's code)
        return _crashed(tool, error)
    return await _started(registry, tool, values, limits, now_s)


async def _started(
    registry: ToolRegistry, tool: Tool, values: JsonObject, limits: ToolLimits, now_s: float
) -> ToolResult:
    if tool.inline:
        return _call(tool, values, limits)
    timeout_s = min(tool.timeout_s, limits.timeout_limit_s)
    if tool.is_async:
        return await _run_coroutine(registry, tool, values, limits, timeout_s)
    return await _run_in_thread(registry, tool, values, limits, timeout_s, now_s)


def _checked(tool: Tool, arguments: object) -> JsonObject:
    if not isinstance(arguments, dict):
        message = "the arguments must be a JSON object"
        raise InvalidArgumentsError(message)
    return tool.checked(arguments)


async def _run_coroutine(
    registry: ToolRegistry, tool: Tool, values: JsonObject, limits: ToolLimits, timeout_s: float
) -> ToolResult:
    if len(registry.stragglers) >= registry.straggler_limit:
        text = f"{tool.name} did not run: too many earlier tool calls have not stopped yet."
        return _failure(ToolOutcome.ERROR, "too_many_stragglers", text)
    task = asyncio.create_task(_await_call(tool, values, limits), name=f"tool {tool.name}")
    try:
        await asyncio.wait((task,), timeout=timeout_s)
    except asyncio.CancelledError:
        _leave_behind(registry, task)
        raise
    if not task.done():
        _leave_behind(registry, task)
        return _timed_out(tool, timeout_s)
    if task.cancelled():
        return _failure(ToolOutcome.ERROR, "cancelled", f"{tool.name} cancelled itself.")
    return task.result()


def _leave_behind(registry: ToolRegistry, task: asyncio.Task[ToolResult]) -> None:
    """Ask it to stop, and keep it in sight until it has: an unreferenced task may vanish."""
    task.cancel()
    registry.stragglers.add(task)
    task.add_done_callback(registry.stragglers.discard)


async def _run_in_thread(
    registry: ToolRegistry,
    tool: Tool,
    values: JsonObject,
    limits: ToolLimits,
    timeout_s: float,
    now_s: float,
) -> ToolResult:
    threads = registry.threads
    try:
        call = threads.submit(
            lambda: _call(tool, values, limits), now_s=now_s, deadline_s=now_s + timeout_s
        )
    except NoFreeThreadError as error:
        return _failure(ToolOutcome.ERROR, "no_free_thread", f"{tool.name} did not run: {error}.")
    try:
        await asyncio.wait((call.future,), timeout=timeout_s)
    except asyncio.CancelledError:
        threads.abandon(call, overdue=False)
        raise
    if call.future.done():
        return call.future.result()
    if threads.abandon(call, overdue=True):
        return _timed_out(tool, timeout_s)
    text = f"{tool.name} did not run: no thread was free within {timeout_s:g} s."
    return _failure(ToolOutcome.TIMEOUT, "not_started", text)


def _call(tool: Tool, values: JsonObject, limits: ToolLimits) -> ToolResult:
    """Run a plain function and render its result, in whichever thread this is."""
    try:
        value = tool.run(values)
    except BaseException as error:  # noqa: BLE001  (sys.exit in a tool must not end the service)
        return _crashed(tool, error)
    if inspect.iscoroutine(value):
        value.close()
        return _unreadable(tool, "a coroutine; declare the tool's function async")
    return _told(tool, value, limits)


async def _await_call(tool: Tool, values: JsonObject, limits: ToolLimits) -> ToolResult:
    try:
        value = await tool.run(values)  # type: ignore[misc]  # is_async was asked before
    except (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt):
        raise
    except BaseException as error:  # noqa: BLE001  (as above)
        return _crashed(tool, error)
    return _told(tool, value, limits)


def _told(tool: Tool, value: object, limits: ToolLimits) -> ToolResult:
    try:
        shown = render(value, limit_bytes=limits.result_limit_bytes)
    except Exception as error:  # noqa: BLE001  (rendering runs foreign properties)
        return _unreadable(tool, f"{type(value).__name__}, not text or JSON", error)
    if shown.empty and not tool.empty_ok:
        return ToolResult(
            outcome=ToolOutcome.EMPTY, content=_NOTHING, original_bytes=shown.original_bytes
        )
    return ToolResult(
        outcome=ToolOutcome.TRUNCATED if shown.truncated else ToolOutcome.OK,
        content=_NO_OUTPUT if value is None or not shown.text.strip() else shown.text,
        original_bytes=shown.original_bytes,
        whole=shown.whole,
        left_out=shown.left_out,
    )


def _timed_out(tool: Tool, timeout_s: float) -> ToolResult:
    text = f"{tool.name} did not answer within {timeout_s:g} s. "
    text += (
        "It may be called again."
        if tool.idempotent
        else "It is unknown whether it took effect: check before calling it again."
    )
    return _failure(ToolOutcome.TIMEOUT, "timeout", text)


def _unknown(name: object, allowed: Collection[str]) -> ToolResult:
    shown = ", ".join(sorted(allowed)[:_NAMES_SHOWN]) or "none"
    text = f"There is no tool named {one_line(str(name), _NAME_LIMIT)}. Available: {shown}."
    return _failure(ToolOutcome.ERROR, "unknown_tool", text)


def _crashed(tool: Tool, error: BaseException) -> ToolResult:
    """The exception's own words, not its traceback."""
    try:
        words = str(error).partition("Traceback (most recent call last)")[0]
    except Exception:  # noqa: BLE001  (even its text can fail)
        words = ""
    kind = type(error).__name__
    said = one_line(words, _MESSAGE_LIMIT) or "no details"
    if isinstance(error, ToolError):
        return _failure(ToolOutcome.ERROR, kind, f"{tool.name} failed: {said}")
    return _failure(ToolOutcome.ERROR, kind, f"{tool.name} failed with {kind}: {said}")


def _unreadable(tool: Tool, what: str, error: Exception | None = None) -> ToolResult:
    detail = "" if error is None else f" ({type(error).__name__})"
    text = f"{tool.name} ran, but returned {what}{detail}."
    return _failure(ToolOutcome.ERROR, "unreadable_result", text)


def _failure(outcome: ToolOutcome, error_type: str, text: str) -> ToolResult:
    content = one_line(text, _TEXT_LIMIT)
    return ToolResult(
        outcome=outcome, content=content, error_type=error_type, error_message=content
    )
