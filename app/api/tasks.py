"""/tasks: submit, look, list, cancel, erase."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from app.api import present
from app.api.bodies import SESSION_ID, BudgetIn, TaskIn
from app.api.cursors import cursor_after, position
from app.api.guarded import GuardedRoute
from app.api.idempotency import REPLAYED, Answer, Key, amend, key_of, known_answer, once
from app.api.schemas import Problem, TaskOut, TaskPage
from app.api.services import Services, principal
from app.api.submit import Submission, acceptance, prepare
from app.api.waiting import await_end, read_task, wished_wait_s
from app.budget.accounts import set_limit
from app.budget.keys import Principal
from app.budget.scopes import task_scope
from app.domain.errors import BudgetExhausted, BursarError, NotFound, TaskFinished
from app.domain.money import nano_from_usd
from app.domain.task import Outcome, Subject, TaskStatus
from app.journal.events import TaskBudgetSet
from app.journal.journal import append
from app.llm.batching.items import give_up
from app.queue import verbs
from app.queue.erasing import erase
from app.store.port import Tx

router = APIRouter(route_class=GuardedRoute, tags=["tasks"])
POLL_AFTER_S = "1"
RESUME_LIMIT = 256
"""Paused tasks that are resumed at once; the queue takes care of the rest within a second."""
PAGE_LIMIT = 200
NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such task."}
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    402: {"model": Problem, "description": "A budget is spent: `scope` and `scope_id` say which."},
    422: {"model": Problem, "description": "A field cannot be accepted."},
    429: {
        "model": Problem,
        "description": "The queue is full; `Retry-After` says when to come back.",
    },
    503: {"model": Problem, "description": "Stopping, or the store is unavailable."},
    507: {"model": Problem, "description": "No space left, or too little to take new work."},
}


@router.post(
    "/tasks",
    status_code=202,
    response_model=TaskOut,
    responses={
        200: {"model": TaskOut, "description": "It ended within `Prefer: wait=N`."},
        **REFUSALS,
    },
    summary="Submit a task",
)
async def create_task(request: Request, body: TaskIn) -> Response:
    """Accept a task: once this answers, the task is durable. Poll `Location`, or follow its events.

    With an `Idempotency-Key` it can be sent again: for 24 hours the same body makes no other task, and is
    answered as the first time.
    """
    services, who = await principal(request)
    key = key_of(request, who, body)
    known = await known_answer(services, key)
    if known is not None:  # also when the queue is full, or the service stopping
        return await again(services, who, known, wished_wait_s(request))
    try:
        submission, at_us = await _accept(services, who, body, key)
    except BursarError:
        known = await known_answer(services, key)  # somebody else may have been first
        if known is None:
            raise
        return await again(services, who, known, wished_wait_s(request))
    wait_s, task_id = wished_wait_s(request), submission.subject.task_id
    if wait_s:
        return await waited_first(services, who, task_id, wait_s, key)
    task = present.accepted_task(submission, at_us, simulated=services.simulated)
    return present.json(task, 202, accepted(task_id))


async def _accept(
    services: Services, who: Principal, body: TaskIn, key: Key | None
) -> tuple[Submission, int]:
    """Make the task durable; returns it with the instant of its acceptance."""
    with services.queue.place():
        submission = await prepare(services, who, body)
        accept = acceptance(services, submission)
        if key is not None:
            accept = once(services, key, submission, accepted(submission.subject.task_id), accept)
        try:
            return submission, await services.store.write(accept)
        except BudgetExhausted as error:
            services.metrics.rejections.labels(error.scope).inc()
            raise


async def again(services: Services, who: Principal, known: Answer, wait_s: int) -> Response:
    """The first answer; or, where that was no end and a wait is wished for, how the task stands after it."""
    if known.body is None or (wait_s and known.status != 200):
        return await waited(services, who, known.task_id, wait_s, REPLAYED)
    headers = {**known.headers, **REPLAYED}
    return Response(known.body, known.status, headers, "application/json")


async def waited_first(
    services: Services, who: Principal, task_id: str, wait_s: int, key: Key | None
) -> Response:
    """The answer of a request that was accepted, after its wait; kept for those that repeat it."""
    response = await waited(services, who, task_id, wait_s, {})
    if key is not None:
        await amend(services, key, task_id, response)
    return response


async def waited(
    services: Services, who: Principal, task_id: str, wait_s: int, headers: dict[str, str]
) -> Response:
    """202, or 200 at its end, which is waited for so many seconds."""
    task = await await_end(services, who, task_id, wait_s)
    headers = {"Location": f"/tasks/{task_id}", **headers}
    if wait_s:
        headers["Preference-Applied"] = f"wait={wait_s}"
    if TaskStatus(task["status"]).terminal:
        return present.json(task, 200, headers)
    return present.json(task, 202, {**headers, "Retry-After": POLL_AFTER_S})


def accepted(task_id: str) -> dict[str, str]:
    return {"Location": f"/tasks/{task_id}", "Retry-After": POLL_AFTER_S}


@router.get(
    "/tasks/{task_id}",
    response_model=TaskOut,
    responses=NOT_FOUND,
    summary="Look at a task",
)
async def get_task(request: Request, task_id: str) -> Response:
    """The task and how it stands; with `Prefer: wait=N` at its end, N seconds later at most."""
    services, who = await principal(request)
    wait_s = wished_wait_s(request)
    if not wait_s:
        return _standing(await read_task(services, who, task_id))
    task = await await_end(services, who, task_id, wait_s)
    return _standing(task, {"Preference-Applied": f"wait={wait_s}"})


@router.get("/tasks", response_model=TaskPage, summary="List tasks")
async def list_tasks(
    request: Request,
    status: Annotated[TaskStatus | None, Query()] = None,
    outcome: Annotated[Outcome | None, Query()] = None,
    session_id: Annotated[str | None, Query(pattern=SESSION_ID)] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 50,
) -> Response:
    """Newest first. `status=failed` is what may need a hand: each says why, and what a retry needs."""
    services, who = await principal(request)
    before_us, before_id = position(cursor)
    if outcome is not None and status not in (None, outcome.status):
        return present.json({"tasks": [], "next_cursor": None})
    filters = (
        ("session", session_id),
        ("outcome", outcome),
        ("status", None if outcome else status),
    )
    names = [name for name, value in filters if value is not None]
    query = "list_tasks" + ("_by_" + "_and_".join(names) if names else "")

    def op(tx: Tx) -> list[dict[str, Any]]:
        rows = tx.all(
            query,
            owner=who.owner,
            status=status,
            outcome=outcome,
            session_id=session_id,
            before_us=before_us,
            before_id=before_id,
            limit=limit + 1,
        )
        return [
            {
                "row": row,
                "used": tx.one("usage_of_task", task_id=row["id"], owner=who.owner),
                "item": present.batch_item(tx, row),
            }
            for row in rows
        ]

    found = await services.store.read(op)
    page = found[:limit]
    last = page[-1]["row"] if len(found) > limit else None
    return present.json(
        {
            "tasks": [
                present.task(
                    f["row"],
                    f["used"] or present.NOTHING_USED,
                    simulated=services.simulated,
                    item=f["item"],
                )
                for f in page
            ],
            "next_cursor": cursor_after(last["created_at_us"], last["id"]) if last else None,
        }
    )


@router.post(
    "/tasks/{task_id}/cancel",
    status_code=202,
    response_model=TaskOut,
    responses={
        **NOT_FOUND,
        200: {"model": TaskOut, "description": "It was waiting, and is cancelled."},
        409: {"model": Problem, "description": "It has ended already; `task_status` says how."},
    },
    summary="Cancel a task",
)
async def cancel_task(request: Request, task_id: str) -> Response:
    """Ask a task to stop. `cancelling` until its worker confirms; what the stopped call may cost is booked."""
    services, who = await principal(request)
    status = await services.store.write(lambda tx: verbs.cancel(tx, who.owner, task_id, give_up))
    task = await read_task(services, who, task_id)
    return present.json(task, 200 if status.terminal else 202, {"Location": f"/tasks/{task_id}"})


@router.delete(
    "/tasks/{task_id}",
    status_code=204,
    response_class=Response,
    responses={
        **NOT_FOUND,
        409: {
            "model": Problem,
            "description": "It has not ended; `task_status` says how it stands.",
        },
    },
    summary="Erase a task's content",
)
async def delete_task(request: Request, task_id: str) -> Response:
    """Erase what a finished task was asked and answered, and its tools' data. What it did and cost stays.

    Asking again changes nothing.
    """
    services, who = await principal(request)
    await services.store.write(lambda tx: erase(tx, who.owner, task_id))
    return Response(status_code=204)


@router.put(
    "/tasks/{task_id}/budget",
    response_model=TaskOut,
    responses={
        **NOT_FOUND,
        409: {"model": Problem, "description": "It has ended, and has no sub-tasks."},
    },
    summary="Set a task's budget",
)
async def put_task_budget(request: Request, task_id: str, body: BudgetIn) -> Response:
    """Set what the task and its sub-tasks may cost. Paused tasks that it pays for go on.

    A budget below what is spent is accepted: it stops new calls.
    """
    services, who = await principal(request)
    limit_nano = nano_from_usd(body.budget_usd)
    scope = task_scope(task_id)

    def op(tx: Tx) -> None:
        row = tx.one("read_task", id=task_id, owner=who.owner)
        if row is None:
            raise NotFound("task", task_id)
        if row["outcome"] is not None and not _has_subtasks(tx, who.owner, task_id):
            raise TaskFinished(task_id, row["status"], row["outcome"])
        set_limit(tx, scope, limit_nano, services.defaults.service.warn_percent)
        subject = Subject(task_id, row["session_id"], who.owner, row["run_count"])
        append(tx, subject, TaskBudgetSet(limit_nano, row["limit_nano"]))
        verbs.resume(tx, RESUME_LIMIT)

    await services.store.write(op)
    services.turns.ended((scope,))
    return _standing(await read_task(services, who, task_id))


def _has_subtasks(tx: Tx, owner: str, task_id: str) -> bool:
    """They draw on its budget, also after it has ended."""
    found = tx.one("count_subtasks", parent_id=task_id, owner=owner)
    return found is not None and found["subtask_count"] > 0


def _standing(task: dict[str, Any], headers: dict[str, str] | None = None) -> Response:
    headers = dict(headers or {})
    if not TaskStatus(task["status"]).terminal:
        headers["Retry-After"] = POLL_AFTER_S
    return present.json(task, 200, headers)
