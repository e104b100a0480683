"""/tasks/{id}/events: the journal in pages, or live as server-sent events."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
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
from app.llm.live import TextDelta, Watcher
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
    *,
    after: Annotated[int, Query(ge=0, le=_SEQ_LIMIT)] = 0,
    limit: Annotated[int, Query(ge=1, le=PAGE_LIMIT)] = 100,
    last_event_id: Annotated[str | None, Header()] = None,
    deltas: Annotated[
        bool,
        Query(description="Streams only: the text of answers, too, while it is being written."),
    ] = False,
) -> Response:
    """The task's journal: every decision, in order.

    A stream's ids are the journal's numbers: with `Last-Event-ID` it goes on exactly after that event. It
    ends with the task.

    With `deltas=true` a stream also has `text_delta` messages: pieces of the answer being written, not part of
    the journal and without an id. `data` names `step`, `attempt`, and `offset`, the characters of that
    attempt's text before the piece: a gap was lost on the way, another attempt makes earlier text void. They
    come for calls that begin while somebody watches, in the process that runs the task. What counts is the
    task's `result`.
    """
    services, who = await principal(request)
    row = await services.store.read(lambda tx: tx.one("read_task", id=task_id, owner=who.owner))
    if row is None:
        raise NotFound("task", task_id)
    subject = Subject(task_id, row["session_id"], who.owner)
    if "text/event-stream" in request.headers.get("accept", ""):
        resume_at = _resume_at(last_event_id, after)
        return await _stream(services, subject, row, resume_at, deltas=deltas)
    page = await read(services.store, subject, after=after, limit=limit)
    return present.json(
        {"events": [public_entry(e) for e in page], "next_after": page[-1].seq if page else after}
    )


async def _stream(
    services: Services, subject: Subject, row: Row, after: int, *, deltas: bool
) -> Response:
    known = await read(services.store, subject, after=max(after - 1, 0), limit=2)
    if TaskStatus(row["status"]).terminal and (not known or known[-1].seq <= after):
        return Response(status_code=204)  # tells an EventSource to stop reconnecting
    if not known:  # it would wait for ever: the task ends before it has so many events
        raise HTTPException(400, "Last-Event-ID must be the id of an event of this task.")
    ended = TaskStatus(row["status"]).terminal
    pages = (_live if deltas else _pages)(services, subject, after, ended=ended)
    messages = _counted(services, pages)
    return StreamingResponse(messages, media_type="text/event-stream", headers=_STREAM_HEADERS)


async def _counted(services: Services, messages: AsyncGenerator[bytes]) -> AsyncIterator[bytes]:
    services.metrics.sse_clients.inc()
    try:
        async with aclosing(messages):
            async for message in messages:
                yield message
    finally:
        services.metrics.sse_clients.dec()


async def _pages(
    services: Services, subject: Subject, after: int, *, ended: bool
) -> AsyncGenerator[bytes]:
    following = services.feed.follow(
        services.store, subject, after=after, idle_s=PING_S, ended=ended
    )
    async for page in following:
        yield b"".join(_message(entry) for entry in page) or b": ping\n\n"


async def _live(
    services: Services, subject: Subject, after: int, *, ended: bool
) -> AsyncGenerator[bytes]:
    """The same with the text being written between them; it waits for nobody, and is lost where it cannot be sent."""
    pages = _pages(services, subject, after, ended=ended)
    with services.live.watch(subject.task_id) as watcher:
        page = _next(pages, watcher)
        try:
            while True:
                await watcher.woken.wait()
                watcher.woken.clear()
                if text := b"".join(_text_message(delta) for delta in watcher.take()):
                    yield text
                if not page.done():
                    continue
                message = page.result()
                if message is None:
                    return
                yield message
                page = _next(pages, watcher)
        finally:
            page.cancel()
            await asyncio.wait({page})
            await pages.aclose()


def _next(pages: AsyncGenerator[bytes], watcher: Watcher) -> asyncio.Task[bytes | None]:
    async def one() -> bytes | None:
        return await anext(pages, None)

    page = asyncio.create_task(one(), name="events-page")
    page.add_done_callback(lambda _: watcher.woken.set())
    return page


def _text_message(delta: TextDelta) -> bytes:
    """No id: a client that comes back goes on after the last event of the journal."""
    data = {
        "step": delta.step,
        "attempt": delta.attempt,
        "offset": delta.offset,
        "text": delta.text,
    }
    shown = orjson.dumps({"type": "text_delta", "run": delta.run, "data": data})
    return b"event: text_delta\ndata: %s\n\n" % shown


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
