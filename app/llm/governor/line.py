"""Who of those waiting is next: the keys in turn, within a key its sessions in turn, within a session who came first.

So a thousand calls of one session put another session's single call back by one. All operations but giving up a place take constant time.
"""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

Flow = tuple[str, str]
"""A key (or an owner without one), and a session."""
E = TypeVar("E")


class Line(Generic[E]):
    """Entries by flow."""

    def __init__(self) -> None:
        self._keys: OrderedDict[str, OrderedDict[str, deque[E]]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def join(self, flow: Flow, entry: E, *, first: bool = False) -> None:
        """Take the last place of the flow, or its `first`: for who had one before."""
        key, session = flow
        sessions = self._keys.get(key)
        if sessions is None:
            sessions = self._keys[key] = OrderedDict()
        entries = sessions.get(session)
        if entries is None:
            entries = sessions[session] = deque()
        if first:
            entries.appendleft(entry)
        else:
            entries.append(entry)
        self._count += 1

    def ahead(self, flow: Flow) -> int:
        """About how many go before the last of this flow."""
        key, session = flow
        sessions = self._keys[key]
        own = len(sessions[session])
        return min(own * len(sessions) * len(self._keys), self._count) - 1

    def head(self) -> E | None:
        """Who is next."""
        for sessions in self._keys.values():
            for entries in sessions.values():
                return entries[0]
        return None

    def pop(self) -> E:
        """Take out who is next; the others of its session, and of its key, have their turn after all others."""
        key, sessions = next(iter(self._keys.items()))
        session, entries = next(iter(sessions.items()))
        entry = entries.popleft()
        self._count -= 1
        if entries:
            sessions.move_to_end(session)
        else:
            del sessions[session]
        if sessions:
            self._keys.move_to_end(key)
        else:
            del self._keys[key]
        return entry

    def leave(self, flow: Flow, entry: E) -> None:
        """Give up a place."""
        key, session = flow
        sessions = self._keys[key]
        sessions[session].remove(entry)
        self._count -= 1
        if not sessions[session]:
            del sessions[session]
            if not sessions:
                del self._keys[key]
