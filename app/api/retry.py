"""POST /tasks/{id}/retry: a failed task goes on from its last good step."""

from typing import Any

from fastapi import APIRouter, Request, Response

from app.api import present
from app.api.bodies import RetryIn
from app.api.guarded import GuardedRoute
from app.api.idempotency import Key, key_of, known_answer, remember
from app.api.schemas import Problem, TaskOut
from app.api.services import Services, principal
from app.api.submit import Submission, blocking, check_tools, minimal_nano
from app.api.tasks import NOT_FOUND, REFUSALS, accepted, again, waited_first
from app.api.waiting import shown, wished_wait_s
from app.budget.accounts import balance, set_limit
from app.budget.keys import Principal
from app.budget.scopes import session_scope, task_scope
from app.domain.errors import BudgetExhausted, BursarError
from app.domain.money import nano_from_usd
from app.domain.task import Subject, TaskSpec
from app.journal.events import TaskBudgetSet
from app.journal.journal import append
from app.queue.retrying import Changes, failed_task, retry
from app.queue.spec import spec_of
from app.store.port import Operation, Row, Tx

router = APIRouter(route_class=GuardedRoute, tags=["tasks"])
_AS_IT_WAS = RetryIn(max_steps=None, budget_usd=None, deadline_s=None)


@router.post(
    "/tasks/{task_id}/retry",
    status_code=202,
    response_model=TaskOut,
    responses={
        200: {"model": TaskOut, "description": "It ended within `Prefer: wait=N`."},
        **NOT_FOUND,
        **REFUSALS,
        409: {
            "model": Problem,
            "description": "It has not failed; `task_status` says how it stands.",
        },
    },
    summary="Retry a failed task",
)
async def retry_task(request: Request, task_id: str, body: RetryIn | None = None) -> Response:
    """Begin another run of a failed task: its journal goes on, nothing that was answered is asked again.

    Its deadline starts anew. Without a body it may do what it might before.

    With an `Idempotency-Key` it can be sent again: for 24 hours the same wish makes no other run, and is answered as
    the first time, also when that run has failed as well.
    """
    services, who = await principal(request)
    wished, wait_s = body or _AS_IT_WAS, wished_wait_s(request)
    key = key_of(request, who, wished, task_id)
    known = await known_answer(services, key)
    if known is not None:
        return await again(services, who, known, wait_s)
    try:
        task = await _retried(services, who, task_id, wished, key)
    except BursarError:
        known = await known_answer(services, key)  # somebody else may have been first
        if known is None:
            raise
        return await again(services, who, known, wait_s)
    if wait_s:
        return await waited_first(services, who, task_id, wait_s, key)
    return present.json(task, 202, accepted(task_id))


async def _retried(
    services: Services, who: Principal, task_id: str, wished: RetryIn, key: Key | None
) -> dict[str, Any]:
    """Put the task back into the queue; returns it as it stands then."""
    changes = Changes(wished.max_steps, wished.deadline_s)
    limit_nano = None if wished.budget_usd is None else nano_from_usd(wished.budget_usd)
    with services.queue.place():
        row = await services.store.read(lambda tx: failed_task(tx, who.owner, task_id))
        submission = _submission(services, row, changes.of(spec_of(row["spec"])))
        retrying = _retrying(services, who, submission, changes, limit_nano)

        def op(tx: Tx) -> dict[str, Any]:
            retrying(tx)
            task = shown(tx, services, who, task_id)
            if key is not None:
                remember(tx, key, task_id, accepted(task_id), task)
            return task

        try:
            task = await services.store.write(op)
        except BudgetExhausted as error:
            services.metrics.rejections.labels(error.scope).inc()
            raise
    if limit_nano is not None:
        services.turns.ended((task_scope(task_id),))
    return task


def _submission(services: Services, row: Row, spec: TaskSpec) -> Submission:
    check_tools(services, spec.tools)
    subject = Subject(row["id"], row["session_id"], row["owner"], row["run_count"])
    return Submission(subject, spec, row["priority"], minimal_nano(services, spec))


def _retrying(
    services: Services,
    who: Principal,
    submission: Submission,
    changes: Changes,
    limit_nano: int | None,
) -> Operation[None]:
    """The transaction of the retry.

    Raises (when run):
        BudgetExhausted: what is spent leaves less than a minimal call: the run could do nothing.
    """
    subject, service = submission.subject, services.defaults.service
    own, session = task_scope(subject.task_id), session_scope(who.owner, subject.session_id)

    def op(tx: Tx) -> None:
        retry(tx, who.owner, subject.task_id, changes, ageing_us=services.defaults.ageing_us)
        before = balance(tx, own)
        if limit_nano is not None:
            set_limit(tx, own, limit_nano, service.warn_percent)
            append(tx, subject, TaskBudgetSet(limit_nano, before.limit_nano))
        spent = balance(tx, own)
        if spent.unspent_nano >= submission.minimal_nano:
            found = blocking(tx, submission, balance(tx, session), service, opening=True)
            if found is None:
                return
            spent = found
        raise spent.exhausted(submission.minimal_nano)

    return op
