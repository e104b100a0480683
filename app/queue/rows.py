"""Fair turns in the queue: one task of each key, or of each session, stands in the first row. Inside a transaction.

Tasks that may start are claimed row by row (`turn_called`): 0 holds the first task of each key, and of each session
without one; -1 the first of each other session of a key; -2 all others. Whoever is taken lets the next one of its
session, and of its key, move up to the end of the row, so that keys take turns, and within a key its sessions, and
within a session rank decides. A burst is in nobody's way, and a row is never left standing while a worker is free.
"""

from collections.abc import Iterable

from app.domain.task import Subject
from app.store.port import Row, Tx


def make_way(tx: Tx, subject: Subject, rank_us: int, key_id: str | None) -> None:
    """A task comes: what stands in front of it in its session, or key, and is less urgent, steps back."""
    mine = {"id": subject.task_id, "rank_us": rank_us}
    session = {"owner": subject.owner, "session_id": subject.session_id}
    tx.later("fall_behind_in_session", **mine, **session)
    if key_id is not None:
        tx.later("fall_behind_in_key", **mine, key_id=key_id)


def move_up(tx: Tx, left: Iterable[Row]) -> list[str]:
    """These have left the order: the next ones of their sessions, and of their keys, move up. Returns which."""
    if tx.one("any_behind") is None:
        return []
    found, rows = list[Row | None](), list(left)
    for owner, session_id in dict.fromkeys((row["owner"], row["session_id"]) for row in rows):
        named = {"owner": owner, "session_id": session_id}
        found.append(tx.one("next_of_session", now_us=tx.now_us, **named))
    for key_id in dict.fromkeys(row["key_id"] for row in rows if row["key_id"] is not None):
        found.append(tx.one("next_of_key", now_us=tx.now_us, key_id=key_id))
    return [row["id"] for row in found if row is not None]
