"""Waiting for other calls' reservations: first in, first out per scope.

A call that fits the limit, but not beside what others hold, takes a place in the scope's line. The head is
woken whenever a reservation on the scope ends. A newcomer may not overtake: while a line stands, it joins.
A task keeps its place while it is back in the queue, so giving its worker slot back costs it no turn.
"""

import asyncio
from collections.abc import Callable, Iterable

from app.budget.ledger import Scope


class Turns:
    """The lines of this process. `on_turn` hears which task's turn has come, wherever it waits."""

    def __init__(self) -> None:
        self._lines: dict[Scope, dict[str, asyncio.Event]] = {}
        self.on_turn: Callable[[str], None] = lambda _task_id: None

    def ahead_of(self, task_id: str, scopes: Iterable[Scope]) -> Scope | None:
        """The scope on which somebody else stands first, if any."""
        for scope in scopes:
            line = self._lines.get(scope)
            if line and next(iter(line)) != task_id:
                return scope
        return None

    def join(self, task_id: str, scope: Scope) -> asyncio.Event:
        """Take (or keep) a place; the returned event is set when the turn may have come.

        Clear it, then try, then wait: a reservation that ends between the try and the wait is not missed.
        """
        return self._lines.setdefault(scope, {}).setdefault(task_id, asyncio.Event())

    def is_called(self, task_id: str) -> bool:
        """The task stands first in a line and has been woken."""
        return any(
            next(iter(line)) == task_id and line[task_id].is_set() for line in self._lines.values()
        )

    def leave(self, task_id: str) -> None:
        """Give up every place: the call got through, or the task has ended. Wakes who comes next."""
        for scope, line in list(self._lines.items()):
            if task_id in line:
                was_head = next(iter(line)) == task_id
                del line[task_id]
                if not line:
                    del self._lines[scope]
                elif was_head:
                    self.ended((scope,))

    def ended(self, scopes: Iterable[Scope]) -> None:
        """A reservation on these scopes ended, or a limit was raised: the heads may try."""
        for scope in scopes:
            line = self._lines.get(scope)
            if line:
                task_id, woken = next(iter(line.items()))
                woken.set()
                self.on_turn(task_id)
