"""Answers `read_result`: a slice of an earlier result of the same task, from its journal."""

from dataclasses import replace

from app.domain.task import Subject
from app.journal.events import ToolResultKept
from app.journal.journal import read
from app.llm.answers import ToolUse
from app.store.port import Store
from app.tools.errors import InvalidArgumentsError
from app.tools.port import Tool, ToolOutcome, ToolResult
from app.tools.rest import KEPT_BYTES, READ_RESULT, SLICE_BYTES, cut_slice, hint


def with_hint(result: ToolResult, use: ToolUse) -> ToolResult:
    """The shortened result, with where its rest is."""
    if result.left_out is None:
        return result
    return replace(result, content=result.content + hint(use.id, result.left_out))


def kept(result: ToolResult, use: ToolUse, step: int) -> tuple[ToolResultKept, bytes] | None:
    """What is written beside a shortened result; None for a whole one."""
    if result.whole is None:
        return None
    whole = result.whole[:KEPT_BYTES]
    return ToolResultKept(step=step, call_id=use.id, tool=use.name, kept_bytes=len(whole)), whole


async def read_rest(store: Store, subject: Subject, tool: Tool, use: ToolUse) -> ToolResult:
    """The slice that the model asks for."""
    try:
        asked = tool.checked(use.input)
    except InvalidArgumentsError as error:
        return _refused("invalid_arguments", f"Invalid arguments for {READ_RESULT}: {error}")
    whole = await _find(store, subject, asked["call_id"])
    if whole is None:
        text = "There is no such result, or nothing of it was left out."
        return _refused("unknown_result", text)
    slice_ = cut_slice(whole, asked["from_byte"], asked.get("max_bytes", SLICE_BYTES))
    return ToolResult(outcome=ToolOutcome.OK, content=slice_, original_bytes=len(slice_.encode()))


async def _find(store: Store, subject: Subject, call_id: str) -> bytes | None:
    after = 0
    while entries := await read(store, subject, after=after):
        for entry in entries:
            if isinstance(entry.event, ToolResultKept) and entry.event.call_id == call_id:
                return entry.body
        after = entries[-1].seq
    return None


def _refused(error_type: str, text: str) -> ToolResult:
    return ToolResult(
        outcome=ToolOutcome.ERROR, content=text, error_type=error_type, error_message=text
    )
