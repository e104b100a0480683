"""An API and workers in processes of their own on one PostgreSQL: what one does, the others hear of."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.store.postgres import READER_THREADS
from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import (
    all_ended,
    bill_of,
    ended,
    events_of,
    requests_of,
    set_faults,
    submit,
)
from tests.acceptance.tickets import connections, executors
from tests.support.fleet import Fleet, fleet
from tests.support.hints import hints
from tests.support.process import run, simulator

pytestmark = pytest.mark.timeout(900)
_FOLLOWERS = 40
HANG = {"kind": "timeout", "repeat": 1_000}
_SLOW = [{"kind": "latency", "delay_s": [0.2, 0.3], "probability": 1}]
_SOON_S = 25
"""Within this what takes a heartbeat of a second and a moment has come about, on a busy machine, too."""
HELLO: dict[str, Any] = {"task": "Say hello.", "complexity": "simple"}
TOOLS: dict[str, Any] = {
    "task": 'Work it out. [[sim {"steps": 3, "parallel": 2}]]',
    "complexity": "simple",
    "tools": ["calculator", "text_stats"],
}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that all workers share."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def replicas(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> AsyncIterator[Fleet]:
    """No replica runs yet."""
    async with fleet(tmp_path, replica_url, str(upstream.base_url), BURSAR_WORKERS="8") as made:
        yield made


async def test_tasks_run_elsewhere_and_are_followed_here(replicas, upstream, replica_url):
    """Two workers share the work, each as an executor of its own; the API that runs nothing waits, streams and lists."""
    api, *_ = await asyncio.gather(replicas.start("api"), replicas.workers(2))
    async with replicas.client(api) as client:
        answer = await client.post("/tasks", json=TOOLS, headers={"prefer": "wait=30"})
        assert answer.status_code == 200, answer.text
        assert answer.json()["outcome"] == "answered"
        ids = [await submit(client, TOOLS) for _ in range(20)]
        await _followed_by_many(client, ids[-1], replica_url)
        tasks = await all_ended(client, ids)
    assert {task["outcome"] for task in tasks} == {"answered"}
    took_tickets = executors(replica_url)
    for replica in replicas.all:
        assert (await replicas.stop(replica)).code == 0
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, set(ids))
    claims = [
        e["data"]["worker"]
        for es in books.events.values()
        for e in es
        if e["type"] == "task_claimed"
    ]
    assert len(set(claims)) == 2, "both workers had their share"
    assert took_tickets == set(claims), "and each is an executor of its own"


async def _followed_by_many(client: httpx.AsyncClient, task_id: str, url: str) -> None:
    """All followers of a task see all of it; each process listens once, and reads over as many connections as always."""
    all_there = asyncio.Barrier(_FOLLOWERS + 1)
    following = asyncio.gather(*(_followed(client, task_id, all_there) for _ in range(_FOLLOWERS)))
    await all_there.wait()
    assert connections(url, "bursar-listener") == 3
    assert connections(url, "bursar") <= 3 * (READER_THREADS + 1)
    for names in await following:
        assert (names[0], names[-1]) == ("task_accepted", "task_finished")
        assert names.count("model_answered") == 4


async def _followed(
    client: httpx.AsyncClient, task_id: str, all_there: asyncio.Barrier
) -> list[str]:
    """Names of the task's events, to its end; the first one is waited with until everybody has it."""
    names = list[str]()
    async with client.stream(
        "GET", f"/tasks/{task_id}/events", headers={"accept": "text/event-stream"}
    ) as stream:
        async for line in stream.aiter_lines():
            if line.startswith("event: "):
                names.append(line[7:])
                if len(names) == 1:
                    await all_there.wait()
    return names


async def test_a_cancel_reaches_the_worker_that_runs_the_task(replicas, upstream):
    """The call's socket is closed within a moment, what it may have cost is booked, the task ends as cancelled."""
    await set_faults(upstream, HANG)
    api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(1))
    async with replicas.client(api) as client:
        await _cancel_in_mid_call(client, upstream, 4)  # by its hint: the poll comes after 5 s


async def test_a_worker_answers_probes_and_nothing_else(replicas):
    """It is not an API: no task can be posted to it."""
    (worker,) = await replicas.workers(1)
    async with replicas.client(worker) as client:
        for path in ("/healthz", "/readyz", "/metrics"):
            assert (await client.get(path)).status_code == 200, path
        assert (await client.post("/tasks", json=HELLO)).status_code == 404
    env = {**replicas.env, "BURSAR_PORT": str(worker.port)}
    assert (await run("healthcheck", cwd=replicas.folder, env=env, timeout_s=120)).code == 0


@pytest.mark.parametrize("role", ["api", "worker"])
async def test_a_part_of_the_service_needs_the_shared_database(tmp_path, role):
    """One clear sentence, and the exit code of wrong settings."""
    left = await run(role, cwd=tmp_path, env={"BURSAR_SIMULATOR": "on"}, timeout_s=120)
    assert left.code == 2
    assert "BURSAR_DATABASE_URL" in left.err
    assert len(left.err.splitlines()) == 1


async def test_what_another_process_did_is_found_without_hints(tmp_path, replica_url, upstream):
    """A budget freed by one worker lets another go on, with hints and without; so are streams and cancels.

    Without any it takes a heartbeat longer, where it would take half a minute if nobody looked.
    """
    settings = {
        "BURSAR_WORKERS": "3",
        "BURSAR_HEARTBEAT_S": "1",
        "BURSAR_PARK_AFTER_S": str(2 * _SOON_S),
    }
    await set_faults(upstream, random=_SLOW)
    with hints(replica_url) as told:
        async with fleet(tmp_path, replica_url, str(upstream.base_url), **settings) as replicas:
            api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(2))
            async with replicas.client(api) as client:
                ids = await _share_a_budget(client, "told")
                assert told.heard
                told.lose()
                async with asyncio.timeout(_SOON_S):
                    ids |= await _share_a_budget(client, "untold")
                ids.add(await _follow_to_the_end(client))
                await set_faults(upstream, HANG)
                ids.add(await _cancel_in_mid_call(client, upstream, _SOON_S))
                assert not told.heard, "a hint came through"
            for replica in replicas.all:
                assert (await replicas.stop(replica)).code == 0
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, ids)
    for session in ("told", "untold"):
        tasks = {t for t, row in books.tasks.items() if row["session_id"] == session}
        events = [event for task in tasks for event in books.events[task]]
        assert any(e["type"] == "reservation_waited" for e in events), "nobody stood in the way"
        assert len({e["data"]["worker"] for e in events if e["type"] == "task_claimed"}) == 2


async def _share_a_budget(client: httpx.AsyncClient, session: str) -> set[str]:
    """Six tasks whose reservations stand in each other's way: the session has money for one at a time."""
    body = {**HELLO, "session_id": session, "max_tokens": 2_000}
    first = await submit(client, body)
    cost_usd = (await ended(client, first))["cost_usd"]
    held = [e for e in await events_of(client, first) if e["type"] == "attempt_started"]
    budget_usd = round(cost_usd * 8 + held[0]["data"]["reserved_usd"], 6)
    put = await client.put(f"/sessions/{session}/budget", json={"budget_usd": budget_usd})
    assert put.status_code == 200, put.text
    ids = [await submit(client, body) for _ in range(6)]
    tasks = await all_ended(client, ids)
    assert {task["outcome"] for task in tasks} == {"answered"}
    return {first, *ids}


async def _follow_to_the_end(client: httpx.AsyncClient) -> str:
    """Every event comes, and none so late that the stream had to be kept alive meanwhile."""
    task_id = await submit(client, TOOLS)
    async with client.stream(
        "GET", f"/tasks/{task_id}/events", headers={"accept": "text/event-stream"}
    ) as stream:
        lines = [line async for line in stream.aiter_lines()]
    assert [line for line in lines if line.startswith(":")] == []
    names = [line[7:] for line in lines if line.startswith("event: ")]
    assert names == [event["type"] for event in await events_of(client, task_id)]
    return task_id


async def _cancel_in_mid_call(
    client: httpx.AsyncClient, upstream: httpx.AsyncClient, within_s: float
) -> str:
    """Its call hangs; it is cancelled, and what the call may have cost is booked."""
    met = len(await requests_of(upstream))
    task_id = await submit(client, HELLO)
    while len(await requests_of(upstream)) == met:
        await asyncio.to_thread(lambda: None)
    answer = await client.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code == 202
    async with asyncio.timeout(within_s):
        task = await ended(client, task_id)
    assert task["status"] == "cancelled"
    assert task["cost_usd"] > 0
    return task_id
