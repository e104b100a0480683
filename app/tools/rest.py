"""What was left out of a long tool result, readable after all: by `read_result`, slice by slice.

It is declared from the start for tasks with a tool that says `may_be_long`, and for those that name it themselves:
the tools of a conversation may never change, and a definition is paid for with each question. It is no function of its arguments alone,
so whoever runs a task's tools answers it (`app.agent.rest`).
"""

from app.tools.errors import ToolError
from app.tools.port import JsonObject, Tool

READ_RESULT = "read_result"
SLICE_BYTES = 8_192
SLICE_LIMIT_BYTES = 16_384
KEPT_BYTES = 1_048_576
"""Of a result so much is kept; what lies beyond is lost."""
HINT_BYTES = 200
"""What the hint to it takes at most, a call's id included."""
_SCHEMA: JsonObject = {
    "type": "object",
    "properties": {
        "call_id": {"type": "string", "description": "As the shortened result names it."},
        "from_byte": {"type": "integer", "minimum": 0},
        "max_bytes": {"type": "integer", "minimum": 1, "maximum": SLICE_LIMIT_BYTES},
    },
    "required": ["call_id", "from_byte"],
    "additionalProperties": False,
}


def read_result_tool() -> Tool:
    """Its definition."""
    return Tool(
        name=READ_RESULT,
        description="Read a part of an earlier tool result whose middle was left out.",
        input_schema=_SCHEMA,
        run=_refuse,
        idempotent=True,
        inline=True,
        source="bursar",
    )


def _refuse(_arguments: JsonObject) -> str:
    message = "nothing was shortened here"
    raise ToolError(message)


def hint(call_id: str, left_out: tuple[int, int]) -> str:
    """Where the rest is."""
    start, end = left_out
    return f'\n[{READ_RESULT} has bytes {start} to {end}: call_id "{call_id}"]'


def cut_slice(whole: bytes, from_byte: int, max_bytes: int) -> str:
    """The slice in words: text between whole characters, and where it goes on."""
    start = min(from_byte, len(whole))
    end = min(start + max_bytes, len(whole))
    text = whole[start:end].decode(errors="ignore")
    more = f"goes on at byte {end}" if end < len(whole) else "is the end"
    return f"{text}\n[bytes {start} to {end} of {len(whole)}; this {more}]"
