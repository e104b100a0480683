"""How many tasks of one session, or of one key, may run at once. Inside the transaction that claims.

A task over a limit is taken out of the order (`held_by`), once, and comes back when one of its session's or key's
leaves: however many wait behind a limit, a claim does not look at them.
"""

from app.domain.record import record
from app.store.port import Row, Tx

UNLIMITED = 1 << 30
RELEASE_LIMIT = 256
"""Sessions, and keys, whose held tasks are looked after at once."""


@record(frozen=True, slots=True)
class Caps:
    """Tasks that may run at once; None is any number. A key may have a limit of its own."""

    session: int | None = None
    key: int | None = None


NO_CAPS = Caps()


def in_force(tx: Tx, caps: Caps) -> bool:
    """Whether there is any limit at all."""
    return caps != NO_CAPS or tx.one("any_limited_key") is not None


class Room:
    """What is left of the limits, counted once a transaction and taken as tasks are claimed."""

    def __init__(self, tx: Tx, caps: Caps) -> None:
        self._tx = tx
        self._caps = caps
        self._sessions: dict[tuple[str, str], int] = {}
        self._keys: dict[str, int] = {}

    def lacking(self, row: Row) -> str | None:
        """Whose limit stands in the task's way: `session`, `key`, or None."""
        if self._of_session(row) <= 0:
            return "session"
        if row["key_id"] is not None and self._of_key(row["key_id"]) <= 0:
            return "key"
        return None

    def take(self, row: Row) -> None:
        """The task runs now. Call it after `lacking`."""
        self._sessions[row["owner"], row["session_id"]] -= 1
        if row["key_id"] is not None:
            self._keys[row["key_id"]] -= 1

    def _of_session(self, row: Row) -> int:
        session = (row["owner"], row["session_id"])
        if session not in self._sessions:
            self._sessions[session] = UNLIMITED
            if self._caps.session is not None:
                counted = self._tx.one(
                    "running_of_session", owner=session[0], session_id=session[1]
                )
                self._sessions[session] = self._caps.session - _count(counted)
        return self._sessions[session]

    def _of_key(self, key_id: str) -> int:
        if key_id not in self._keys:
            own = self._tx.one("concurrency_of_key", id=key_id)
            most = self._caps.key if own is None else own["concurrency_limit"]
            self._keys[key_id] = UNLIMITED
            if most is not None:
                self._keys[key_id] = most - _count(self._tx.one("running_of_key", key_id=key_id))
        return self._keys[key_id]


def release_held(tx: Tx, caps: Caps) -> int:
    """Let held tasks back into the order for which there is room by now; returns how many.

    Whoever leaves lets the next one in by itself. This is for the rest: a limit that was raised or lifted, a
    place that the next one of a session could not take because of its key.
    """
    released = 0
    for row in tx.all("held_by_sessions", most=_most(caps.session), limit=RELEASE_LIMIT):
        room = min(row["room"], RELEASE_LIMIT)
        session = {"owner": row["owner"], "session_id": row["session_id"]}
        released += tx.run("release_of_session", limit=room, **session)
    for row in tx.all("held_by_keys", most=_most(caps.key), limit=RELEASE_LIMIT):
        room = min(row["room"], RELEASE_LIMIT)
        released += tx.run("release_of_key", limit=room, key_id=row["key_id"])
    return released


def _most(cap: int | None) -> int:
    return UNLIMITED if cap is None else cap


def _count(row: Row | None) -> int:
    return 0 if row is None else row["running_count"]
