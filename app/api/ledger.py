"""…/ledger: every dollar explained, line by line."""

import base64
import binascii
from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, HTTPException, Query, Request, Response
from pydantic import BaseModel, Field

from app.api import present
from app.api.guarded import GuardedRoute
from app.api.schemas import Problem, Tokens, UsageOut
from app.api.services import principal
from app.api.sessions import SessionId
from app.domain.errors import NotFound
from app.domain.task import Bound
from app.store.port import Row, Tx

router = APIRouter(route_class=GuardedRoute, tags=["ledger"])
PAGE_LIMIT = 1_000
_NUMBER_LIMIT = 2**62
_COUNT_LIMIT = 2**31
_START = (-1, "", 0, 0, 0)
_KEY = ("at_us", "task_id", "step", "attempt", "ended")
_NOT_FOUND: dict[int | str, dict[str, Any]] = {
    404: {"model": Problem, "description": "No such task or session."}
}


class LedgerLineOut(BaseModel):
    """One line of the ledger: a reservation, or the settlement or release that ended it."""

    attempt_id: str = Field(description="Names the model attempt: task, step, attempt.")
    task_id: str
    step: int
    attempt: int
    run: int
    entry: Literal["reservation", "settlement", "release"]
    kind: Literal["confirmed", "estimated", "presumed"] | None = Field(
        description="How sure a settlement is; unset for the other entries."
    )
    model: str
    price_row: str = Field(description="The price it was computed with.")
    bound: Bound = Field(description="How the reservation was bounded.")
    key_id: str | None
    agent: str | None
    scopes: list[str] = Field(description="Whose budgets it counts on.")
    amount_usd: float = Field(description="Held, settled within the reservation, or 0.")
    surplus_usd: float = Field(description="Settled above the reservation: an alarm.")
    presumed_usd: float | None = Field(
        description="What it was booked at while the answer was taken for lost; set once that came after all."
    )
    tokens: Tokens
    web_searches: int
    cache_saved_usd: float = Field(description="What caching saved on it; negative: what it cost.")
    at: datetime
    confirmed_at: datetime | None = Field(description="When the late answer came.")


class LedgerPage(BaseModel):
    """Ledger lines, oldest first, and what all lines sum up to."""

    lines: list[LedgerLineOut]
    totals: UsageOut = Field(description="Sums over all settlements, not only those of this page.")
    next_cursor: str | None


@router.get(
    "/tasks/{task_id}/ledger",
    response_model=LedgerPage,
    responses=_NOT_FOUND,
    summary="Where a task's money went",
)
async def get_task_ledger(request: Request, task_id: str) -> Response:
    """Every reservation of the task with what ended it, in the order of its attempts."""
    services, who = await principal(request)

    def op(tx: Tx) -> dict[str, Any]:
        if tx.one("read_task", id=task_id, owner=who.owner) is None:
            raise NotFound("task", task_id)
        rows = tx.all("ledger_of_task", task_id=task_id, owner=who.owner)
        used = tx.one("usage_of_task", task_id=task_id, owner=who.owner)
        return _page(rows, [used] if used else [], None)

    return present.json(await services.store.read(op))


@router.get(
    "/sessions/{session_id}/ledger",
    response_model=LedgerPage,
    responses=_NOT_FOUND,
    summary="Where a session's money went",
)
async def get_session_ledger(
    request: Request,
    session_id: SessionId,
    cursor: Annotated[str | None, Query(max_length=400)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
) -> Response:
    """The session's lines in the order they were written."""
    services, who = await principal(request)
    start = dict(zip(_KEY, _position(cursor), strict=True))

    def op(tx: Tx) -> dict[str, Any]:
        if tx.one("read_session", owner=who.owner, id=session_id) is None:
            raise NotFound("session", session_id)
        named = {"owner": who.owner, "session_id": session_id}
        rows = list(tx.all("ledger_of_session", **named, **start, limit=limit + 1))
        more = _cursor(rows[limit - 1]) if len(rows) > limit else None
        return _page(rows[:limit], tx.all("totals_of_session", **named), more)

    return present.json(await services.store.read(op))


def _page(rows: Sequence[Row], used: Sequence[Row], next_cursor: str | None) -> dict[str, Any]:
    return {
        "lines": [present.ledger_line(row) for row in rows],
        "totals": present.usage(used),
        "next_cursor": next_cursor,
    }


def _cursor(row: Row) -> str:
    key = orjson.dumps([row[column] for column in _KEY])
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _could_be(key: list[Any]) -> bool:
    """Whether a line can have this key; not every store can be asked for any other."""
    at_us, task_id, *numbers = key
    return (
        abs(at_us) <= _NUMBER_LIMIT
        and "\x00" not in task_id
        and all(0 <= number < _COUNT_LIMIT for number in numbers)
    )


def _position(cursor: str | None) -> tuple[object, ...]:
    if cursor is None:
        return _START
    try:
        found = orjson.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        found = None
    known = isinstance(found, list) and [type(p) for p in found] == [int, str, int, int, int]
    if not known or not _could_be(found):
        raise HTTPException(400, "The cursor is not one that this service gave out.")
    return tuple(found)
