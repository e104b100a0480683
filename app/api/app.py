"""The application: routes, errors, documentation pages that need no internet."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

from fastapi import FastAPI
from fastapi.routing import APIRoute
from fastapi_offline import FastAPIOffline

from app.api import (
    events,
    health,
    ledger,
    models,
    problems,
    quotes,
    retry,
    sessions,
    shortcut,
    spec,
    tasks,
    upstream,
    usage,
)

DESCRIPTION = """\
Runs Claude agents for other programs: `POST /tasks` puts a task into a durable queue, workers run the agent
loop, and every dollar is reserved before it is spent.

Amounts are JSON numbers in USD (`*_usd`), exact to the nano-dollar. Errors are RFC 9457 problems: branch on
`type`. A spent budget is a 402, never a 429: do not retry it.
"""
_MODULES = (tasks, retry, sessions, events, ledger, usage, models, quotes, upstream, health)
Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[None]]


def create_app(
    version: str, lifespan: Lifespan | None = None, *, probes_only: bool = False
) -> FastAPI:
    """The application without its services: `lifespan` puts them into `app.state.services`.

    With `probes_only` it answers probes and metrics, and nothing else.
    """
    modules = (health,) if probes_only else _MODULES
    app: FastAPI = FastAPIOffline(
        title="Bursar",
        version=version,
        description=DESCRIPTION,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
        redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False},
    )
    for module in modules:
        app.include_router(module.router)
    problems.install(app)
    if not probes_only:
        shortcut.install(app)
    spec.install(app, [route for module in modules for route in module.router.routes])
    return app


def _operation_id(route: APIRoute) -> str:
    return route.name


def openapi(version: str) -> dict[str, Any]:
    """The API's description, as committed in `openapi/openapi.json`."""
    return create_app(version).openapi()
