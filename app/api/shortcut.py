"""`POST /tasks` past the framework's layers: they cost more than to accept the task does.

A body that the endpoint takes goes straight to it. One that it does not take goes to the application as it
came, so that every refusal is worded in one place.
"""

from json import JSONDecodeError

from fastapi import FastAPI, Response
from pydantic import TypeAdapter, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.api import problems
from app.api.bodies import TaskIn
from app.api.services import principal
from app.api.strict import StrictRequest, refuse_other_media
from app.api.tasks import create_task
from app.domain.errors import BursarError

_METHOD, _PATH = "POST", "/tasks"
_TASK: TypeAdapter[TaskIn] = TypeAdapter(TaskIn)


class Shortcut:
    """Middleware: everything but `POST /tasks` passes through."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != _PATH or scope["method"] != _METHOD:
            await self._app(scope, receive, send)
            return
        request = StrictRequest(scope, receive)
        try:
            task = await _task_of(request)
        except (JSONDecodeError, ValidationError):
            await self._app(scope, _again(await request.body(), receive), send)
            return
        except ClientDisconnect:
            await self._app(scope, receive, send)  # it will hear of it, too
            return
        except (HTTPException, BursarError) as error:
            response = problems.answer(error)
        else:
            response = await _created(request, task)
        await response(scope, receive, send)


def install(app: FastAPI) -> None:
    """Let `POST /tasks` go the short way."""
    app.add_middleware(Shortcut)


async def _task_of(request: StrictRequest) -> TaskIn:
    """The request's body, if whoever asks may send one: in the order in which `GuardedRoute` asks.

    Raises:
        HTTPException, BursarError: it is refused unread, or too large.
        JSONDecodeError, ValidationError: it is no task.
        ClientDisconnect: it never came.
    """
    await principal(request)
    refuse_other_media(request)
    return _TASK.validate_python(await request.json())


async def _created(request: StrictRequest, task: TaskIn) -> Response:
    try:
        return await create_task(request, task)
    except (HTTPException, BursarError) as error:
        return problems.answer(error)


def _again(body: bytes, receive: Receive) -> Receive:
    """The body that was read, for somebody else to read."""
    read: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return read.pop() if read else await receive()

    return replay
