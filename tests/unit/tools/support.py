"""What the tests of tools share."""

from collections.abc import Collection, Iterator
from typing import Any

from app.domain.clock import Clock, SystemClock
from app.tools.port import Tool, ToolResult
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits, run_tool

NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


class SteppingClock:
    """A clock that stands still for records and moves one second at each monotonic reading."""

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us
        self._readings: Iterator[float] = (float(second) for second in range(1_000_000))

    def now_us(self) -> int:
        return self._now_us

    def monotonic_s(self) -> float:
        return next(self._readings)

    async def sleep(self, duration_s: float) -> None:
        raise AssertionError("nothing here may wait on this clock")


def tool(run: Any, **options: Any) -> Tool:
    """A hand-written tool `probe` without arguments."""
    settings: dict[str, Any] = {
        "name": "probe",
        "description": "A probe.",
        "input_schema": NO_ARGUMENTS,
        **options,
    }
    return Tool(run=run, **settings)


async def answer(
    registry: ToolRegistry,
    name: str = "probe",
    arguments: Any = None,
    *,
    allowed: Collection[str] | None = None,
    limits: ToolLimits | None = None,
    clock: Clock | None = None,
) -> ToolResult:
    """One call; unless told otherwise every registered tool is allowed."""
    return await run_tool(
        registry,
        name=name,
        arguments={} if arguments is None else arguments,
        allowed=registry.names() if allowed is None else allowed,
        limits=limits or ToolLimits(),
        clock=clock or SystemClock(),
    )
