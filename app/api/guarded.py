"""Routes that ask who comes before they read anything else of the request."""

from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response

from app.api.services import principal
from app.api.strict import StrictRoute


class GuardedRoute(StrictRoute):
    """A route for owners: without a key that opens it, not even the body is looked at."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def guarded(request: Request) -> Response:
            await principal(request)
            return await handle(request)

        return guarded
