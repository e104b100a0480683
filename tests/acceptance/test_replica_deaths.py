"""Workers that are killed, frozen and replaced on one PostgreSQL: nothing is lost, nothing ends twice, no budget is passed."""

import asyncio
import logging
import math
import random
import re
import signal
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import US_PER_S, SystemClock
from tests.acceptance.books import Books, check_all, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.process import simulator

_CLOCK = SystemClock()
_WORKER = re.compile(r'"worker":"(worker_\w+)"')
_log = logging.getLogger(__name__)
_POSTERS = 4
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
ROOMY = {"BURSAR_SESSION_BUDGET_USD": "500", "BURSAR_WORKERS": "8", "BURSAR_RUN_LIMIT": "50"}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that outlives every worker; its answers take a moment."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": [0, 0.3], "probability": 1}]
        await set_faults(running, random=slow, seed=5)
        yield running


@dataclass
class _Clients:
    """Programs that keep posting to the API. Only what got its 202 counts."""

    client: httpx.AsyncClient
    accepted: set[str]
    stopping: bool = False

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(_POSTERS)))

    async def _one(self, number: int) -> None:
        while not self.stopping:
            task_id = await submit(self.client, _BODIES[number % len(_BODIES)])
            self.accepted.add(task_id)
            number += 1
            await self.client.get(f"/tasks/{task_id}", headers={"prefer": "wait=1"})


@asynccontextmanager
async def _posting(replicas: Fleet, api: Replica) -> AsyncIterator[_Clients]:
    """Work comes in during the block; after it every accepted task has ended."""
    async with replicas.client(api) as client:
        clients = _Clients(client, set())
        posting = asyncio.create_task(clients.run())
        try:
            yield clients
            clients.stopping = True
            await posting
            await all_ended(client, clients.accepted)
        finally:
            posting.cancel()


async def _books(
    replicas: Fleet, url: str, upstream: httpx.AsyncClient, accepted: set[str]
) -> Books:
    """Everybody is stopped in good order; then everything must add up."""
    for replica in replicas.all:
        if replica.child.running:
            assert (await replicas.stop(replica)).code == 0
    books = read_books(url, await bill_of(upstream))
    check_all(books, accepted)
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    return books


async def _kill_again_and_again(
    replicas: Fleet, workers: list[Replica], kills: int
) -> dict[str, int]:
    """One of the workers dies at a random moment, and another one takes its place; returns who died when."""
    dice, deaths_us = random.Random(7), dict[str, int]()  # noqa: S311  (a repeatable test, not a secret)
    for _ in range(kills):
        victim = dice.choice(workers)
        with suppress(TimeoutError):
            await victim.child.lines(dice.randrange(1, 40), timeout_s=10)
        await _CLOCK.sleep(dice.uniform(0, 0.02))
        died_us = _CLOCK.now_us()
        left = await victim.child.kill()
        deaths_us |= dict.fromkeys(_WORKER.findall(left.out), died_us)
        workers.remove(victim)
        workers.append(await replicas.start("worker"))
    return deaths_us


async def _kill_loop(
    folder: Path, url: str, upstream: httpx.AsyncClient, kills: int, **settings: str
) -> tuple[Books, list[float]]:
    async with fleet(folder, url, str(upstream.base_url), **ROOMY, **settings) as replicas:
        api, workers = await asyncio.gather(replicas.start("api"), replicas.workers(3))
        async with _posting(replicas, api) as clients:
            deaths_us = await _kill_again_and_again(replicas, workers, kills)
        books = await _books(replicas, url, upstream, clients.accepted)
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
    """kill -9 while they work: the third goes on with what they ran, from the last step, after lease and a moment."""
    env = {**ROOMY, **SHORT_LEASE}
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **env) as replicas:
        api, (first, second, _) = await asyncio.gather(replicas.start("api"), replicas.workers(3))
        async with replicas.client(api) as client:
            ids = {await submit(client, _BODIES[number % 2]) for number in range(40)}
            deaths_us = dict[str, int]()
            for victim in (first, second):
                await victim.child.line(
                    lambda line: '"event":"attempt_started"' in line, timeout_s=120
                )
                died_us = _CLOCK.now_us()
                left = await victim.child.kill()
                deaths_us |= dict.fromkeys(_WORKER.findall(left.out), died_us)
            await all_ended(client, ids)
        books = await _books(replicas, replica_url, upstream, ids)
    takeovers_s = _takeovers_s(books, deaths_us)
    assert takeovers_s, "no kill struck a running task"
    assert _percentile(takeovers_s, 50) < 20


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


@pytest.mark.timeout(900)
async def test_a_rolling_restart_loses_and_repeats_nothing(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """Each worker is asked to go and replaced, while work comes in: no task fails, no answer is bought twice."""
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **ROOMY) as replicas:
        api, workers = await asyncio.gather(replicas.start("api"), replicas.workers(2))
        async with _posting(replicas, api) as clients:
            for worker in workers:
                await worker.child.lines(20, timeout_s=120)
                await replicas.start("worker")
                assert (await replicas.stop(worker)).code == 0
        books = await _books(replicas, replica_url, upstream, clients.accepted)
    kinds = Counter(line["kind"] for line in books.settlements.values())
    assert set(kinds) == {"confirmed"}, "a stop in good order interrupts no call"
    reasons = {
        e["data"]["reason"]
        for es in books.events.values()
        for e in es
        if e["type"] == "task_requeued"
    }
    assert reasons <= {"drain"}
