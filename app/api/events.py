"""/tasks/{id}/events: the journal in pages, or live as server-sent events."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, HTTPException, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

from app.api import present
from app.api.guarded import GuardedRoute
from app.api.schemas import Problem
from app.api.services import Services, principal
from app.domain.errors import NotFound
from app.domain.task import Subject, TaskStatus
from app.journal.journal import PAGE_LIMIT, Recorded, read
from app.journal.views import public_entry
from app.store.port import Row

router = APIRouter(route_class=GuardedRoute, tags=["tasks"])
PING_S = 15.0
_STREAM_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}
_SEQ_LIMIT = 2**31 - 1


class EventOut(BaseModel):
    """One journal entry."""

    seq: int = Field(description="1, 2, 3, … per task, without gaps.")
    type: str
    at: datetime
    run: int
    data: dict[str, Any]


class EventPage(BaseModel):
    """Events of a task, in order."""

    events: list[EventOut]
    next_after: int = Field(description="Pass it as `after` for what comes next.")


@router.get(
    "/tasks/{task_id}/events",
    response_model=EventPage,
    responses={
        200: {
            "description": "A page of events; with `Accept: text/event-stream` a live stream of them.",
            "content": {"text/event-stream": {"schema": {"type": "string"}}},
        },
        204: {"description": "The stream has no more events: the task has ended."},
        404: {"model": Problem, "description": "No such task."},
    },
    summary="What happened to a task",
)
async def get_task_events(
    request: Request,
    task_id: str,
    after: Annotated[int, Query(ge=0, le=_SEQ_LIMIT)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
    last_event_id: Annotated[str | None, Header()] = None,
) -> Response:
    """The task's journal: every decision, in order.

    A stream's ids are the journal's numbers: with `Last-Event-ID` it goes on exactly after that event. It
    ends with the task.
    """
    services, who = await principal(request)
    row = await services.store.read(lambda tx: tx.one("read_task", id=task_id, owner=who.owner))
    if row is None:
        raise NotFound("task", task_id)
    subject = Subject(task_id, row["session_id"], who.owner)
    if "text/event-stream" in request.headers.get("accept", ""):
        return await _stream(services, subject, row, _resume_at(last_event_id, after))
    page = await read(services.store, subject, after=after, limit=limit)
    return present.json(
        {"events": [public_entry(e) for e in page], "next_after": page[-1].seq if page else after}
    )


async def _stream(services: Services, subject: Subject, row: Row, after: int) -> Response:
    known = await read(services.store, subject, after=max(after - 1, 0), limit=2)
    if TaskStatus(row["status"]).terminal and (not known or known[-1].seq <= after):
        return Response(status_code=204)  # tells an EventSource to stop reconnecting
    if not known:  # it would wait for ever: the task ends before it has so many events
        raise HTTPException(400, "Last-Event-ID must be the id of an event of this task.")
    return StreamingResponse(
        _messages(services, subject, after), media_type="text/event-stream", headers=_STREAM_HEADERS
    )


async def _messages(services: Services, subject: Subject, after: int) -> AsyncIterator[bytes]:
    services.metrics.sse_clients.inc()
    try:
        async for page in services.feed.follow(services.store, subject, after=after, idle_s=PING_S):
            yield b"".join(_message(entry) for entry in page) or b": ping\n\n"
    finally:
        services.metrics.sse_clients.dec()


def _message(entry: Recorded) -> bytes:
    data = orjson.dumps(public_entry(entry))
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (entry.seq, entry.event.name.encode(), data)


def _resume_at(last_event_id: str | None, after: int) -> int:
    if last_event_id is None:
        return after
    if (
        not last_event_id.isascii()
        or not last_event_id.isdigit()
        or len(last_event_id) > len(str(_SEQ_LIMIT))
        or int(last_event_id) > _SEQ_LIMIT
    ):
        raise HTTPException(400, "Last-Event-ID must be the id of an event of this task.")
    return int(last_event_id)
