"""The end of a simulated world: both sides' books against each other, and every task's history."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator

import orjson

from tests.acceptance.books import (
    Books,
    Row,
    check_bill,
    check_budgets,
    check_ledger,
    check_steps,
    check_tasks,
)
from tests.simulation.clients import WISH

SOMETIMES = (
    "crash",
    "crash before commit",
    "crash after commit",
    "answer lost",
    "presumed line",
    "contention wait",
    "pause and resume",
    "cancel in flight",
    "stale run stopped",
    "clock jump",
    "stall",
    "restart",
    "taken over",
    "retried task",
    "sent again",
)
"""What a hundred seeds must have reached, or they have proved little."""


def judge(books: Books, accepted: set[str], reached: Counter[str]) -> Iterator[str]:
    """What is wrong, in a sentence each; notes what was reached."""
    _notice(books, reached)
    for task_id, events in books.events.items():
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            yield f"{task_id}: its events have gaps"
        yield from _stale_writes(task_id, events)
    wishes = Counter(
        orjson.loads(task["spec"])["metadata"].get(WISH) for task in books.tasks.values()
    )
    yield from (f"wish {wish} made {count} tasks" for wish, count in wishes.items() if count > 1)
    checks: tuple[Callable[[], None], ...] = (
        lambda: check_ledger(books),
        lambda: check_bill(books),
        lambda: check_budgets(books),
        lambda: check_tasks(books, accepted),
        lambda: check_steps(books),
    )
    for name, check in zip(("ledger", "bill", "budgets", "tasks", "steps"), checks, strict=True):
        try:
            check()
        except (AssertionError, KeyError, ValueError, IndexError) as error:
            where = traceback.extract_tb(error.__traceback__)[-1].line
            yield f"{name}: {where} ({type(error).__name__} {error})"


def _stale_writes(task_id: str, events: list[Row]) -> Iterator[str]:
    """Nothing of a run may follow the claim of the next one."""
    newest = 0
    for event in events:
        if event["type"] == "task_claimed":
            if event["run"] != newest + 1:
                yield f"{task_id}: run {event['run']} follows run {newest}"
            newest = event["run"]
        elif event["run"] < newest:
            yield f"{task_id}: run {event['run']} wrote {event['type']} in the time of run {newest}"


def _notice(books: Books, reached: Counter[str]) -> None:
    for line in books.settlements.values():
        reached["presumed line"] += line["kind"] == "presumed"
        reached["estimated line"] += line["kind"] == "estimated"
    for events in books.events.values():
        kinds = Counter(event["type"] for event in events)
        reached["contention wait"] += kinds["reservation_waited"]
        reached["pause and resume"] += min(kinds["task_paused"], kinds["task_resumed"])
        reached["retried task"] += kinds["task_retried"]
        reached["retry"] += kinds["retry_scheduled"]
        reached["tasks"] += kinds["task_finished"]
        reached["cancel in flight"] += any(
            event["type"] == "cancel_requested" and event["run"] > 0 for event in events
        )
        reached["taken over"] += sum(
            event["type"] == "task_requeued" and event["data"]["reason"] == "restart"
            for event in events
        )
