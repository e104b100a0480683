"""The end of a simulated world: both sides' books against each other, and every task's history."""

import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise

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
from tests.simulation.now import Nature

_CRASHED = {"restart", "lease_expired"}
_TIME_TO_BOOK_S = 10.0
_BEGINS = {
    "attempt_started",
    "model_fell_back",
    "reservation_waited",
    "task_claimed",
    "task_paused",
    "task_requeued",
    "tool_started",
}
SOMETIMES = (
    "fell back",
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
    "full disk",
    "locked database",
    "write failed",
    "stall",
    "restart",
    "taken over",
    "retried task",
    "sent again",
    "taken over by lease",
    "lease lost",
    "late answer confirmed",
    "crashed repeatedly",
    "resumed from the journal",
    "question in a batch",
    "answer out of a batch",
    "hint late",
    "hint lost",
    "hint twice",
    "listener cut off",
    "told of the upstream",
    "cancel heard of",
)
"""What a hundred seeds must have reached, or they have proved little."""
RARELY = ("lease lost in mid-call",)
"""What a thousand must have: a hundred do so once or twice."""


def judge(books: Books, accepted: set[str], nature: Nature, run_limit: int) -> Iterator[str]:
    """What is wrong, in a sentence each; notes what was reached."""
    _notice(books, nature.reached)
    yield from _unconfirmed(books, nature)
    yield from _changed_history(books, nature)
    for task_id, events in books.events.items():
        if [event["seq"] for event in events] != list(range(1, len(events) + 1)):
            yield f"{task_id}: its events have gaps"
        yield from _stale_writes(task_id, events)
        yield from _crashes(task_id, events, run_limit)
        yield from _called_off(task_id, events)
        kinds = {event["type"] for event in events}
        if books.tasks[task_id]["outcome"] == "cancelled" and "cancel_requested" not in kinds:
            yield f"{task_id} was cancelled, and nobody had asked for that"
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


def _called_off(task_id: str, events: list[Row]) -> Iterator[str]:
    """After a cancel nothing begins, whoever has heard of it; only an answer that was on its way may still be the end."""
    asked, answered_us = False, -1
    for event in events:
        kind = event["type"]
        match kind:
            case "cancel_requested":
                asked, answered_us = True, -1
            case "task_retried":
                asked = False
            case "model_answered":
                answered_us = event["at_us"]
            case "task_finished" if asked and event["data"]["outcome"] != "cancelled":
                # An answer that was on its way may still be the result; it is written with the end.
                result = event["data"]["outcome"] in {"answered", "budget_finalized"}
                if not result or event["at_us"] != answered_us:
                    yield f"{task_id} was called off, and ended as {event['data']['outcome']}"
            case _ if asked and kind in _BEGINS:
                yield f"{task_id} was called off before its {kind}"


def _crashes(task_id: str, events: list[Row], run_limit: int) -> Iterator[str]:
    """So many runs in a row may crash without progress, no more, and no fewer end the task."""
    crashes = 0
    for event in events:
        match event["type"]:
            case "model_answered" | "task_retried":  # progress, or a new beginning
                crashes = 0
            case "task_requeued" if event["data"]["reason"] in _CRASHED:
                crashes += 1
                if crashes >= run_limit:
                    yield f"{task_id} may run again after {crashes} crashes in a row"
            case "task_finished" if event["data"]["outcome"] == "crashed_repeatedly":
                if crashes + 1 != run_limit:
                    yield f"{task_id} was given up after {crashes + 1} crashes in a row"
            case _:
                pass


def _unconfirmed(books: Books, nature: Nature) -> Iterator[str]:
    """An answer that a process had in its hands, and time to write down, is in the ledger as it was billed."""
    for attempt, (process, at_s) in nature.delivered.items():
        could_s = max(at_s, nature.healed_s)  # a process that can write nothing has no time to
        if process.lived_s(could_s) >= _TIME_TO_BOOK_S and attempt in books.settlements:
            kind = books.settlements[attempt]["kind"]
            if kind != "confirmed":
                yield f"{attempt} was answered, and its line is {kind}"


def _changed_history(books: Books, nature: Nature) -> Iterator[str]:
    """What a model was shown is shown again, byte for byte, whoever asks: the transcript only grows.

    A closing turn adds its question to the last message; what came before that stays.
    """
    by_task: dict[str, list[tuple[int, int, list[bytes]]]] = {}
    for reference, messages in nature.asked.items():
        task_id, step, attempt = reference.split("/")
        by_task.setdefault(task_id, []).append((int(step), int(attempt), messages))
    for task_id, asked in by_task.items():
        spec = orjson.loads(books.tasks[task_id]["spec"])
        may_differ = 1 if spec["on_budget"] == "finalize" else 0
        asked.sort(key=lambda one: one[:2])
        for before, after in pairwise(asked):
            kept = len(before[2]) - may_differ
            if after[2][:kept] != before[2][:kept]:
                yield f"{task_id}: request {after[0]}/{after[1]} tells the past in another way"


def _notice(books: Books, reached: Counter[str]) -> None:
    for line in books.settlements.values():
        reached["presumed line"] += line["kind"] == "presumed"
        reached["estimated line"] += line["kind"] == "estimated"
        reached["late answer confirmed"] += line["presumed_nano"] is not None
    for events in books.events.values():
        kinds = Counter(event["type"] for event in events)
        reached["contention wait"] += kinds["reservation_waited"]
        reached["pause and resume"] += min(kinds["task_paused"], kinds["task_resumed"])
        reached["answer out of a batch"] += kinds["attempt_returned"]
        reached["retried task"] += kinds["task_retried"]
        reached["retry"] += kinds["retry_scheduled"]
        reached["fell back"] += kinds["model_fell_back"]
        reached["tasks"] += kinds["task_finished"]
        reached["cancel in flight"] += any(
            event["type"] == "cancel_requested" and event["run"] > 0 for event in events
        )
        for event in events:
            if event["type"] == "task_requeued" and event["data"]["reason"] in _CRASHED:
                by_lease = event["data"]["reason"] == "lease_expired"
                reached["taken over by lease" if by_lease else "taken over"] += 1
            resumed = event["type"] == "attempt_started" and event["data"]["step"] > 1
            reached["resumed from the journal"] += resumed and event["run"] > 1
            if event["type"] == "task_finished":
                reached["crashed repeatedly"] += event["data"]["outcome"] == "crashed_repeatedly"
