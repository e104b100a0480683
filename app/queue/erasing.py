"""Erase what a task that has ended was asked and answered; what it did and cost stays. Inside a transaction."""

from typing import Any

import orjson

from app.domain.errors import NotFound, TaskUnfinished
from app.domain.task import Subject, TaskStatus
from app.journal.events import EVENTS, TaskErased
from app.journal.journal import append
from app.store.port import Row, Tx

_PAGE_LIMIT = 500


def erase(tx: Tx, owner: str, task_id: str) -> bool:
    """Erase a task's prompts, answers and tool data, and whatever may quote them.

    Returns:
        False when that has been done before.

    Raises:
        NotFound: no such task of this owner.
        TaskUnfinished: it has not ended.
    """
    row = tx.one("read_task", id=task_id, owner=owner)
    if row is None:
        raise NotFound("task", task_id)
    status = TaskStatus(row["status"])
    if not status.terminal:
        raise TaskUnfinished(task_id, status)
    if row["erased_at_us"] is not None:
        return False
    tx.run(
        "erase_task",
        id=task_id,
        spec=_json({**orjson.loads(row["spec"]), "text": "", "system": None, "metadata": {}}),
        error_json=_without_message(row["error_json"]),
        now_us=tx.now_us,
    )
    tx.run("erase_bodies", subject=task_id)
    tx.run("erase_answers", task_id=task_id)
    _erase_data(tx, task_id, frozenset(orjson.loads(row["spec"])["tools"]))
    append(tx, Subject(task_id, row["session_id"], owner, row["run_count"]), TaskErased())
    return True


def _without_message(error_json: str | None) -> str | None:
    """The error's type is one of a few words of ours; its message may quote what was sent."""
    if error_json is None:
        return None
    return _json({**orjson.loads(error_json), "message": ""})


def _erase_data(tx: Tx, task_id: str, tools: frozenset[str]) -> None:
    """Empty the fields of the task's events that may quote content; names of its own `tools` are none."""
    after = 0
    while page := tx.all("read_events", subject=task_id, after=after, limit=_PAGE_LIMIT):
        for row in page:
            blanked = _blanked(row, tools)
            if blanked is not None:
                tx.run("erase_data", subject=task_id, seq=row["seq"], data=_json(blanked))
        after = page[-1]["seq"]


def _blanked(row: Row, tools: frozenset[str]) -> dict[str, Any] | None:
    """The event's data without its content; None when it has none."""
    quoting = EVENTS[row["type"]].quoting
    if not quoting:
        return None
    data: dict[str, Any] = orjson.loads(row["data"])
    found = [name for name in quoting if data.get(name)]
    if data.get("tool") in tools:
        found.remove("tool")
    for name in found:
        data[name] = [] if isinstance(data[name], list) else ""
    return data if found else None


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
