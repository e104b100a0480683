"""Workers that are killed while their questions are in a batch: others fetch it, and nothing is bought twice."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import all_ended, bill_of, submit
from tests.support.fleet import fleet
from tests.support.process import simulator

TASKS = 12
QUICK = {
    "BURSAR_LEASE_S": "6",
    "BURSAR_HEARTBEAT_S": "1.5",
    "BURSAR_BATCH_LINGER_S": "0.2",
    "BURSAR_BATCH_POLL_S": "0.5",
    "BURSAR_BATCH_ITEMS": "4",
}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that outlives every worker, and processes batches on command."""
    async with simulator(tmp_path) as running:
        await running.put("/simulator/batches", json={"delay_s": None})
        yield running


async def _in_batches(upstream: httpx.AsyncClient, count: int) -> None:
    """Wait until so many questions are in batches."""
    clock = SystemClock()
    while True:
        shown = (await upstream.get("/simulator/batches")).json()["batches"]
        if sum(batch["request_counts"]["processing"] for batch in shown) >= count:
            return
        await clock.sleep(0.1)


@pytest.mark.timeout(600)
async def test_killed_between_sending_and_fetching(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """Both workers die by SIGKILL with every question in a batch; a new one takes the answers in."""
    async with fleet(
        tmp_path, replica_url, str(upstream.base_url).rstrip("/"), **QUICK
    ) as replicas:
        api = await replicas.start("api")
        workers = await replicas.workers(2)
        async with replicas.client(api) as client:
            body = {"task": "Say hello.", "complexity": "simple", "urgency": "economy"}
            accepted = {await submit(client, body) for _ in range(TASKS)}
            async with asyncio.timeout(120):
                await _in_batches(upstream, TASKS)
            for worker in workers:
                await worker.child.kill()
            await upstream.post("/simulator/batches/process")
            await replicas.start("worker")
            async with asyncio.timeout(240):
                ended = await all_ended(client, accepted)
        for replica in replicas.all:
            if replica.child.running:
                assert (await replicas.stop(replica)).code == 0
    assert {task["outcome"] for task in ended} == {"answered"}
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, accepted)
    assert len(books.bill) == TASKS
    assert {line["kind"] for line in books.settlements.values()} == {"confirmed"}
