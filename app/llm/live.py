"""Text while it is being written: what streamed calls say goes to whoever watches their task, and is kept nowhere.

A watcher that cannot keep up loses the oldest pieces; a call never waits for one. What was lost shows: each
piece says at which character of its attempt's text it begins.
"""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.record import record

WATCHER_LIMIT_CHARS = 65_536
"""Text that waits for one watcher, at most."""


@record(frozen=True, slots=True)
class TextDelta:
    """The next piece of an attempt's text. Another attempt's piece makes everything before it void."""

    run: int
    step: int
    attempt: int
    offset: int
    """Characters of the attempt's text before this piece."""
    text: str

    def followed_by(self, later: "TextDelta") -> bool:
        """Whether the two are one piece."""
        return (self.run, self.step, self.attempt, self.offset + len(self.text)) == (
            later.run,
            later.step,
            later.attempt,
            later.offset,
        )


class Watcher:
    """One who watches. `woken` is set when there is something to take."""

    def __init__(self) -> None:
        self.woken = asyncio.Event()
        self._pieces: deque[TextDelta] = deque()
        self._size = 0

    def put(self, piece: TextDelta) -> None:
        """Never waits: what is too much goes, the oldest first."""
        self._pieces.append(piece)
        self._size += len(piece.text)
        while self._size > WATCHER_LIMIT_CHARS and len(self._pieces) > 1:
            self._size -= len(self._pieces.popleft().text)
        self.woken.set()

    def take(self) -> list[TextDelta]:
        """What has come since the last time; pieces that follow each other are joined."""
        joined: list[list[TextDelta]] = []
        for piece in self._pieces:
            if joined and joined[-1][-1].followed_by(piece):
                joined[-1].append(piece)
            else:
                joined.append([piece])
        self._pieces.clear()
        self._size = 0
        return [_one(pieces) for pieces in joined]


class Voice:
    """Where one attempt's text goes, piece by piece."""

    def __init__(self, watchers: set[Watcher], run: int, step: int, attempt: int) -> None:
        self._watchers = watchers
        self._of = (run, step, attempt)
        self._said_chars = 0

    def __call__(self, text: str) -> None:
        """Hand the next piece to all who watch by now."""
        piece = TextDelta(*self._of, self._said_chars, text)
        self._said_chars += len(text)
        for watcher in self._watchers:
            watcher.put(piece)


class Live:
    """The watchers of this process, by task."""

    def __init__(self) -> None:
        self._watchers: dict[str, set[Watcher]] = {}

    def voice(self, task_id: str, run: int, step: int, attempt: int) -> Voice | None:
        """For an attempt that begins now; None when nobody watches its task."""
        watchers = self._watchers.get(task_id)
        return None if watchers is None else Voice(watchers, run, step, attempt)

    @contextmanager
    def watch(self, task_id: str) -> Iterator[Watcher]:
        """Watch a task's text for as long as the block lasts."""
        watcher = Watcher()
        watchers = self._watchers.setdefault(task_id, set())
        watchers.add(watcher)
        try:
            yield watcher
        finally:
            watchers.discard(watcher)
            if not watchers and self._watchers.get(task_id) is watchers:
                del self._watchers[task_id]


def _one(pieces: list[TextDelta]) -> TextDelta:
    first = pieces[0]
    text = "".join(piece.text for piece in pieces)
    return TextDelta(first.run, first.step, first.attempt, first.offset, text)
