"""Append to and read from the journal. Appending happens in the caller's transaction."""

from dataclasses import fields
from typing import Any

import orjson

from app.domain.errors import StaleLease
from app.domain.record import record
from app.domain.task import Subject
from app.journal.event import Event
from app.journal.events import EVENTS
from app.store.port import Row, Store, Tx

_FIELD_NAMES = {name: frozenset(f.name for f in fields(kind)) for name, kind in EVENTS.items()}
PAGE_LIMIT = 1_000
"""Events read at once, at most."""


@record(frozen=True, slots=True)
class Recorded:
    """One journal entry."""

    seq: int
    """1, 2, 3, … without gaps, per subject."""
    at_us: int
    subject: Subject
    event: Event
    body: bytes | None = None


def append(tx: Tx, subject: Subject, event: Event, body: bytes | None = None) -> None:
    """Write `event` down; log, metrics and followers see it once the transaction is durable."""
    row = tx.one(
        "append_event",
        subject=subject.task_id,
        type=event.name,
        at_us=tx.now_us,
        run=subject.run,
        data=orjson.dumps(event).decode(),
        body=body,
    )
    assert row is not None  # noqa: S101  (an INSERT … RETURNING returns)
    tx.after_commit(Recorded(row["seq"], tx.now_us, subject, event, body))


def fence(tx: Tx, subject: Subject, *, starting: bool = False) -> None:
    """Make sure that this run still holds its task; call it first in every transaction of a run.

    `starting` something new is also refused once somebody asked to cancel the task.

    Raises:
        StaleLease: it does not; nothing of this transaction is kept.
    """
    query = "lease_may_start" if starting else "lease_holds"
    if tx.one(query, task_id=subject.task_id, run=subject.run) is None:
        message = f"run {subject.run} no longer holds task {subject.task_id}"
        raise StaleLease(message)


def holds(tx: Tx, subject: Subject) -> bool:
    """Whether this run still holds its task."""
    return tx.one("lease_holds", task_id=subject.task_id, run=subject.run) is not None


def is_called_off(tx: Tx, subject: Subject) -> bool:
    """Whether this run holds its task still, and somebody asked to cancel it."""
    return holds(tx, subject) and not may_start(tx, subject)


def may_start(tx: Tx, subject: Subject) -> bool:
    """Whether this run may begin something new: it holds its task, and nobody asked to cancel it."""
    return tx.one("lease_may_start", task_id=subject.task_id, run=subject.run) is not None


async def read(
    store: Store, subject: Subject, *, after: int = 0, limit: int = PAGE_LIMIT
) -> list[Recorded]:
    """The subject's entries with a number above `after`, in order, `limit` at most."""
    rows = await store.read(
        lambda tx: tx.all("read_events", subject=subject.task_id, after=after, limit=limit)
    )
    return [_recorded(subject, row) for row in rows]


async def read_all(store: Store, subject: Subject) -> list[Recorded]:
    """Every entry of the subject, in order."""
    entries: list[Recorded] = []
    while page := await read(store, subject, after=entries[-1].seq if entries else 0):
        entries += page
    return entries


def _recorded(subject: Subject, row: Row) -> Recorded:
    kind = EVENTS[row["type"]]
    known = _FIELD_NAMES[kind.name]
    data: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in orjson.loads(row["data"]).items()
        if name in known
    }
    owner = Subject(subject.task_id, subject.session_id, subject.owner, row["run"])
    return Recorded(row["seq"], row["at_us"], owner, kind(**data), row["body"])
