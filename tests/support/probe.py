"""A tool that the test holds in its hand."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from app.tools.port import call_key

ANYTHING: dict[str, Any] = {
    "type": "object",
    "properties": {"x": {}},
    "additionalProperties": False,
}


@dataclass
class Probe:
    """A tool that remembers its calls; each waits for its gate, if there is one."""

    calls: list[Any] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The same calls by their keys."""
    gates: dict[Any, asyncio.Event] = field(default_factory=dict)
    body: Callable[[], Awaitable[str]] | None = None
    """What it does instead of answering with its argument."""

    async def run(self, arguments: dict[str, Any]) -> str:
        """Answer with the argument."""
        self.calls.append(arguments.get("x"))
        self.keys.append(call_key())
        gate = self.gates.get(arguments.get("x"))
        if gate is not None:
            await gate.wait()
        if self.body is not None:
            return await self.body()
        return f"ran {arguments.get('x')}"
