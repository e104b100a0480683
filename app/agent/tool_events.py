"""What the journal says of tool calls."""

from app.journal.events import ToolFinished, ToolStarted
from app.llm.answers import ToolUse, to_json
from app.tools.port import ToolOutcome, ToolResult


def started(use: ToolUse, step: int) -> ToolStarted:
    """Written with the answer that asks for it."""
    return ToolStarted(
        step=step,
        call_id=use.id,
        tool=use.name,
        input_keys=tuple(sorted(use.input)),
        input_bytes=len(to_json(use.input)),
    )


def finished(use: ToolUse, step: int, result: ToolResult) -> ToolFinished:
    """Written with the result."""
    return ToolFinished(
        step=step,
        call_id=use.id,
        tool=use.name,
        outcome=result.outcome,
        is_error=result.is_error,
        result_bytes=result.original_bytes,
        duration_s=result.duration_s,
        error_type=result.error_type,
        error_message=result.error_message,
    )


def failed(error_type: str, text: str) -> ToolResult:
    """The result of a call that did not run."""
    return ToolResult(
        outcome=ToolOutcome.ERROR, content=text, error_type=error_type, error_message=text
    )
