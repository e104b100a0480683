"""What can become of the dispatcher's tickets, and what the doctor must say of it."""

_OF = "UPDATE dbos.workflow_status SET {} WHERE workflow_uuid = '{}'"


def _ticket(name: str, change: str) -> str:
    return _OF.format(change, name)


TICKET_DAMAGE: list[tuple[set[str], str]] = [
    ({"ticket-missing"}, "DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'ready'"),
    ({"ticket-missing"}, "DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'again/1'"),
    ({"ticket-missing"}, _ticket("ready", "status = 'CANCELLED', completed_at = created_at")),
    (
        {"ticket-stuck"},
        _ticket("ready", "status = 'PENDING', executor_id = 'gone', started_at_epoch_ms = 1"),
    ),
    ({"ticket-stuck"}, _ticket("again/1", "status = 'PENDING', started_at_epoch_ms = 1")),
    ({"ticket-stranded"}, _ticket("again/1", "queue_name = '_dbos_internal_queue'")),
    ({"ticket-stranded"}, _ticket("ready", "application_version = '2'")),
    ({"ticket-stranded"}, _ticket("ready", "application_name = 'another'")),
    ({"ticket-stranded"}, _ticket("ready", "name = 'walk'")),
    ({"ticket-stranded"}, _ticket("ready", "status = 'DELAYED'")),
    ({"ticket-left"}, _ticket("done", "status = 'SUCCESS', completed_at = 1")),
    ({"ticket-left"}, _ticket("done", "status = 'ERROR', updated_at = 1")),
    ({"ticket-left"}, _ticket("done", "status = 'PENDING', started_at_epoch_ms = 1")),
    ({"ticket-left"}, _ticket("never", "status = 'PENDING', started_at_epoch_ms = 1")),
    ({"ticket-left"}, _ticket("done", "application_version = '2', created_at = 1")),
    ({"ticket-left"}, _ticket("done", "queue_name = 'another', created_at = 1")),
    ({"ticket-left"}, _ticket("runs", "workflow_uuid = 'runs/1'")),
    ({"tickets-unreadable"}, "ALTER TABLE dbos.workflow_status RENAME COLUMN executor_id TO x"),
    (
        {"tickets-unreadable"},
        "ALTER TABLE dbos.workflow_status ALTER COLUMN created_at TYPE TEXT",
    ),
    ({"tickets-unreadable"}, "ALTER TABLE dbos.workflow_status RENAME TO tickets"),
    ({"tickets-unreadable"}, "ALTER SCHEMA dbos RENAME TO other"),
]
"""Findings → what was changed. See `test_doctor_tickets` for the tasks."""

TICKETS_CALM: dict[str, str] = {
    "taken a moment ago": _ticket("ready", "status = 'PENDING', started_at_epoch_ms = created_at"),
    "ended a moment ago": _ticket("done", "status = 'SUCCESS', completed_at = created_at"),
    "in line for nothing": _ticket("done", "created_at = 1"),
    "of a second run": (
        "WITH t AS (UPDATE tasks SET run_count = 2 WHERE id = 'runs')"
        " UPDATE dbos.workflow_status SET workflow_uuid = 'runs/1' WHERE workflow_uuid = 'runs'"
    ),
    "arrived before its task was held back": _ticket(
        "later", "status = 'PENDING', started_at_epoch_ms = 1"
    ),
    "of any version and application": _ticket(
        "ready", "application_version = NULL, application_name = NULL"
    ),
    "left in line, of any version": _ticket("done", "application_version = NULL, created_at = 1"),
    "of a task that is held back": (
        "WITH t AS (UPDATE tasks SET held_by = 'session', available_at_us = 1 WHERE id = 'later')"
        " DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'later'"
    ),
    "of another service": _ticket("done", "name = 'walk', status = 'SUCCESS', completed_at = 1"),
    "younger than a minute": (
        "WITH t AS (UPDATE tasks SET available_at_us = due_at_us WHERE id = 'ready')"
        " DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'ready'"
    ),
    "nobody lives": (
        "WITH w AS (DELETE FROM workers) DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'ready'"
    ),
    "the last ones have died": (
        "WITH w AS (UPDATE workers SET expires_at_us = 1)"
        " DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'ready'"
    ),
    "nobody lives, nothing there": "DELETE FROM workers; DROP SCHEMA dbos CASCADE",
    "everybody has just begun": (
        "WITH w AS (UPDATE workers SET started_at_us = expires_at_us - 100000000000000)"
        " DELETE FROM dbos.workflow_status WHERE workflow_uuid = 'ready'"
    ),
}
"""What a service lives with, or puts right itself."""
