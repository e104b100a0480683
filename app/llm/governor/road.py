"""Who may leave on a lane, who waits for it, and for whom a turn of it is held."""

import asyncio
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from app.llm.governor.lane import Charge, Lane, Told
from app.llm.governor.line import Flow, Line
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Provider
from app.llm.rates import Rates
from app.llm.usage import Usage


class Keeper(Protocol):
    """Who keeps the roads: the governor."""

    def now_s(self) -> float:
        """The monotonic clock."""
        ...

    def moved(self, road: "Road") -> None:
        """Something has changed on it."""
        ...

    def tell(self, pool: str, told: Told) -> None:
        """What other processes should know."""
        ...


class Permit:
    """A call may leave. It must be ended, in one of these ways; ending it again does nothing."""

    __slots__ = ("_charge", "_governor", "_over", "_road")

    def __init__(self, governor: Keeper, road: "Road", charge: Charge) -> None:
        self._governor = governor
        self._road = road
        self._charge = charge
        self._over = False

    @property
    def probe(self) -> bool:
        """It finds out whether an outage is over."""
        return self._charge.probe

    async def ask(self, provider: Provider, request: ModelRequest) -> ModelAnswer:
        """Make the attempt that was let leave, and learn from its end.

        Raises:
            ModelFailure: the attempt failed.
        """
        try:
            answer = await provider.ask(request)
        except ModelFailure as failure:
            self.failed(failure, failure.rates or _rates_of(request))
            raise
        except BaseException:
            self.given_up()
            raise
        self.answered(answer.usage, _rates_of(request))
        return answer

    def unused(self) -> None:
        """Nothing left."""
        if self._ends():
            self._road.lane.unused(self._charge, self._governor.now_s())
            self._governor.moved(self._road)

    def lapsed(self) -> None:
        """Nobody came for it; who let it lapse sees to the others."""
        if self._ends():
            self._road.lane.unused(self._charge, self._governor.now_s())

    def given_up(self) -> None:
        """It left; the answer is lost for reasons of ours."""
        if self._ends():
            self._road.lane.given_up(self._charge, self._governor.now_s())
            self._governor.moved(self._road)

    def answered(self, usage: Usage | None, rates: Rates | None) -> None:
        """An answer came."""
        if self._ends():
            self._road.lane.answered(self._charge, self._governor.now_s(), usage, rates)
            self._governor.moved(self._road)

    def failed(self, failure: ModelFailure, rates: Rates | None) -> None:
        """The attempt failed."""
        if self._ends():
            lane, now_s = self._road.lane, self._governor.now_s()
            told = lane.failed(self._charge, now_s, failure, rates)
            if told is not None:
                self._governor.tell(lane.pool, told)
            self._governor.moved(self._road)

    def _ends(self) -> bool:
        over, self._over = self._over, True
        return not over


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


def _rates_of(request: ModelRequest) -> Rates | None:
    return None if request.progress is None else request.progress.rates
