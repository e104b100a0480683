"""Workers that are stopped past their lease and go on, again and again under load: what they still write is refused."""

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import Books, check_all, check_requests, check_runs, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults, witness
from tests.acceptance.outages import Clients
from tests.support.fleet import Replica, fleet
from tests.support.process import simulator

_CLOCK = SystemClock()
_PAUSE_S = (2.0, 7.0)
"""Mostly others have taken over by then: at the latest five seconds (where it stands in a transaction, and nobody can
write) and a lease after it began."""
_SETTINGS = {
    "BURSAR_LEASE_S": "2",
    "BURSAR_HEARTBEAT_S": "0.5",
    "BURSAR_RUN_LIMIT": "1000",
    "BURSAR_SESSION_BUDGET_USD": "500",
    "BURSAR_WORKERS": "8",
}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose answers often come while who asked for them is stopped."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": [0, 3], "probability": 1}]
        await set_faults(running, random=slow, seed=9)
        yield running


async def _pause_again_and_again(workers: list[Replica], count: int) -> None:
    """Two of them at a time stand still, each for as long as it likes; then each has to be at work again."""
    dice = random.Random(9)  # noqa: S311  (a repeatable test, not a secret)
    for _ in range(count // 2):
        victims = dice.sample(workers, 2)
        await asyncio.gather(*(one.child.stall(dice.uniform(*_PAUSE_S)) for one in victims))
        wanted = dice.randrange(1, 6)
        await asyncio.gather(*(one.child.lines(wanted, timeout_s=120) for one in victims))


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_two_hundred_pauses(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """SIGSTOP past the lease, SIGCONT: nothing of an older run is accepted, each task ends once, each answer is paid once."""
    pauses = 200
    async with (
        witness(upstream) as requests,
        fleet(tmp_path, replica_url, str(upstream.base_url), **_SETTINGS) as replicas,
    ):
        api, workers = await asyncio.gather(replicas.start("api"), replicas.workers(3))
        clients = Clients(api.url)
        clients.up.set()
        posting = asyncio.create_task(clients.run())
        try:
            await _pause_again_and_again(workers, pauses)
            clients.stopping = True
            await posting
            async with replicas.client(api) as client:
                await all_ended(client, clients.accepted)
        finally:
            posting.cancel()
        for replica in replicas.all:
            assert (await replicas.stop(replica)).code == 0
        sent = await requests.all()
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, set(clients.accepted))
    check_runs(books)
    check_requests(books, sent)
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    _report(books, workers, pauses, clients)


def _report(books: Books, workers: list[Replica], pauses: int, clients: Clients) -> None:
    events = [event for found in books.events.values() for event in found]
    taken_over = sum(
        event["type"] == "task_requeued" and event["data"]["reason"] == "lease_expired"
        for event in events
    )
    said = "\n".join(line for worker in workers for line in worker.child.out)
    lost, late, stopped, stale = (
        said.count(f'"event":"{name}"')
        for name in ("lease_lost", "late_answer", "write_refused", "run_stale")
    )
    settlements = books.settlements.values()
    paid = sum(s["confirmed_at_us"] is not None and s["amount_nano"] > 0 for s in settlements)
    presumed = sum(line["kind"] == "presumed" for line in settlements)
    assert taken_over, "no pause let a lease run out"
    assert late + stopped, "nobody wrote after its lease was lost"
    assert late >= paid, "each late answer that cost something is told of"
    sys.stdout.write(
        f"{pauses} pauses: {len(books.tasks)} tasks, {len(settlements)} calls, {lost} leases lost,"
        f" {taken_over} runs taken over, {stale} stale ones ended; {late} late answers refused"
        f" and confirmed, {stopped} other writes refused, {presumed} calls presumed, {clients.refused} posts"
        " refused\n"
    )
