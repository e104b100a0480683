"""kill -9 at any moment: nothing accepted is lost, nothing ends twice, no recorded answer is bought again."""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import Books, check_all, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit
from tests.support.process import Service, service, simulator

_CLOCK = SystemClock()
_POSTERS = 6
_BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 3}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
        "session_id": "shared",
    },
    {
        "task": 'At length. [[sim {"steps": 1, "answer_tokens": 200}]]',
        "tools": ["current_time"],
        "max_tokens": 9_000,
        "budget_usd": 50,  # a task that is struck again and again pays each lost answer in full
    },
]


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose bill outlives every crash of the service."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def bursar(tmp_path: Path, upstream: httpx.AsyncClient) -> AsyncIterator[Service]:
    """A service over it, not yet started."""
    settings = {
        "BURSAR_SESSION_BUDGET_USD": "500",
        "BURSAR_WORKERS": "16",
        "BURSAR_RUN_LIMIT": "1000",  # a task that is struck again and again goes on
    }
    async with service(tmp_path, str(upstream.base_url), **settings) as made:
        yield made


class _Clients:
    """Programs that keep posting, whatever happens to the service. Only what got its 202 counts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted: set[str] = set()
        self.stopping = False
        self.up = asyncio.Event()

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(_POSTERS)))

    async def _one(self, number: int) -> None:
        count = number
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=10) as client:
            while not self.stopping:
                await self.up.wait()
                with suppress(httpx.TransportError):
                    answer = await client.post("/tasks", json=_BODIES[count % len(_BODIES)])
                    assert answer.status_code == 202, answer.text
                    task_id = answer.json()["id"]
                    self.accepted.add(task_id)
                    count += 1
                    await client.get(f"/tasks/{task_id}", headers={"prefer": "wait=1"})


async def _kill_again_and_again(bursar: Service, clients: _Clients, kills: int) -> None:
    """Kill while it works, a moment after some commit; every fourth time while it starts."""
    dice = random.Random(4)  # noqa: S311  (a repeatable test, not a secret)
    for number in range(kills):
        if number % 4 == 3:
            child = await bursar.spawn()
            await _CLOCK.sleep(dice.uniform(0.2, 2.5))
        else:
            child = await bursar.start()
            clients.up.set()
            await child.lines(dice.randrange(1, 120))
            await _CLOCK.sleep(dice.uniform(0, 0.02))
        clients.up.clear()
        await child.kill()


async def _kill_loop(bursar: Service, upstream: httpx.AsyncClient, kills: int) -> Books:
    await set_faults(
        upstream, random=[{"kind": "latency", "delay_s": [0, 0.1], "probability": 1}], seed=3
    )
    clients = _Clients(bursar.url)
    posting = asyncio.create_task(clients.run())
    try:
        await _kill_again_and_again(bursar, clients, kills)
        await bursar.start()
        clients.stopping = True
        clients.up.set()
        await posting
        async with bursar.client() as client:
            await all_ended(client, clients.accepted)
    finally:
        posting.cancel()
    left = await bursar.stop()
    assert left.code == 0
    books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, clients.accepted)
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    return books


def _check_repeats(books: Books, kills: int) -> None:
    """A repeated call was in flight when the service was killed: at most one for a task and a kill."""
    billed = {line["client_reference"] for line in books.bill}
    for task_id, events in books.events.items():
        starts = Counter(e["data"]["step"] for e in events if e["type"] == "attempt_started")
        presumed = [e["run"] for e in events if e["type"] == "attempt_presumed"]
        deaths = [e for e in events if e["type"] == "task_requeued"]
        assert {e["data"]["reason"] for e in deaths} <= {"restart"}
        assert len(presumed) == len(set(presumed)), "two calls in flight in one run"
        assert len(presumed) <= len(deaths) <= kills
        repeats = sum(starts.values()) - len(starts)
        assert repeats == len(presumed), task_id
        calls = sum(reference.startswith(f"{task_id}/") for reference in billed)
        assert books.tasks[task_id]["step_count"] <= calls <= len(starts) + len(presumed)
    kinds = {line["kind"] for line in books.settlements.values()}
    assert kinds <= {"confirmed", "presumed"}
    assert books.releases == set()


@pytest.mark.timeout(240)
async def test_twenty_kills(bursar: Service, upstream: httpx.AsyncClient) -> None:
    """Twenty kills at random moments, start-up included."""
    books = await _kill_loop(bursar, upstream, 20)
    _check_repeats(books, 20)
    _check_kills_hit(books, calls=20, tasks=60)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_two_hundred_kills(bursar: Service, upstream: httpx.AsyncClient) -> None:
    """The same with two hundred kills."""
    books = await _kill_loop(bursar, upstream, 200)
    _check_repeats(books, 200)
    _check_kills_hit(books, calls=200, tasks=600)


def _check_kills_hit(books: Books, *, calls: int, tasks: int) -> None:
    """The kills struck calls in flight, and there was something to lose."""
    kinds = Counter(line["kind"] for line in books.settlements.values())
    assert kinds["presumed"] >= calls
    assert len(books.tasks) >= tasks


async def test_killed_right_after_the_202(bursar: Service, upstream: httpx.AsyncClient) -> None:
    """A task is durable the moment its client has the 202; of another one, only the call in flight is repeated."""
    slow = {"kind": "latency", "delay_s": 60}
    await set_faults(upstream, {"kind": "none", "repeat": 2}, slow)
    child = await bursar.start()
    async with bursar.client() as client:
        task_id = await submit(client, _BODIES[1])
        await _until_asked(upstream, f"{task_id}/3/1")
        fresh_id = await submit(client, _BODIES[0])
        await child.kill()
    await bursar.start()
    async with bursar.client() as client:
        task, fresh = await all_ended(client, [task_id, fresh_id])
    await bursar.stop()
    assert (task["outcome"], task["steps"], task["runs"]) == ("answered", 4, 2)
    assert (fresh["outcome"], fresh["steps"]) == ("answered", 1)
    bill = await bill_of(upstream)
    asked = {(line["client_reference"], line["status"]) for line in bill["lines"]}
    assert {(reference, status) for reference, status in asked if task_id in reference} == {
        (f"{task_id}/1/1", "delivered"),
        (f"{task_id}/2/1", "delivered"),
        (f"{task_id}/3/1", "cut"),
        (f"{task_id}/3/2", "delivered"),
        (f"{task_id}/4/1", "delivered"),
    }
    books = read_books(bursar.database, bill)
    check_all(books, {task_id, fresh_id})
    assert books.settlements[f"{task_id}/3/1"]["kind"] == "presumed"
    _check_repeats(books, 1)


async def _until_asked(upstream: httpx.AsyncClient, reference: str) -> None:
    while True:
        for request in await requests_of(upstream):
            if request["headers"].get("x-bursar-attempt") == reference:
                return


async def test_killed_between_tool_steps(bursar: Service, upstream: httpx.AsyncClient) -> None:
    """Killed as soon as a tool has begun, twice: no answer is asked for twice."""
    child = await bursar.start()
    many = {**_BODIES[1], "task": 'Work. [[sim {"steps": 3, "parallel": 20}]]'}
    async with bursar.client() as client:
        task_ids = {await submit(client, many) for _ in range(3)}
    for _ in range(2):
        await child.line(lambda line: '"event":"tool_started"' in line)
        await child.kill()
        child = await bursar.start()
    async with bursar.client() as client:
        tasks = await all_ended(client, task_ids)
    await bursar.stop()
    assert {(task["outcome"], task["steps"]) for task in tasks} == {("answered", 4)}
    books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, task_ids)
    _check_repeats(books, 2)
    _check_tools(books)


def _check_tools(books: Books) -> None:
    """Every tool call the model made has exactly one result; one that was cut off may say so."""
    for events in books.events.values():
        begun = [e["data"]["call_id"] for e in events if e["type"] == "tool_started"]
        finished = [e["data"]["call_id"] for e in events if e["type"] == "tool_finished"]
        assert len(set(begun)) == len(begun) == 60
        assert sorted(finished) == sorted(begun)


@pytest.mark.timeout(180)
async def test_a_task_that_always_crashes_is_given_up(
    bursar: Service, upstream: httpx.AsyncClient
) -> None:
    """Killed in its first call each time: after so many runs without a step it has failed, every lost call is booked."""
    bursar.env["BURSAR_RUN_LIMIT"] = "2"
    await set_faults(upstream, {"kind": "latency", "delay_s": 60, "repeat": 9})
    await bursar.start()
    async with bursar.client() as client:
        task_id = await submit(client, _BODIES[0])
    for attempt in (1, 2):
        await _until_asked(upstream, f"{task_id}/1/{attempt}")
        await bursar.child.kill()
        await bursar.start()
    async with bursar.client() as client:
        (task,) = await all_ended(client, [task_id])
    await bursar.stop()
    assert (task["status"], task["outcome"]) == ("failed", "crashed_repeatedly")
    assert (task["runs"], task["steps"]) == (2, 0)
    assert "2 runs in a row" in task["error"]["message"]
    books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, {task_id})
    assert [line["kind"] for line in books.settlements.values()] == ["presumed", "presumed"]
