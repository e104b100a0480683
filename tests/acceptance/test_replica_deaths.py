"""Workers that are killed, frozen and replaced on one PostgreSQL: nothing is lost, nothing ends twice, no budget is passed."""

import asyncio
import logging
import math
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.domain.clock import US_PER_S, SystemClock
from tests.acceptance.books import Books, check_all, read_books
from tests.acceptance.client import (
    all_ended,
    bill_of,
    ended,
    events_of,
    requests_of,
    set_faults,
    submit,
)
from tests.acceptance.several import POSTERS, Clients
from tests.acceptance.tickets import executors
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.process import simulator

_CLOCK = SystemClock()
_WORKER = re.compile(r'"worker":"(worker_\w+)"')
_log = logging.getLogger(__name__)
_BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 3}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
        "session_id": "shared",
    },
]
SHORT_LEASE = {"BURSAR_LEASE_S": "6", "BURSAR_HEARTBEAT_S": "1.5"}
"""Long enough for a busy machine; nobody who lives may lose it."""
_LONG_LEASE = {"BURSAR_LEASE_S": "600", "BURSAR_HEARTBEAT_S": "300", "BURSAR_WORKERS": "4"}
"""No heartbeat and no free slot tells it that it has lost the lease: nothing but its writes can."""
_TIGHT_ENDS = {"answered", "budget_exhausted", "truncated"}
_API_DIES_EVERY = 10
"""So many deaths of workers to one of an API."""
ROOMY = {"BURSAR_SESSION_BUDGET_USD": "500", "BURSAR_WORKERS": "8", "BURSAR_RUN_LIMIT": "50"}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that outlives every worker; its answers take a moment."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": [0, 0.3], "probability": 1}]
        await set_faults(running, random=slow, seed=5)
        yield running


@asynccontextmanager
async def _posting(*apis: Replica, posters: int = POSTERS) -> AsyncIterator[Clients]:
    """Work comes in during the block; after it every accepted task has ended. What a poster is told wrong ends the block."""
    clients = Clients(_BODIES, posters)
    for api in apis:
        clients.add(api)
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(clients.run())
            yield clients
            clients.stopping = True
        await clients.all_ended()
    finally:
        await clients.close()


async def _books(
    replicas: Fleet,
    url: str,
    upstream: httpx.AsyncClient,
    accepted: set[str],
    *,
    tight: frozenset[str] = frozenset(),
) -> Books:
    """Everybody is stopped in good order; then everything must add up. Of the `tight` ones money ended some."""
    for replica in replicas.all:
        if replica.child.running:
            assert (await replicas.stop(replica)).code == 0
    books = read_books(url, await bill_of(upstream))
    check_all(books, accepted)
    ends = {task_id: task["outcome"] for task_id, task in books.tasks.items()}
    assert {ends[task_id] for task_id in ends.keys() - tight} == {"answered"}
    assert {ends[task_id] for task_id in tight} <= _TIGHT_ENDS
    assert not tight or "budget_exhausted" in ends.values(), "the money was enough for all of them"
    return books


async def _tight(client: httpx.AsyncClient) -> frozenset[str]:
    """Tasks of a session whose budget pays for a few of them."""
    asked = {**_BODIES[1], "session_id": "tight", "max_tokens": 500}
    first = await ended(client, await submit(client, asked))
    begun = [e for e in await events_of(client, first["id"]) if e["type"] == "attempt_started"]
    budget_usd = round(3 * first["cost_usd"] + begun[-1]["data"]["reserved_usd"], 6)
    put = await client.put("/sessions/tight/budget", json={"budget_usd": budget_usd})
    assert put.status_code == 200, put.text
    return frozenset([first["id"], *[await submit(client, asked) for _ in range(10)]])


async def _kill_again_and_again(
    replicas: Fleet, workers: list[Replica], kills: int, apis: list[Replica], clients: Clients
) -> dict[str, int]:
    """One of the workers dies at a random moment, and another one takes its place; returns who died when.

    Now and then one of the APIs dies as well.
    """
    dice, deaths_us = random.Random(7), dict[str, int]()  # noqa: S311  (a repeatable test, not a secret)
    for number in range(kills):
        victim = dice.choice(workers)
        with suppress(TimeoutError):
            await victim.child.lines(dice.randrange(1, 40), timeout_s=10)
        await _CLOCK.sleep(dice.uniform(0, 0.02))
        died_us = _CLOCK.now_us()
        left = await victim.child.kill()
        deaths_us |= dict.fromkeys(_WORKER.findall(left.out), died_us)
        workers.remove(victim)
        starting = asyncio.create_task(replicas.start("worker"))
        if number % _API_DIES_EVERY == 0:
            await _kill_api(replicas, apis, clients)
        workers.append(await starting)
    return deaths_us


async def _kill_api(replicas: Fleet, apis: list[Replica], clients: Clients) -> None:
    """The older one dies with requests in its hands, and another one takes its place."""
    victim = apis.pop(0)
    clients.leaves(victim)
    await victim.child.kill()
    await clients.forget(victim)
    apis.append(await replicas.start("api"))
    clients.add(apis[-1])


async def _kill_loop(
    folder: Path, url: str, upstream: httpx.AsyncClient, kills: int, **settings: str
) -> tuple[Books, list[float]]:
    async with fleet(folder, url, str(upstream.base_url), **ROOMY, **settings) as replicas:
        apis, workers = await asyncio.gather(replicas.several("api", 2), replicas.workers(3))
        async with _posting(*apis) as clients:
            deaths_us = await _kill_again_and_again(replicas, workers, kills, apis, clients)
        books = await _books(replicas, url, upstream, clients.accepted)
    assert set(books.tasks) == clients.accepted, "a post that was made again made another task"
    return books, _takeovers_s(books, deaths_us)


def _takeovers_s(books: Books, deaths_us: dict[str, int]) -> list[float]:
    """How long after its worker's death each orphan was claimed by another one, sorted."""
    found = []
    for events in books.events.values():
        worker, died_us = "", math.inf
        for event in events:
            if event["type"] == "task_claimed":
                worker = event["data"]["worker"]
                if died_us < math.inf:
                    found.append((event["at_us"] - died_us) / US_PER_S)
                died_us = math.inf
            expired = (
                event["type"] == "task_requeued" and event["data"]["reason"] == "lease_expired"
            )
            # A busy machine lets living ones miss heartbeats, too, the later victims among them.
            if expired and event["at_us"] >= deaths_us.get(worker, math.inf):
                died_us = deaths_us[worker]
    return sorted(found)


def _percentile(values: list[float], percent: int) -> float:
    return values[min(len(values) * percent // 100, len(values) - 1)]


@pytest.mark.timeout(900)
async def test_two_of_three_workers_are_killed(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """kill -9 while they work: the third goes on with what they ran, from the last step, after lease and a moment.

    One of them took tasks in, too, and dies before it has handed in the tickets of the last ones: others do.
    Half of the tasks share a budget that cannot pay for all of them: whoever dies, its bill stays within.
    """
    env = {**ROOMY, **SHORT_LEASE}
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **env) as replicas:
        api, both, (worker, _) = await asyncio.gather(
            replicas.start("api"), replicas.start("serve"), replicas.workers(2)
        )
        async with replicas.client(api) as client, replicas.client(both) as other:
            tight = await _tight(client)
            ids = {*tight} | {await submit(client, _BODIES[0]) for _ in range(20)}
            deaths_us = await _killed_at_work(worker)
            with _no_ticket_passes(replica_url) as tickets:
                lost = {await submit(other, _BODIES[0]) for _ in range(3)}
                deaths_us |= await _killed_at_work(both)
                assert not lost & tickets()
            await all_ended(client, ids | lost)
        books = await _books(replicas, replica_url, upstream, ids | lost, tight=tight)
    takeovers_s = _takeovers_s(books, deaths_us)
    assert takeovers_s, "no kill struck a running task"
    assert _percentile(takeovers_s, 50) < 20


async def _killed_at_work(victim: Replica) -> dict[str, int]:
    """It has begun a call; returns the names of the workers it was, and when it died."""
    await victim.child.line(lambda line: '"event":"attempt_started"' in line, timeout_s=120)
    died_us = _CLOCK.now_us()
    left = await victim.child.kill()
    return dict.fromkeys(_WORKER.findall(left.out), died_us)


@contextmanager
def _no_ticket_passes(url: str) -> Iterator[Callable[[], set[str]]]:
    """Nobody can hand in a ticket, or take one, during the block; yields what reads the tickets that are there."""
    with psycopg.connect(url) as connection:
        connection.execute(b"LOCK TABLE dbos.workflow_status IN EXCLUSIVE MODE")

        def tickets() -> set[str]:
            found = connection.execute(b"SELECT workflow_uuid FROM dbos.workflow_status")
            return {row[0] for row in found.fetchall()}

        yield tickets


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_a_hundred_kills(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """The same a hundred times, with the lease as it is by default; logs how long takeovers took."""
    _, takeovers_s = await _kill_loop(tmp_path, replica_url, upstream, 100)
    p50_s, p99_s = _percentile(takeovers_s, 50), _percentile(takeovers_s, 99)
    _log.info("%d takeovers: p50 %.1f s, p99 %.1f s", len(takeovers_s), p50_s, p99_s)
    assert p50_s <= 20
    assert p99_s <= 30


@pytest.mark.timeout(900)
async def test_a_frozen_worker_changes_nothing_when_it_wakes(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """SIGSTOP in mid-call, SIGCONT once others have finished its tasks: its writes are refused, it spends nothing more.

    It has a long lease, and believes in it when it wakes: nothing but the run's number refuses the answers that
    have come meanwhile. They turn what was presumed spent into what it was.
    """
    env = {**ROOMY, **SHORT_LEASE}
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **env) as replicas:
        api, frozen = await asyncio.gather(
            replicas.start("api"), replicas.start("worker", settings=_LONG_LEASE)
        )
        slow = {"kind": "latency", "delay_s": 4, "repeat": 4}
        await set_faults(upstream, slow)
        async with replicas.client(api) as client:
            ids = {await submit(client, _BODIES[1]) for _ in range(4)}
            await _until_asked(upstream, ids)
            frozen.child.send(signal.SIGSTOP)
            successor = await replicas.start("worker")
            await all_ended(client, ids)
            asked = len(await requests_of(upstream))
            assert (await replicas.stop(successor)).code == 0
            frozen.child.send(signal.SIGCONT)
            await _until_said(frozen, "late_answer", 4)
            await _until_said(frozen, "run_stale", 1)
            later = await submit(client, _BODIES[0])  # its claim is refused: it takes a new lease
            await all_ended(client, {later})
            assert len(await requests_of(upstream)) == asked + 1, "the stale runs asked again"
        books = await _books(replicas, replica_url, upstream, {*ids, later})
    for task_id in ids:
        assert books.tasks[task_id]["run_count"] == 2
        writers = [event["run"] for event in books.events[task_id]]
        assert writers == sorted(writers), "a stale run wrote after its successor had begun"
        assert [e["type"] for e in books.events[task_id]].count("attempt_presumed") == 1
        assert books.settlements[f"{task_id}/1/1"]["kind"] == "confirmed"


async def _until_asked(upstream: httpx.AsyncClient, ids: set[str]) -> None:
    while True:
        found = {
            r["headers"].get("x-bursar-attempt", "").split("/")[0]
            for r in await requests_of(upstream)
        }
        if ids <= found:
            return
        await _CLOCK.sleep(0.05)


async def _until_said(replica: Replica, event: str, count: int) -> None:
    """Its log has that line so many times."""
    after, found = 0, f'"event":"{event}"'
    for _ in range(count):
        after = 1 + await replica.child.line(lambda line: found in line, after=after, timeout_s=120)


async def _leave(replicas: Fleet, clients: Clients, *leaving: Replica) -> None:
    """They go in good order; programs know them no more."""
    clients.leaves(*leaving)
    for left in await asyncio.gather(*map(replicas.stop, leaving)):
        assert (left.code, left.err) == (0, "")
    await clients.forget(*leaving)


async def _until(reached: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not reached():
            await _CLOCK.sleep(0.02)


@pytest.mark.timeout(900)
async def test_a_rolling_restart_loses_and_repeats_nothing(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """Three replicas are asked to go and two take their place, while work comes in: no task fails, no answer is bought twice.

    No client hears of an error but from a replica that is leaving, and that one only says so.
    """
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **ROOMY) as replicas:
        (first, second), (worker,) = await asyncio.gather(
            replicas.several("serve", 2), replicas.workers(1)
        )
        async with _posting(first, second, posters=2) as clients:
            for leaving in ((first,), (worker, second)):
                await leaving[0].child.lines(20, timeout_s=120)
                clients.add(await replicas.start("serve"))
                await _leave(replicas, clients, *leaving)
            had = len(clients.accepted)
            await _until(lambda: len(clients.accepted) >= had + 8)
        took_tickets = executors(replica_url)
        books = await _books(replicas, replica_url, upstream, clients.accepted)
        names = [set(_WORKER.findall("\n".join(one.child.out))) for one in replicas.all]
    assert sum(map(len, names)) == len(set().union(*names)), "one that starts anew is another one"
    assert took_tickets <= set().union(*names), "and an executor of its own"
    assert set(books.tasks) == clients.accepted, "a post that was made again made another task"
    kinds = Counter(line["kind"] for line in books.settlements.values())
    assert set(kinds) == {"confirmed"}, "a stop in good order interrupts no call"
    reasons = {
        e["data"]["reason"]
        for es in books.events.values()
        for e in es
        if e["type"] == "task_requeued"
    }
    assert reasons <= {"drain"}
