"""Who waits for a lane, and for whom a turn of it is held."""

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from app.llm.governor.lane import Lane
from app.llm.governor.line import Flow, Line

if TYPE_CHECKING:
    from app.llm.governor.governor import Permit


@dataclass(slots=True, eq=False)
class Entry:
    """A call that waits; without a `turn` its task is back in the queue."""

    task_id: str
    run: int
    """The task's latest run that asked here."""
    flow: Flow
    prompt: int
    road: "Road"
    turn: "asyncio.Future[Permit] | None" = None


class Promise(NamedTuple):
    """A turn that is held for a task on its way back."""

    permit: "Permit"
    until_s: float
    run: int
    """The task's run that took the place."""


@dataclass(slots=True, eq=False)
class Road:
    """A lane, and who waits for it."""

    lane: Lane
    models: set[str] = field(default_factory=set)
    line: Line[Entry] = field(default_factory=Line)
    promised: dict[str, Promise] = field(default_factory=dict)
    pump: asyncio.Task[None] | None = None
    wakes_at_s: float = 0.0
    waited_count: int = 0
    parked_count: int = 0

    def is_idle(self, now_s: float) -> bool:
        """Nobody would miss it: no call is out or waits, and nothing would keep one from leaving."""
        lane = self.lane
        if lane.concurrency.in_flight or len(self.line) or self.promised:
            return False
        return lane.breaker.outage_s(now_s) is None and lane.blocked_until_s <= now_s
