"""/sessions: their budgets and what they spent."""

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from app.api import present
from app.api.bodies import SESSION_ID, BudgetIn
from app.api.cursors import cursor_after, position
from app.api.guarded import GuardedRoute
from app.api.schemas import Problem, SessionOut, SessionUsageOut
from app.api.services import principal
from app.api.tasks import RESUME_LIMIT
from app.budget.accounts import balance, open_account, set_limit
from app.budget.scopes import session_scope
from app.domain.errors import NotFound
from app.domain.money import nano_from_usd
from app.domain.task import Subject
from app.journal.events import SessionBudgetSet
from app.journal.journal import append
from app.queue import verbs
from app.store.port import Row, Tx

router = APIRouter(route_class=GuardedRoute, tags=["sessions"])
SessionId = Annotated[str, Path(pattern=SESSION_ID)]
PAGE_LIMIT = 1_000
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such session."}
}


@router.get(
    "/sessions/{session_id}",
    response_model=SessionOut,
    responses=_NOT_FOUND,
    summary="Look at a session",
)
async def get_session(request: Request, session_id: SessionId) -> Response:
    """The session and its budget."""
    services, who = await principal(request)
    return present.json(
        await services.store.read(lambda tx: present.session(_row(tx, who.owner, session_id)))
    )


@router.get(
    "/sessions/{session_id}/usage",
    response_model=SessionUsageOut,
    responses=_NOT_FOUND,
    summary="What a session used and spent",
)
async def get_session_usage(
    request: Request,
    session_id: SessionId,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT, description="Tasks in `by_task`.")] = 200,
) -> Response:
    """Calls, tokens and money, in all and by model and, page by page, by task: sums over the ledger's lines."""
    services, who = await principal(request)
    before_us, before_id = position(cursor)
    named = {"owner": who.owner, "session_id": session_id}

    def op(tx: Tx) -> dict[str, Any]:
        row = _row(tx, who.owner, session_id)
        page = {"before_us": before_us, "before_id": before_id, "limit": limit + 1}
        tasks = tx.all("usage_of_session", **named, **page)
        last = tasks[limit - 1] if len(tasks) > limit else None
        more = cursor_after(last["created_at_us"], last["task_id"]) if last else None
        return present.session_usage(row, tx.all("totals_of_session", **named), tasks[:limit], more)

    return present.json(await services.store.read(op))


@router.put(
    "/sessions/{session_id}/budget", response_model=SessionOut, summary="Set a session's budget"
)
async def put_session_budget(request: Request, session_id: SessionId, body: BudgetIn) -> Response:
    """Set what the session may cost; makes the session if it is new.

    A budget below what is spent is accepted: it stops new calls. Raising it lets waiting and paused tasks
    go on.
    """
    services, who = await principal(request)
    limit_nano = nano_from_usd(body.budget_usd)
    scope = session_scope(who.owner, session_id)

    def op(tx: Tx) -> dict[str, Any]:
        known = tx.one("read_session", owner=who.owner, id=session_id)
        previous = None if known is None else balance(tx, scope).limit_nano
        tx.later("open_session", owner=who.owner, id=session_id, now_us=tx.now_us)
        percent = services.defaults.service.warn_percent
        open_account(tx, scope, who.owner, limit_nano, percent)
        set_limit(tx, scope, limit_nano, percent)
        subject = Subject(f"session/{who.owner}/{session_id}", session_id, who.owner)
        append(tx, subject, SessionBudgetSet(budget_nano=limit_nano, previous_nano=previous))
        verbs.resume(tx, RESUME_LIMIT)
        return present.session(_row(tx, who.owner, session_id))

    shown = await services.store.write(op)
    services.turns.ended((scope,))
    return present.json(shown)


def _row(tx: Tx, owner: str, session_id: str) -> Row:
    row = tx.one("read_session", owner=owner, id=session_id)
    if row is None:
        raise NotFound("session", session_id)
    return row
