"""What holds for one process holds for several on one PostgreSQL: a repeated submission is one task, a limit is one limit."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.budget.keys import create_key, set_key_concurrency
from app.store.port import Tx
from app.store.postgres import PostgresStore
from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit
from tests.support.fleet import Fleet, fleet
from tests.support.process import simulator

pytestmark = pytest.mark.timeout(300)
_POSTS = 100
_ROUNDS = 3
_ANSWER_S = 0.4
_SESSION_LIMIT, _KEY_LIMIT, _OWN_LIMIT = 2, 3, 1
_ASKED = {"task": "Say hello.", "complexity": "simple"}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that all workers share; each answer takes the same time."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": _ANSWER_S, "probability": 1}]
        await set_faults(running, random=slow)
        yield running


async def test_a_hundred_posts_of_one_key_over_two_processes(
    tmp_path: Path, replica_url: str
) -> None:
    """They make one task and have one answer, whoever is asked; another body is refused by both."""
    async with fleet(tmp_path, replica_url, "http://127.0.0.1:9") as replicas:
        both = await asyncio.gather(replicas.start("api"), replicas.start("api"))
        async with replicas.client(both[0]) as first, replicas.client(both[1]) as second:
            made = [await _one_task([first, second], f"key-{n}") for n in range(_ROUNDS)]
            listed = [(await client.get("/tasks")).json()["tasks"] for client in (first, second)]
        assert [{task["id"] for task in tasks} for tasks in listed] == [set(made)] * 2
    with psycopg.connect(replica_url) as connection:
        counts = [
            connection.execute(b"SELECT COUNT(*) FROM " + table).fetchall()[0][0]
            for table in (b"tasks", b"answers", b"events WHERE type = 'task_accepted'")
        ]
    assert counts == [_ROUNDS] * 3


async def _one_task(clients: list[httpx.AsyncClient], key: str) -> str:
    """Post the same again and again, side by side; returns the task that it made."""
    headers = {"idempotency-key": key}
    answers = await asyncio.gather(
        *(
            clients[n % len(clients)].post("/tasks", json=_ASKED, headers=headers)
            for n in range(_POSTS)
        )
    )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert len({answer.headers["location"] for answer in answers}) == 1
    replayed = Counter(answer.headers.get("idempotency-replayed") for answer in answers)
    assert replayed == {None: 1, "true": _POSTS - 1}
    other = {**_ASKED, "task": "Say goodbye."}
    for client in clients:
        refused = await client.post("/tasks", json=other, headers=headers)
        assert refused.status_code == 422, refused.text
        assert refused.json()["type"] == "urn:bursar:problem:idempotency-key-reused"
    task_id: str = answers[0].json()["id"]
    return task_id


async def test_limits_of_sessions_and_keys_hold_over_two_workers(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """Never more of one session, or of one key, is in flight at the upstream than may be; less is not wasted."""
    settings = {
        "BURSAR_SESSION_CONCURRENCY": str(_SESSION_LIMIT),
        "BURSAR_KEY_CONCURRENCY": str(_KEY_LIMIT),
        "BURSAR_WORKERS": "8",
    }
    (_, wide), (_, narrow) = await _keys(replica_url)
    whose = dict[str, tuple[str, str]]()
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **settings) as replicas:
        api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(2))
        async with replicas.client(api) as client:
            for key, session, count in ((wide, "a", 8), (wide, "b", 8), (narrow, "c", 4)):
                client.headers["authorization"] = f"Bearer {key}"
                for number in range(count):
                    body = {**_ASKED, "session_id": session, **_two_steps(number)}
                    whose[await submit(client, body)] = session, key
            for key in (wide, narrow):
                client.headers["authorization"] = f"Bearer {key}"
                await all_ended(client, [task_id for task_id in whose if whose[task_id][1] == key])
        await _stop_all(replicas)
    requests = await requests_of(upstream)
    owners = [whose[request["headers"]["x-bursar-attempt"].split("/")[0]] for request in requests]
    in_flight = [
        (request, session, key) for request, (session, key) in zip(requests, owners, strict=True)
    ]
    sessions = {s: _most_at_once(r for r, session, _ in in_flight if session == s) for s in "abc"}
    keys = {k: _most_at_once(r for r, _, key in in_flight if key == k) for k in (wide, narrow)}
    assert sessions == {"a": _SESSION_LIMIT, "b": _SESSION_LIMIT, "c": _OWN_LIMIT}
    assert keys == {wide: _KEY_LIMIT, narrow: _OWN_LIMIT}
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, set(whose))
    events = [event for found in books.events.values() for event in found]
    assert len({e["data"]["worker"] for e in events if e["type"] == "task_claimed"}) == 2


def _two_steps(number: int) -> dict[str, Any]:
    """Every second task uses a tool: between its calls its place is not another's."""
    if number % 2:
        return {}
    return {"task": 'Work it out. [[sim {"steps": 1}]]', "tools": ["calculator"]}


async def _keys(url: str) -> list[tuple[str, str]]:
    """Two keys, ids and texts; the second has a limit of its own."""
    store = PostgresStore(url)

    def op(tx: Tx) -> list[tuple[str, str]]:
        made = [create_key(tx, owner, "") for owner in ("acme", "zeta")]
        set_key_concurrency(tx, made[1][0], _OWN_LIMIT)
        return made

    try:
        return await store.write(op)
    finally:
        await store.close()


def _most_at_once(requests: Iterable[dict[str, Any]]) -> int:
    """How many of these were in flight at once, at most: each was for as long as its answer took, at least."""
    changes = list[tuple[float, int]]()
    for request in requests:
        at_s = datetime.fromisoformat(request["at"]).timestamp()
        changes += [(at_s, 1), (at_s + _ANSWER_S * 0.95, -1)]
    now = most = 0
    for _, change in sorted(changes):
        now += change
        most = max(most, now)
    return most


async def _stop_all(replicas: Fleet) -> None:
    for replica in replicas.all:
        assert (await replicas.stop(replica)).code == 0
