"""SIGTERM to an API and workers on one PostgreSQL, under load and without the database: in time, nothing lost or paid twice."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.domain.clock import SystemClock
from app.queue.dispatch import Dispatch
from app.store.postgres_schema import prepare
from tests.acceptance.books import Books, check_all, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.postgres import Server, server
from tests.support.process import simulator

_CLOCK = SystemClock()
_GRACE_S = 2.0
_BOUND_S = 30.0
"""No stop takes longer than this, though the database is away: what waits for it gives up before."""
_POSTERS = 4
_SETTINGS = {
    "BURSAR_SESSION_BUDGET_USD": "500",
    "BURSAR_WORKERS": "8",
    "BURSAR_GRACE_S": str(_GRACE_S),
}
_BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 2}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
        "session_id": "shared",
    },
]
_FOREVER = {"task": "Take forever.", "complexity": "simple"}
_SLOW = {"kind": "latency", "delay_s": 60, "prompt_contains": "forever", "probability": 1}
_USUAL = {"kind": "latency", "delay_s": [0.05, 0.3], "probability": 1}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that is not stopped with the replicas; some answers take longer than the grace."""
    async with simulator(tmp_path) as running:
        await set_faults(running, random=[_SLOW, _USUAL], seed=5)
        yield running


class _Clients:
    """Programs that keep posting; from the stop on they may only hear that the service stops, or nothing."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted = set[str]()
        self.stopping = False

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(_POSTERS)))

    async def _one(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=20) as client:
            while not self.stopping:
                with suppress(httpx.TransportError):
                    await self._post(client, _BODIES[number % len(_BODIES)])
                number += 1

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        answer = await client.post("/tasks", json=body)
        if answer.status_code == 202:
            self.accepted.add(answer.json()["id"])
            await client.get(answer.headers["location"], headers={"prefer": "wait=1"})
            return
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "urn:bursar:problem:stopping"
        assert int(answer.headers["retry-after"]) > 0
        self.stopping = True


async def _stop_all(replicas: Fleet, bound_s: float) -> list[float]:
    """SIGTERM to every process at once; how long each took, in seconds."""

    async def one(replica: Replica, begun_s: float) -> float:
        left = await replica.child.ended(bound_s)
        assert (left.code, left.err) == (0, "")
        return _CLOCK.monotonic_s() - begun_s

    running = [replica for replica in replicas.all if replica.child.running]
    for replica in running:
        replica.child.send(signal.SIGTERM)
    begun_s = _CLOCK.monotonic_s()
    return await asyncio.gather(*(one(replica, begun_s) for replica in running))


async def _forever(replicas: Fleet, api: Replica, upstream: httpx.AsyncClient) -> set[str]:
    """Two tasks whose calls are in flight, and stay so."""
    async with replicas.client(api) as client:
        found = {await submit(client, _FOREVER) for _ in range(2)}
    async with asyncio.timeout(60):
        while not found <= {
            request["headers"]["x-bursar-attempt"].split("/")[0]
            for request in await requests_of(upstream)
        }:
            await _CLOCK.sleep(0.05)
    return found


async def _finished_by_others(
    replicas: Fleet, url: str, upstream: httpx.AsyncClient, accepted: set[str]
) -> Books:
    """New replicas bring every task to its end; then both sides' books agree."""
    await set_faults(upstream)
    with psycopg.connect(url) as connection:  # some may have been accepted without hearing of it
        accepted |= {row[0] for row in connection.execute(b"SELECT id FROM tasks").fetchall()}
    api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(1))
    async with replicas.client(api) as client:
        await all_ended(client, accepted)
    await _stop_all(replicas, _BOUND_S)
    books = read_books(url, await bill_of(upstream))
    check_all(books, accepted)
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    return books


def _interrupted(books: Books) -> set[str]:
    """Tasks of which a call was broken off."""
    lines = books.settlements.items()
    return {attempt.split("/")[0] for attempt, line in lines if line["kind"] != "confirmed"}


@pytest.mark.timeout(300)
async def test_sigterm_under_load(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """All are asked to go at once: each exits with 0 within the grace, only what outlasts it is broken off."""
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **_SETTINGS) as replicas:
        api, workers = await asyncio.gather(replicas.start("api"), replicas.workers(2))
        forever = await _forever(replicas, api, upstream)
        clients = _Clients(api.url)
        posting = asyncio.create_task(clients.run())
        try:
            await asyncio.gather(*(worker.child.lines(40, timeout_s=60) for worker in workers))
            took_s = await _stop_all(replicas, _BOUND_S)
            clients.stopping = True
            await posting
        finally:
            posting.cancel()
        clients.accepted |= forever
        books = await _finished_by_others(replicas, replica_url, upstream, clients.accepted)
    assert _interrupted(books) <= forever, "what could end within the grace was broken off"
    events = [event for found in books.events.values() for event in found]
    again = Counter(e["data"]["reason"] for e in events if e["type"] == "task_requeued")
    assert set(again) == {"drain"}
    sys.stdout.write(
        f"3 processes stopped within {max(took_s):.1f} s (grace {_GRACE_S} s), {len(books.tasks)} tasks,"
        f" {len(books.settlements)} calls, handed back {again['drain']}\n"
    )


@pytest.fixture
def own() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped."""
    with server() as running:
        yield running


@pytest.mark.long
@pytest.mark.timeout(400)
@pytest.mark.parametrize("silent", [False, True], ids=["gone", "silent"])
async def test_a_stop_without_the_database(
    tmp_path: Path, own: Server, upstream: httpx.AsyncClient, *, silent: bool
) -> None:
    """It is away when they are asked to go: they end all the same, before long; others go on once it is back."""
    away, back = (own.freeze, own.thaw) if silent else (own.stop, own.start)
    prepare(url := own.create())
    Dispatch.prepare(url)
    async with fleet(tmp_path, url, str(upstream.base_url), **_SETTINGS) as replicas:
        api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(1))
        accepted = await _forever(replicas, api, upstream)
        async with replicas.client(api) as client:
            accepted |= {await submit(client, body) for body in _BODIES * 10}
        away()
        took_s = await _stop_all(replicas, _BOUND_S)
        back()
        await _finished_by_others(replicas, url, upstream, accepted)
    sys.stdout.write(
        f"2 processes stopped within {max(took_s):.1f} s, PostgreSQL {'silent' if silent else 'gone'}\n"
    )
