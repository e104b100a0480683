"""Databases of earlier versions, with tasks in flight: made by running their migrations, filled as they filled them."""

from collections.abc import Callable
from dataclasses import MISSING, asdict, fields
from typing import Any

import orjson

from app.journal.call_events import AttemptStarted, ModelAnswered
from app.journal.event import Event
from app.journal.events import CancelRequested, TaskAccepted, TaskClaimed, TaskFinished, TaskPaused
from app.queue.verbs import NEVER_US
from app.store.queries import load_migrations
from tests.support.clock import START_US
from tests.support.events import example
from tests.support.provider import HAIKU
from tests.support.seeding import spec

LATEST = len(load_migrations())
Run = Callable[..., object]
"""Runs one statement; parameters are `?`."""
TASKS = ("cancelling", "done", "queued", "running")
"""What the first version's database has in flight, and has finished."""
PAUSED = "paused"
"""Beside them, from the second version on."""
BUDGET_NANO, SPENT_NANO, HELD_NANO = 500_000_000, 40, 60
_LATE_US = 1 << 52
_SPEC_FIELDS = (
    *("text", "complexity", "model", "model_reason", "max_steps", "max_tokens", "deadline_s"),
    *("max_tokens_explicit", "budget_nano", "system", "tools", "metadata"),
)


def task_ids(version: int) -> list[str]:
    """What a database that has seen this version has."""
    return sorted([*TASKS, PAUSED] if version >= 2 else TASKS)


def fill(run: Run, version: int) -> None:
    """What a service of this version leaves when it is killed: call it after each of the versions in turn."""
    if version == 1:
        _first(run)
    elif version == 2:
        _second(run)


def _first(run: Run) -> None:
    run("INSERT INTO sessions (owner, id, created_at_us) VALUES ('local', 's', ?)", START_US)
    for name in TASKS:
        _task(run, name)
    _account(run, "session", "local/s", 5 * BUDGET_NANO, SPENT_NANO, 2 * HELD_NANO)
    for name in ("running", "cancelling"):
        _claimed(run, name)
        _line(run, name, 0, "reservation", None, HELD_NANO)
        _event(run, name, 3, AttemptStarted(1, 1, HAIKU, 10, 10, HELD_NANO, "p"))
    _event(run, "cancelling", 4, CancelRequested())
    run("UPDATE tasks SET status = 'cancelling' WHERE id = 'cancelling'")
    _claimed(run, "done")
    _line(run, "done", 0, "reservation", None, HELD_NANO)
    _line(run, "done", 1, "settlement", "confirmed", SPENT_NANO)
    _event(run, "done", 3, example(ModelAnswered), b"\x00 an answer \xff")
    _event(run, "done", 4, example(TaskFinished))
    run(
        "UPDATE tasks SET status = 'succeeded', outcome = 'answered', finished_at_us = ?, lease_owner = NULL,"
        " step_count = 1, result_json = '\"yes\"' WHERE id = 'done'",
        START_US,
    )


def _second(run: Run) -> None:
    _task(run, PAUSED)
    _claimed(run, PAUSED)
    needed = 10 * BUDGET_NANO
    event = TaskPaused("budget", "task", PAUSED, BUDGET_NANO, 0, 0, needed, None)
    _event(run, PAUSED, 3, event)
    run(
        "UPDATE tasks SET status = 'paused', lease_owner = NULL, paused_json = ?, paused_at_us = ?,"
        " available_at_us = ?, blocked_scope = 'task', blocked_id = ?, blocked_needed_nano = ? WHERE id = ?",
        *(_json(asdict(event)), START_US, NEVER_US),
        *(PAUSED, needed, PAUSED),
    )


def _task(run: Run, name: str) -> None:
    asked = asdict(spec(text=f"Say {name}.", model=HAIKU))
    run(
        "INSERT INTO tasks (id, owner, session_id, status, spec, priority, created_at_us, available_at_us,"
        " deadline_at_us) VALUES (?, 'local', 's', 'queued', ?, 5, ?, ?, ?)",
        *(
            name,
            _json({field: asked[field] for field in _SPEC_FIELDS}),
            START_US,
            START_US,
            _LATE_US,
        ),
    )
    spent = SPENT_NANO if name == "done" else 0
    held = HELD_NANO if name in {"running", "cancelling"} else 0
    _account(run, "task", name, BUDGET_NANO, spent, held)
    _event(run, name, 1, example(TaskAccepted))


def _claimed(run: Run, name: str) -> None:
    run(
        "UPDATE tasks SET status = 'running', lease_owner = 'w', run_count = 1, started_at_us = ? WHERE id = ?",
        *(START_US, name),
    )
    _event(run, name, 2, example(TaskClaimed))


def _account(run: Run, scope: str, name: str, limit: int, spent: int, held: int) -> None:
    run(
        "INSERT INTO accounts (scope, id, owner, limit_nano, ceiling_nano, spent_nano, reserved_nano)"
        " VALUES (?, ?, 'local', ?, ?, ?, ?)",
        *(scope, name, limit, limit, spent, held),
    )


def _line(run: Run, name: str, ended: int, entry: str, kind: str | None, amount: int) -> None:
    scopes = _json([["task", name], ["session", "local/s"]])
    run(
        "INSERT INTO ledger_lines (task_id, step, attempt, ended, entry, kind, owner, session_id, run, model,"
        " price_row, scopes, amount_nano, at_us) VALUES (?, 1, 1, ?, ?, ?, 'local', 's', 1, ?, 'p', ?, ?, ?)",
        *(name, ended, entry, kind, HAIKU, scopes, amount, START_US),
    )


def _event(run: Run, name: str, seq: int, event: Event, body: bytes | None = None) -> None:
    """As the first version to know it wrote it: without the fields that have a default, for they came later."""
    known = {
        field.name: getattr(event, field.name)
        for field in fields(event)
        if field.default is MISSING
    }
    run(
        "INSERT INTO events (subject, seq, type, at_us, run, data, body) VALUES (?, ?, ?, ?, 1, ?, ?)",
        *(name, seq, event.name, START_US, _json(known), body),
    )


def _json(value: Any) -> str:
    return orjson.dumps(value).decode()
