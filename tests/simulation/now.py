"""Time of a simulated world, and what its dead processes run into when they are cleared away."""

import asyncio
from collections import Counter
from contextvars import ContextVar
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING

from app.domain.clock import US_PER_S
from app.simulator.core import Simulator
from tests.simulation.loop import Fate
from tests.support.clock import START_US

if TYPE_CHECKING:
    from tests.simulation.hints import Hints


class Gone(BaseException):
    """The run is over: whatever is still asked for is not to be had."""


@dataclass
class Nature:
    """What all processes of one world share. `draw` is the seed's own stream for everything outside the loop."""

    seed: int
    draw: Random
    skew_s: float = 0.0
    over: bool = False
    reached: Counter[str] = field(default_factory=Counter)
    """How often something interesting happened."""
    violations: list[str] = field(default_factory=list)
    ended: dict[tuple[str, int], tuple[str, str]] = field(default_factory=dict)
    """Tasks that were seen at their end, with when they had been due, and which end it was."""
    workers: dict[str, "Fate"] = field(default_factory=dict)
    """Every worker that ever had a lease, and its process."""
    leased: set[str] = field(default_factory=set)
    """Those that have one."""
    claims: set[tuple[str, int]] = field(default_factory=set)
    """Runs that were seen to begin."""
    delivered: dict[str, tuple["Fate", float]] = field(default_factory=dict)
    """Answers that a process had in its hands, by attempt, and when."""
    asked: dict[str, list[bytes]] = field(default_factory=dict)
    """The messages of every request that arrived, by attempt, each as it was on the wire."""
    stores: int = 0
    """How many were opened."""
    called_off: dict[str, float] = field(default_factory=dict)
    """Tasks whose cancel was acknowledged, and when."""
    store_error: int = 0
    """SQLite's code for what is wrong with the database's disk right now; 0: nothing."""
    healed_s: float = 0.0
    """When something was wrong with it last."""
    network_fails: float = 0.0
    """Share of requests that find no connection."""
    simulator: Simulator = field(init=False)
    hints: "Hints | None" = None
    """What the processes tell each other of their commits, where several share a database."""


WORLD: ContextVar[Nature] = ContextVar("WORLD")


class VirtualClock:
    """The loop's time as a wall clock; `skew_s` is what somebody set it wrong by."""

    def __init__(self, nature: Nature, own_skew_s: float = 0.0) -> None:
        self._nature = nature
        self._own_skew_s = own_skew_s

    def now_us(self) -> int:
        shown_s = asyncio.get_running_loop().time() + self._nature.skew_s + self._own_skew_s
        return START_US + int(shown_s * US_PER_S)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()

    async def sleep(self, duration_s: float) -> None:
        if self._nature.over:
            raise Gone
        await pause(duration_s)


async def pause(duration_s: float) -> None:
    """Wait in virtual time."""
    loop = asyncio.get_running_loop()
    until = loop.create_future()
    timer = loop.call_later(duration_s, lambda: None if until.done() else until.set_result(None))
    try:
        await until
    finally:
        timer.cancel()
