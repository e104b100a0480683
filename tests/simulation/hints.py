"""What the processes of a shared world tell each other: as PostgreSQL's notifications, and worse.

Hints come late, twice, in another order, or never; a process that listens may be cut off for a while. By dice of
their own. The texts are the real ones, and what listens to them is real.
"""

import asyncio
from collections.abc import Callable
from contextvars import Context, copy_context
from random import Random
from typing import NamedTuple

from app.journal.events import CancelRequested
from app.journal.hints import UpstreamHint
from app.journal.journal import Recorded
from app.worker.ears import announced
from tests.simulation.loop import PROCESS, Fate, State
from tests.simulation.now import Nature

_LATE_S = 3.0


class Weather(NamedTuple):
    """How well they are carried."""

    delays_s: tuple[float, ...]
    lost: float = 0.0
    twice: float = 0.0
    cut: float = 0.0
    """How often a hint finds the connection of who listens gone, for one of the world's `_CUTS_S`."""


_WEATHERS = (
    Weather((0.0, 0.0005, 0.002, 0.01)),
    Weather((0.0, 0.002, 0.05, 0.5), lost=0.05, twice=0.1, cut=0.01),
    Weather((0.0, 0.002, 0.5, 4, 25), lost=0.2, twice=0.2, cut=0.02),
    Weather((0.0, 0.01, 2), lost=0.7, cut=0.05),
    Weather((0.0,), lost=1.0),
)
_CUTS_S = (0.2, 1, 10)


class Hints:
    """Carries what each process says to all others."""

    def __init__(self, nature: Nature) -> None:
        self._nature = nature
        self._draw = Random(f"{nature.seed}/hints")  # noqa: S311  (repeatable, not secret)
        self._weather = self._draw.choice(_WEATHERS)
        self._listeners: list[SimulatedListener] = []
        self._called_off: dict[str, Fate | None] = {}

    def listener(self, heard: Callable[[str | None], None]) -> "SimulatedListener":
        """Of the process that asks; not started."""
        return SimulatedListener(self, heard)

    def say(self, origin: str, facts: list[object]) -> None:
        """A commit is durable."""
        for fact in facts:
            self._nature.reached["told of the upstream"] += isinstance(fact, UpstreamHint)
            if isinstance(fact, Recorded) and isinstance(fact.event, CancelRequested):
                self._called_off[fact.subject.task_id] = PROCESS.get()
        for text in announced(origin, facts):
            for listener in list(self._listeners):
                self._carry(listener, text)

    def crossed(self, task_id: str) -> bool:
        """Whether another process than this one wrote down that the task is called off."""
        return self._called_off.get(task_id, PROCESS.get()) is not PROCESS.get()

    def joins(self, listener: "SimulatedListener") -> None:
        """It hears from now on; what came before it may have missed."""
        self._listeners.append(listener)
        listener.deliver(None, 0.0)

    def leaves(self, listener: "SimulatedListener") -> None:
        """It hears no more."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def _carry(self, listener: "SimulatedListener", text: str) -> None:
        weather, reached = self._weather, self._nature.reached
        if self._draw.random() < weather.cut:
            reached["listener cut off"] += 1
            listener.cut_off(self._draw.choice(_CUTS_S))
        if self._draw.random() < weather.lost:
            reached["hint lost"] += 1
            return
        listener.deliver(text, self._delay_s())
        if self._draw.random() < weather.twice:
            reached["hint twice"] += 1
            listener.deliver(text, self._delay_s())

    def _delay_s(self) -> float:
        delay_s = self._draw.choice(self._weather.delays_s)
        self._nature.reached["hint late"] += delay_s >= _LATE_S
        return delay_s


class SimulatedListener:
    """What a process hears comes as its own callback: a frozen one hears when it thaws, a dead one never."""

    def __init__(self, hints: Hints, heard: Callable[[str | None], None]) -> None:
        self._hints = hints
        self._heard = heard
        self._context: Context = copy_context()
        self._deaf_until_s = 0.0

    def start(self) -> None:
        """As a listener of the real database."""
        self._hints.joins(self)

    async def stop(self) -> None:
        """Likewise."""
        self._hints.leaves(self)

    def deliver(self, text: str | None, delay_s: float) -> None:
        """Let it be heard then, if anybody is there."""
        fate = self._context[PROCESS]
        if fate is None or fate.state is State.DEAD:
            self._hints.leaves(self)
            return
        loop = asyncio.get_running_loop()
        if loop.time() >= self._deaf_until_s:
            loop.call_later(delay_s, self._heard, text, context=self._context)

    def cut_off(self, duration_s: float) -> None:
        """What is said meanwhile is lost; it is told so when it listens again."""
        now_s = asyncio.get_running_loop().time()
        if now_s >= self._deaf_until_s:
            self._deaf_until_s = now_s + duration_s
            asyncio.get_running_loop().call_later(
                duration_s, self._heard, None, context=self._context
            )
