"""Two processes on one PostgreSQL, one upstream: what the one has met there, the other does not find out by itself."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.client import all_ended, events_of, requests_of, set_faults, submit
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.process import simulator

pytestmark = pytest.mark.timeout(300)
HELLO: dict[str, Any] = {"task": "Say hello.", "complexity": "simple"}
WAIT_S = 6.0
_CLOCK = SystemClock()
_LISTENING = (
    "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database()"
    " AND application_name = 'bursar-listener' AND state = 'idle' AND query LIKE 'LISTEN%'"
)


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that both share."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def both(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> AsyncIterator[tuple[Fleet, Replica, Replica]]:
    """Two processes that take tasks in and run them, and hear each other."""
    settings = {"BURSAR_WORKERS": "8", "BURSAR_PARK_AFTER_S": "1"}
    async with fleet(tmp_path, replica_url, str(upstream.base_url), **settings) as made:
        one, other = await asyncio.gather(made.start("serve"), made.start("serve"))
        with psycopg.connect(replica_url, autocommit=True) as connection:
            while connection.execute(_LISTENING).fetchall() != [(2,)]:
                await _CLOCK.sleep(0.02)
        yield made, one, other


async def knows(client: httpx.AsyncClient, is_so: Callable[[dict[str, Any]], bool]) -> None:
    """Return once the process knows so much of the only pool of limits."""
    while not any(is_so(pool) for pool in (await client.get("/upstream")).json()["pools"]):
        await _CLOCK.sleep(0.02)


def at_s(shown: str) -> float:
    """An instant in seconds."""
    return datetime.fromisoformat(shown).timestamp()


async def test_a_429_of_one_process_holds_the_calls_of_the_other(both, upstream):
    """One request is refused for seconds: neither process sends another one before they are over."""
    replicas, *pair = both
    await set_faults(upstream, {"kind": "rate_limit", "retry_after": WAIT_S})
    async with replicas.client(pair[0]) as one, replicas.client(pair[1]) as other:
        first = await submit(one, HELLO)
        for client in (one, other):
            await knows(client, lambda pool: pool["blocked_s"] > 0)
        ids = [await submit(client, HELLO) for _ in range(10) for client in (one, other)]
        tasks = await all_ended(one, [first, *ids])
        events = [event for task_id in ids for event in await events_of(one, task_id)]
    assert {task["outcome"] for task in tasks} == {"answered"}
    sent = sorted(at_s(request["at"]) for request in await requests_of(upstream))
    assert len(sent) == 22
    assert sent[1] - sent[0] > WAIT_S - 0.5, "somebody did not wait"
    claims = [event for event in events if event["type"] == "task_claimed"]
    early = {e["data"]["worker"] for e in claims if at_s(e["at"]) < sent[0] + WAIT_S - 0.5}
    assert len(early) == 2, "only one of them had anything to hold back"


async def test_an_outage_of_one_process_bounds_the_calls_of_the_other(both, upstream):
    """Ten failures have told the one; the other, which slept meanwhile, asks with one call at a time from the first on."""
    replicas, one, other = both
    other.child.send(signal.SIGSTOP)
    await set_faults(upstream, {"kind": "overloaded", "repeat": 1_000})
    async with replicas.client(one) as client:
        for _ in range(12):
            await submit(client, HELLO)
        await knows(client, lambda pool: pool["breaker"] != "closed")
    other.child.send(signal.SIGCONT)
    async with replicas.client(other) as client:
        await knows(client, lambda pool: pool["breaker"] != "closed")
        one.child.send(signal.SIGSTOP)
        met = len(await requests_of(upstream))
        ids = [await submit(client, HELLO) for _ in range(20)]
        for task_id in ids:
            while not any(e["type"] == "task_requeued" for e in await events_of(client, task_id)):
                await _CLOCK.sleep(0.05)
        asked = len(await requests_of(upstream)) - met
        await set_faults(upstream)
        one.child.send(signal.SIGCONT)
        tasks = await all_ended(client, ids)
    assert asked <= 4, "without a word of the other's it takes ten to know"
    assert {task["outcome"] for task in tasks} == {"answered"}
