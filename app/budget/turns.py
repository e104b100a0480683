"""Waiting for other calls' reservations: first in, first out.

A call that fits the limit, but not beside what others hold, takes a place in the scope's line. The head is
woken whenever a reservation on the scope ends. A newcomer may not overtake: while a line stands, it joins.
A task has one number, from its first call to its end and for all of its lines, so whoever began first is
first in each of them: two tasks never wait for each other, and a budget that is running out buys whole
tasks, not the first step of many. A task keeps its place while it is back in the queue, so giving its
worker slot back costs it no turn.
"""

import asyncio
from collections.abc import Callable, Iterable, KeysView
from dataclasses import dataclass, field
from itertools import count, islice

from app.budget.scopes import Scope


@dataclass(slots=True, eq=False)
class _Place:
    task_id: str
    number: int
    run: int
    """The task's latest run that asked here."""
    woken: asyncio.Event = field(default_factory=asyncio.Event)


class Turns:
    """The lines of this process. `on_turn` hears which task's turn has come, wherever it waits."""

    def __init__(self) -> None:
        self._lines: dict[Scope, dict[str, _Place]] = {}
        self._places: dict[str, _Place] = {}
        self._numbers = count()
        self._number_of: dict[str, int] = {}
        self.on_turn: Callable[[str], None] = lambda _task_id: None

    def ahead_of(self, task_id: str, scopes: Iterable[Scope]) -> Scope | None:
        """The scope on which somebody else stands first, if any."""
        mine = self._number(task_id)
        for scope in scopes:
            head = self._head(scope)
            if head is not None and head.number < mine:
                return scope
        return None

    def join(self, task_id: str, scope: Scope, run: int = 0) -> asyncio.Event:
        """Take (or keep) a place; the returned event is set when the turn may have come.

        Clear it, then try, then join again and wait: a reservation that ends meanwhile is not missed. A new
        place begins with a set event, because what ended before it was taken woke somebody else, or nobody.
        """
        place = self._places.get(task_id)
        if place is None:
            place = self._places[task_id] = _Place(task_id, self._number(task_id), run)
        place.run = run
        line = self._lines.setdefault(scope, {})
        if task_id not in line:
            last = next(reversed(line.values()), None)
            line[task_id] = place
            if last is not None and last.number > place.number:  # it waits longer, in another line
                ordered = sorted(line.values(), key=lambda p: p.number)
                self._lines[scope] = {p.task_id: p for p in ordered}
            place.woken.set()
        return place.woken

    def is_called(self, task_id: str) -> bool:
        """The task stands first in a line and has been woken."""
        mine = self._places.get(task_id)
        if mine is None or not mine.woken.is_set():
            return False
        return any(self._head(scope) is mine for scope in self._lines)

    def leave(self, task_id: str) -> None:
        """Give up every place: the call got through, or the task has ended. Wakes who comes next."""
        mine = self._places.pop(task_id, None)
        if mine is None:
            return
        for scope, line in list(self._lines.items()):
            if task_id in line:
                was_head = self._head(scope) is mine
                del line[task_id]
                if not line:
                    del self._lines[scope]
                elif was_head:
                    self.ended((scope,))

    def ended(self, scopes: Iterable[Scope]) -> None:
        """A reservation on these scopes ended, or a limit was raised: the heads may try."""
        for scope in scopes:
            head = self._head(scope)
            if head is not None:
                head.woken.set()
                self.on_turn(head.task_id)

    def look_again(self) -> None:
        """Another process may have ended a reservation: every head may try."""
        self.ended(list(self._lines))

    def call(self, task_id: str) -> None:
        """A task may go on that waited for something else than a budget."""
        self.on_turn(task_id)

    def forget(self, task_id: str) -> None:
        """The task has ended: its number, too, is free."""
        self.leave(task_id)
        self._number_of.pop(task_id, None)

    def known(self) -> KeysView[str]:
        """The tasks that have asked for money here and have not ended, as far as was heard."""
        return self._number_of.keys()

    def some_known(self, limit: int) -> set[str]:
        """So many of them, in rotation: one that ended where nobody here heard of it comes up in time."""
        some = list(islice(self._number_of, limit))
        for task_id in some:
            self._number_of[task_id] = self._number_of.pop(task_id)
        return set(some)

    def standing(self) -> KeysView[str]:
        """Those of them that stand in a line."""
        return self._places.keys()

    def run_of(self, task_id: str) -> int | None:
        """The task's run that asked last, if it stands in a line."""
        place = self._places.get(task_id)
        return None if place is None else place.run

    def _number(self, task_id: str) -> int:
        if task_id not in self._number_of:
            self._number_of[task_id] = next(self._numbers)
        return self._number_of[task_id]

    def _head(self, scope: Scope) -> _Place | None:
        line = self._lines.get(scope)
        return next(iter(line.values())) if line else None
