"""Routes that ask who comes before they read anything else of the request."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response

from app.api.services import principal
from app.api.strict import StrictRoute
from app.domain.errors import NotFound


class GuardedRoute(StrictRoute):
    """A route for owners: without a key that opens it, not even the body is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await principal(request)
            _refuse_nul(request)
            return await handle(request)

        return guarded


def _refuse_nul(request: Request) -> None:
    """No id has a NUL in it, and not every store can be asked for one."""
    for name, value in request.path_params.items():
        if "\x00" in str(value):
            raise NotFound(name.removesuffix("_id"), str(value))
