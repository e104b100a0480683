"""How a database means to find rows: what its plans look at, in one vocabulary for both databases."""

import re
import sqlite3
from dataclasses import dataclass
from typing import Any, Protocol

import psycopg

from app.store.postgres_words import statement

LIVE = {
    "pruned_tasks_halfway",
    "tasks_expiring",
    "tasks_held",
    "tasks_held_by_key",
    "tasks_held_by_session",
    "tasks_not_due",
    "tasks_paused",
    "tasks_paused_until",
    "tasks_ready",
    "tasks_running_of_key",
    "tasks_running_of_session",
}
"""Indexes of tasks that have not ended, or are being taken away; settings bound how many there are."""
SMALL = {"batches", "batch_items", "keys", "schema_migrations", "workers"}
"""Tables that do not grow with the tasks that have ended."""
PARAMETER = re.compile(r"(?<!:):([a-z][a-z0-9_]*)")
_POSTGRES_SCAN = re.compile(
    r"(?:Seq Scan on (?P<table>\w+)|Index (?:Only )?Scan(?: Backward)? using (?P<index>\w+) on (?P<of>\w+))"
)
_ONE_OWNER = re.compile(r"Index Cond: \(owner = [^ ]+\)$")
_ENOUGH = """
INSERT INTO tasks (id, owner, session_id, status, outcome, spec, priority, created_at_us, available_at_us,
    deadline_at_us, finished_at_us, due_at_us, rank_us)
SELECT 't' || n, 'local', 's' || n % 1000, 'succeeded', 'answered', repeat('x', 200), 0, n, n, n, n, n, n
FROM generate_series(1, 20000) AS n;
INSERT INTO sessions (owner, id, created_at_us) SELECT 'local', 's' || n, n FROM generate_series(0, 999) AS n;
INSERT INTO session_usage SELECT 'local', 's' || n, 'm', 1, 1, 1, 0, 0, 1, 1, 0, 0, 0 FROM generate_series(0, 999) AS n;
INSERT INTO accounts (scope, id, owner, limit_nano, ceiling_nano)
SELECT 'task', 't' || n, 'local', 1, 1 FROM generate_series(1, 20000) AS n;
INSERT INTO events (subject, seq, type, at_us, run, data)
SELECT 't' || n, s, 'x', n, 1, repeat('x', 200) FROM generate_series(1, 20000) AS n, generate_series(1, 3) AS s;
INSERT INTO ledger_lines (task_id, step, attempt, ended, entry, kind, owner, session_id, run, model, price_row, scopes,
    amount_nano, at_us)
SELECT 't' || n, 1, 1, e, CASE e WHEN 0 THEN 'reservation' ELSE 'settlement' END, CASE e WHEN 1 THEN 'confirmed' END,
    'local', 's' || n % 1000, 1, 'm', 'p', '[]', 1, n FROM generate_series(1, 20000) AS n, generate_series(0, 1) AS e;
INSERT INTO answers (owner, key, digest, task_id, status, headers, created_at_us)
SELECT 'local', 'k' || n, 'd', 't' || n, 202, '{}', n FROM generate_series(1, 20000) AS n;
INSERT INTO pruned_tasks (owner, session_id, id, pruned_at_us, events_left)
SELECT 'local', 's' || n % 1000, 'p' || n, n, 0 FROM generate_series(1, 20000) AS n;
ANALYZE;
"""
"""Enough finished tasks for a planner that counts: looking at all of them is dear. Nothing is waiting or running."""


@dataclass(frozen=True)
class Plan:
    """How one statement is carried out."""

    steps: list[str]
    scans: list[str]
    """Steps that look at every row, or every row of one owner, of what grows with the tasks that have ended."""
    sorts: list[str]
    """Steps that need all of their rows before the first comes out."""


class Planner(Protocol):
    """A database that says how it would carry a statement out."""

    def plan(self, sql: str) -> Plan:
        """The plan, whatever the values of the parameters are."""
        ...


class SqlitePlanner:
    """Without statistics, as every embedded database is."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def plan(self, sql: str) -> Plan:
        text = "\n".join(line for line in sql.splitlines() if not line.startswith("--"))
        params = dict.fromkeys(PARAMETER.findall(text), 1)
        found = self._connection.execute("EXPLAIN QUERY PLAN " + text, params)
        steps: list[str] = [row[3] for row in found]
        made = {
            step.split()[-1] for step in steps if step.startswith(("CO-ROUTINE", "MATERIALIZE"))
        }
        harmless = {"CONSTANT", *made, *SMALL}
        scans = [
            step
            for step in steps
            if (step.startswith("SCAN") or step.endswith(("(owner=?)", "(entry=?)", "(status=?)")))
            and step.split()[1] not in harmless
            and not LIVE & set(step.split())
        ]
        return Plan(steps, scans, [step for step in steps if "TEMP B-TREE" in step])


class PostgresPlanner:
    """With statistics of many finished tasks, and one plan for all values."""

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        connection.execute(_ENOUGH.encode())
        connection.execute("SET plan_cache_mode = force_generic_plan")

    def plan(self, sql: str) -> Plan:
        asked = statement("asked", sql)
        types = ", ".join("BIGINT" if oid else "unknown" for oid in asked.types)
        nothing = ", ".join(["NULL"] * len(asked.parameters))
        with_types = f"({types})" if types else ""
        with_values = f"({nothing})" if nothing else ""
        self._connection.execute(f"PREPARE asked{with_types} AS {asked.text.decode()}".encode())
        found = self._connection.execute(f"EXPLAIN EXECUTE asked{with_values}".encode())
        steps: list[str] = [row[0] for row in found]
        self._connection.execute("DEALLOCATE asked")
        scans = [
            step for step, after in zip(steps, [*steps[1:], ""], strict=True) if _all(step, after)
        ]
        return Plan(steps, scans, [step for step in steps if re.search(r"\bSort\b  \(", step)])


def _all(step: str, after: str) -> bool:
    """Whether this step of PostgreSQL's reads a whole table or index."""
    found = _POSTGRES_SCAN.search(step)
    if found is None:
        return False
    if found["table"]:
        return found["table"] not in SMALL
    narrow = "Index Cond" in after and not _ONE_OWNER.search(after)
    return found["of"] not in SMALL and found["index"] not in LIVE and not narrow
