"""An API and workers outlive a PostgreSQL that is away for long: nothing is bought unwritten, nothing lost, all go on by themselves."""

import asyncio
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from app.queue.dispatch import Dispatch
from app.store.postgres_schema import prepare
from tests.acceptance.books import Books, check_all, check_requests, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit, witness
from tests.acceptance.outages import BODIES, Clients, check_away, check_unready
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.postgres import Server, server
from tests.support.process import answering, simulator

_CLOCK = SystemClock()
_RECOVERY_S = 10
"""Promised: so long after PostgreSQL takes connections again, at most, everybody works."""
_LINES_BEFORE = 100
_LATER = {"task": "Perhaps later.", "complexity": "simple"}
_REFUSED = {"kind": "overloaded", "prompt_contains": "later", "retry_after": 2, "repeat": 3}
"""Who is refused so asks again while the database is away: a running task wants a reservation just then."""
_SETTINGS = {
    "BURSAR_SESSION_BUDGET_USD": "500",
    "BURSAR_WORKERS": "8",
    "BURSAR_RUN_LIMIT": "50",
}


@pytest.fixture
def own() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped."""
    with server() as running:
        yield running


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose bill outlives every outage; its answers take a moment."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": [0, 0.3], "probability": 1}]
        await set_faults(running, _REFUSED, random=slow, seed=11)
        yield running


@dataclass(frozen=True)
class _Recovery:
    """How long after the database was back: all ready, a task accepted, a call begun by each worker."""

    ready_s: float
    accepted_s: float
    asked_again_s: float

    @property
    def longest_s(self) -> float:
        """Until everybody worked again."""
        return max(self.ready_s, self.accepted_s, self.asked_again_s)


async def _outage(
    replicas: Fleet,
    own: Server,
    upstream: httpx.AsyncClient,
    clients: Clients,
    away_s: float,
    *,
    frozen: bool,
) -> _Recovery:
    """Under load the database goes, as a crash would make it, or falls silent; and comes back."""
    api, *workers = replicas.all
    await workers[0].child.lines(_LINES_BEFORE, timeout_s=60)
    await _refused(replicas, clients)
    clients.up.clear()
    (own.freeze if frozen else own.stop)()
    async with AsyncExitStack() as opened:
        heard = [await opened.enter_async_context(replicas.client(r)) for r in replicas.all]
        await asyncio.gather(check_away(heard[0]), *(check_unready(one) for one in heard[1:]))
        before = await _number(upstream)
        since_s = _CLOCK.monotonic_s()
        while _CLOCK.monotonic_s() - since_s < away_s:
            await asyncio.gather(check_away(heard[0]), *(check_unready(one) for one in heard[1:]))
            await _CLOCK.sleep(0.5)
        assert await _number(upstream) == before, "a call left while nothing could be written"
        clients.welcome.clear()
        (own.thaw if frozen else own.start)()
    clients.up.set()
    begun_s = _CLOCK.monotonic_s()
    found = await asyncio.gather(
        _since(begun_s, *(_ready(replica) for replica in replicas.all)),
        _since(begun_s, clients.welcome.wait()),
        _since(begun_s, _asked_again(workers)),
    )
    assert all(replica.child.running for replica in (api, *workers))
    return _Recovery(*found)


async def _refused(replicas: Fleet, clients: Clients) -> None:
    """Three tasks have been told to come again in two seconds."""
    api, *workers = replicas.all
    seen = [len(worker.child.out) for worker in workers]
    async with replicas.client(api) as client:
        clients.accepted += [await submit(client, _LATER) for _ in range(3)]
    failed = 0
    async with asyncio.timeout(60):
        while failed < 3:
            await _CLOCK.sleep(0.02)
            lines = (line for w, n in zip(workers, seen, strict=True) for line in w.child.out[n:])
            failed = sum('"event":"attempt_failed"' in line for line in lines)


async def _since(begun_s: float, *waits: Any) -> float:
    async with asyncio.timeout(60):
        await asyncio.gather(*waits)
    return _CLOCK.monotonic_s() - begun_s


async def _ready(replica: Replica) -> None:
    await answering(replica.child, f"{replica.url}/readyz")


async def _asked_again(workers: list[Replica]) -> None:
    """Each worker has begun a call."""

    async def one(worker: Replica) -> None:
        after = len(worker.child.out)
        await worker.child.line(
            lambda line: '"event":"attempt_started"' in line, after=after, timeout_s=60
        )

    await asyncio.gather(*(one(worker) for worker in workers))


async def _number(upstream: httpx.AsyncClient) -> int:
    """How many requests there have been."""
    latest = (await requests_of(upstream))[:1]
    return latest[0]["number"] if latest else 0


@pytest.mark.parametrize(
    ("away_s", "workers", "tasks", "frozen"),
    [
        pytest.param(3, 1, 20, False, marks=pytest.mark.timeout(120)),
        pytest.param(60, 3, 300, False, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
        pytest.param(1, 3, 300, True, marks=[pytest.mark.long, pytest.mark.timeout(600)]),
    ],
)
async def test_an_outage(
    tmp_path: Path,
    upstream: httpx.AsyncClient,
    own: Server,
    *,
    away_s: float,
    workers: int,
    tasks: int,
    frozen: bool,
) -> None:
    """503 and alive meanwhile, no call; within seconds all go on; each task ends once, the bill is in the books.

    After a minute the leases are over as well: the runs are taken over, here or elsewhere. One that is silent is
    noticed by nothing but waiting: that takes a minute or more in any case, and what was refused may be kept.
    """
    prepare(url := own.create())
    Dispatch.prepare(url)
    async with (
        witness(upstream) as requests,
        fleet(tmp_path, url, str(upstream.base_url), **_SETTINGS) as replicas,
    ):
        api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(workers))
        clients = Clients(api.url)
        clients.up.set()
        async with replicas.client(api) as client:
            clients.accepted += [await submit(client, BODIES[n % 2]) for n in range(tasks)]
        posting = asyncio.create_task(clients.run())
        try:
            seen = await _outage(replicas, own, upstream, clients, away_s, frozen=frozen)
            clients.stopping = True
            await posting
            async with replicas.client(api) as client:
                kept = set(read_books(url, await bill_of(upstream)).tasks)
                await all_ended(client, kept | set(clients.accepted))
        finally:
            posting.cancel()
        for replica in replicas.all:
            assert (await replicas.stop(replica)).code == 0
        sent = await requests.all()
    books = read_books(url, await bill_of(upstream))
    check_all(books, set(books.tasks) if frozen else set(clients.accepted))
    assert set(books.tasks) >= set(clients.accepted)
    if not frozen:
        assert set(books.tasks) == set(clients.accepted), "refused, and kept all the same"
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    check_requests(books, sent)
    assert seen.longest_s <= _RECOVERY_S
    _report(books, clients, seen, away_s)


def _report(books: Books, clients: Clients, seen: _Recovery, away_s: float) -> None:
    kinds = Counter(line["kind"] for line in books.settlements.values())
    events = [event for found in books.events.values() for event in found]
    again = Counter(e["data"]["reason"] for e in events if e["type"] == "task_requeued")
    billed = sum(line["nano"] for line in books.bill)
    booked = sum(s["amount_nano"] + s["surplus_nano"] for s in books.settlements.values())
    sys.stdout.write(
        f"{away_s} s without PostgreSQL: {len(books.tasks)} tasks, {len(books.settlements)} calls"
        f" ({kinds['presumed']} presumed), requeued {dict(again)}, billed {billed} of {booked} nano booked,"
        f" {clients.refused} posts refused; after {seen.ready_s:.1f} s all ready, after"
        f" {seen.accepted_s:.1f} s accepting, after {seen.asked_again_s:.1f} s all calling\n"
    )
