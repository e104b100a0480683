"""A whole service in this process: real store in a folder, simulator on loopback, client without a socket.

async with started(tmp_path, workers=2) as bursar:
    task = await bursar.submit("Say hello.")
    ended = await bursar.finished(task["id"])
"""

import sqlite3
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psycopg
from psycopg.rows import dict_row

from app import settings
from app.domain.clock import Clock
from app.main import Service, running
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from app.simulator.server import start
from tests.support.asgi import Stream, opened
from tests.support.contract import check_response

BASE_URL = "http://bursar.test"
TERMINAL = {"succeeded", "failed", "cancelled"}
HANG = {"kind": "timeout", "repeat": 1_000}
"""A scripted fault: the simulator says nothing until the client goes away."""
_WAIT_S = 30


@dataclass(slots=True)
class Running:
    """A service that runs, and the ways a test talks to it. Its responses must be as the description says."""

    service: Service
    client: httpx.AsyncClient
    simulator: Simulator
    """The model's side: its bill, its log of requests, its faults."""
    data_dir: Path
    database_url: str | None = None
    """PostgreSQL, where the service runs on it."""

    async def submit(self, task: str = "Say hello.", **fields: object) -> dict[str, Any]:
        """POST the task; returns it as accepted. `fields` go into the body."""
        answer = await self.client.post("/tasks", json={"task": task, **fields})
        assert answer.status_code == 202, answer.text
        accepted: dict[str, Any] = answer.json()
        return accepted

    async def finished(self, task_id: str, *, within_s: int = _WAIT_S) -> dict[str, Any]:
        """The task at its end; fails when that does not come."""
        answer = await self.client.get(
            f"/tasks/{task_id}", headers={"prefer": f"wait={within_s}"}, timeout=within_s + 5
        )
        task: dict[str, Any] = answer.json()
        assert task.get("status") in TERMINAL, f"not finished within {within_s} s: {task}"
        return task

    async def run(self, task: str = "Say hello.", **fields: object) -> dict[str, Any]:
        """Submit a task and wait for its end."""
        return await self.finished((await self.submit(task, **fields))["id"])

    async def events(self, task_id: str) -> list[dict[str, Any]]:
        """The task's journal so far."""
        answer = await self.client.get(f"/tasks/{task_id}/events", params={"limit": 1_000})
        found: list[dict[str, Any]] = answer.json()["events"]
        return found

    async def saw(self, task_id: str, event: str) -> dict[str, Any]:
        """Wait until the task's journal has an event of this name."""
        feed = self.service.services.feed
        while True:
            with feed.watch(task_id) as woken:
                found = [e for e in await self.events(task_id) if e["type"] == event]
                if found:
                    return found[0]
                assert await feed.woken(woken, _WAIT_S), f"{task_id} never had {event}"

    def script(self, *rules: Mapping[str, object]) -> None:
        """Let the simulator take these faults in turn (see `app.simulator.faults`)."""
        load_rules(self.simulator.faults, {"script": [dict(rule) for rule in rules]})

    @asynccontextmanager
    async def stream(self, path: str, **headers: str) -> AsyncIterator[Stream]:
        """GET `path` as a live stream of events. Header names use `_` for `-`."""
        named = {"accept": "text/event-stream", **headers}
        async with opened(self.service.app, path, named) as stream:
            yield stream

    def rows(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """What the database says, read past the service."""
        if self.database_url is not None:
            with psycopg.connect(self.database_url, row_factory=dict_row) as postgres:
                asked = statement.replace("%", "%%").replace("?", "%s")
                return postgres.execute(asked.encode(), values).fetchall()
        connection = sqlite3.connect(f"file:{self.data_dir / 'bursar.db'}?mode=ro", uri=True)
        try:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, values)]
        finally:
            connection.close()

    def alter(self, statement: str) -> None:
        """Change rows behind the service's back."""
        if self.database_url is not None:
            with psycopg.connect(self.database_url) as postgres:
                postgres.execute(statement.encode())
            return
        with closing(sqlite3.connect(self.data_dir / "bursar.db")) as connection:
            connection.execute(statement)
            connection.commit()


@asynccontextmanager
async def started(
    tmp_path: Path, *, clock: Clock | None = None, **given: object
) -> AsyncIterator[Running]:
    """A service with the built-in simulator and its data in `tmp_path`; `given` are settings.

    The environment's settings count, `.env` files do not. At the end what still runs is interrupted at once,
    unless `grace_s` says otherwise.
    """
    values = {"simulator": "on", "data_dir": tmp_path, "grace_s": 0.0, "workers": 8, **given}
    chosen = settings.load(_env_file=None, **values)
    async with running(chosen, clock) as service, _client(service) as client:
        assert service.simulator is not None, "use `started_against` for another upstream"
        url = chosen.place if isinstance(chosen.place, str) else None
        yield Running(service, client, service.simulator.simulator, chosen.data_dir, url)


@asynccontextmanager
async def started_against(
    simulator: Simulator, tmp_path: Path, **given: object
) -> AsyncIterator[Running]:
    """The same against `simulator` as a foreign upstream: found by its base URL, with the configured key."""
    upstream = await start(simulator)
    try:
        async with started_at(upstream.url, simulator, tmp_path, **given) as bursar:
            yield bursar
    finally:
        await upstream.close()


@asynccontextmanager
async def started_at(
    url: str, simulator: Simulator, tmp_path: Path, **given: object
) -> AsyncIterator[Running]:
    """The same against whatever listens at `url`."""
    values = {"data_dir": tmp_path, "grace_s": 0.0, "workers": 8, **given}
    chosen = settings.load(_env_file=None, anthropic_base_url=url, **values)
    async with running(chosen) as service, _client(service) as client:
        yield Running(service, client, simulator, chosen.data_dir)


def _client(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        # A bug must become the client's 500, as it does behind a socket, and not the test's exception.
        transport=httpx.ASGITransport(app=service.app, raise_app_exceptions=False),
        base_url=BASE_URL,
        timeout=_WAIT_S,
        event_hooks={"response": [check_response]},
    )
