"""What a task's structure says beside the learned score: code, steps, tools, sizes. Judgement, not measured. Pure."""

import re
from collections.abc import Iterator

from app.domain.record import record
from app.domain.task import Signal
from app.llm.routing.features import shortened


@record(frozen=True, slots=True)
class Asked:
    """A task as the router sees it. No metadata: what a client notes for itself decides nothing."""

    text: str
    system: str | None = None
    tool_count: int = 0
    max_tokens: int | None = None
    """As the client named it; None where it did not."""


LONG_CHARS, VERY_LONG_CHARS = 8_000, 40_000
LONG_SYSTEM_CHARS = 2_000
LARGE_OUTPUT_TOKENS = 8_192
SHORT_CHARS = 80
SEVERAL_STEPS = 3
_TOOL, _TOOLS_LIMIT = 0.05, 0.20

# All of them read lower-case text: ignoring case costs several times as much.
_STEP = re.compile(r"^\s*(?:step\s*)?\d{1,2}[.):]\s+\S", re.MULTILINE)
_ORDER = re.compile(r"\b(?:first|then|next|after that|finally|step by step)\b")
_CODE = re.compile(
    r"```|^[ \t]*(?:def |class |import |func |fn |public |#include|select )", re.MULTILINE
)
_ASK = r"(?:^|[.!?:\n]\s*|\bplease\s+)(?:{})\b"
_DEMANDING = re.compile(
    _ASK.format(
        "prove|derive|design|architect|debug|refactor|optimi[sz]e|plan|implement|review|migrate"
    )
)
_PLAIN = re.compile(
    _ASK.format(
        "translate|summari[sz]e|extract|classify|rephrase|rewrite|list|format|say|greet|spell"
    )
)


def evidence(asked: Asked) -> list[Signal]:
    """The signals that the structure gives, in a fixed order."""
    return [*_in_text(shortened(asked.text).lower()), *_around(asked)]


def _in_text(text: str) -> Iterator[Signal]:
    if _CODE.search(text):
        yield Signal("code", 0.15)
    if max(len(_STEP.findall(text)), len(_ORDER.findall(text))) >= SEVERAL_STEPS:
        yield Signal("several steps", 0.15)
    if _DEMANDING.search(text):
        yield Signal("a demanding verb", 0.15)
    elif _PLAIN.search(text):
        yield Signal("a plain verb", -0.15)


def _around(asked: Asked) -> Iterator[Signal]:
    size = len(asked.text)
    if size > VERY_LONG_CHARS:
        yield Signal("very long input", 0.20)
    elif size > LONG_CHARS:
        yield Signal("long input", 0.10)
    elif size < SHORT_CHARS:
        yield Signal("very short input", -0.10)
    if asked.tool_count:
        name = f"{asked.tool_count} tool{'s' if asked.tool_count > 1 else ''}"
        yield Signal(name, min(asked.tool_count * _TOOL, _TOOLS_LIMIT))
    if len(asked.system or "") > LONG_SYSTEM_CHARS:
        yield Signal("long system prompt", 0.05)
    if (asked.max_tokens or 0) > LARGE_OUTPUT_TOKENS:
        yield Signal("large output", 0.10)
