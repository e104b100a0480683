"""PostgreSQL goes away under load, again and again: the service says so, spends nothing unwritten, loses nothing."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import Books, check_all, check_requests, read_books
from tests.acceptance.client import all_ended, bill_of, requests_of, set_faults, submit, witness
from tests.acceptance.outages import BODIES, Clients, check_away
from tests.support.postgres import Server, server
from tests.support.process import Service, service, simulator

_CLOCK = SystemClock()


@pytest.fixture
def own() -> Iterator[Server]:
    """A PostgreSQL server that may be stopped."""
    with server() as running:
        yield running


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose bill outlives every outage."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def bursar(
    tmp_path: Path, upstream: httpx.AsyncClient, own: Server
) -> AsyncIterator[Service]:
    """A service on that server, not yet started."""
    settings = {
        "BURSAR_SESSION_BUDGET_USD": "500",
        "BURSAR_WORKERS": "16",
        "BURSAR_GRACE_S": "3",
        "BURSAR_DATABASE_URL": own.create(),
    }
    async with service(tmp_path, str(upstream.base_url), **settings) as made:
        yield made


async def _stop_again_and_again(
    bursar: Service, own: Server, clients: Clients, stops: int
) -> list[float]:
    """Stop the database a moment after some commit; how long it took from its start to the next 202, in seconds."""
    dice = random.Random(9)  # noqa: S311  (a repeatable test, not a secret)
    recoveries = []
    async with bursar.client() as client:
        for _ in range(stops):
            await bursar.child.lines(dice.randrange(20, 200))
            await _CLOCK.sleep(dice.uniform(0, 0.05))
            clients.up.clear()
            own.stop()
            await check_away(client)
            await _CLOCK.sleep(dice.uniform(0, 1.5))  # that long it is away
            clients.welcome.clear()
            own.start()
            clients.up.set()
            begun_s = _CLOCK.monotonic_s()
            await clients.welcome.wait()
            recoveries.append(_CLOCK.monotonic_s() - begun_s)
    return recoveries


async def _stop_loop(
    bursar: Service, upstream: httpx.AsyncClient, own: Server, stops: int
) -> tuple[Books, list[float], Clients]:
    await set_faults(
        upstream, random=[{"kind": "latency", "delay_s": [0, 0.1], "probability": 1}], seed=3
    )
    clients = Clients(bursar.url)
    clients.up.set()
    await bursar.start()
    posting = asyncio.create_task(clients.run())
    try:
        recoveries = await _stop_again_and_again(bursar, own, clients, stops)
        clients.stopping = True
        await posting
        async with bursar.client() as client:
            await all_ended(client, clients.accepted)
    finally:
        posting.cancel()
    left = await bursar.stop()
    assert left.code == 0
    return (
        read_books(bursar.env["BURSAR_DATABASE_URL"], await bill_of(upstream)),
        recoveries,
        clients,
    )


async def _check_loop(
    bursar: Service, upstream: httpx.AsyncClient, own: Server, stops: int
) -> None:
    async with witness(upstream) as requests:
        books, recoveries, clients = await _stop_loop(bursar, upstream, own, stops)
        sent = await requests.all()
    check_all(books, set(clients.accepted))
    assert set(books.tasks) == set(clients.accepted), "refused, and kept all the same"
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    check_requests(books, sent)
    assert max(recoveries) < 20
    kinds = Counter(line["kind"] for line in books.settlements.values())
    middle = sorted(recoveries)[len(recoveries) // 2]
    sys.stdout.write(
        f"{stops} stops of PostgreSQL, {len(books.tasks)} tasks, {len(books.settlements)} calls"
        f" ({kinds['presumed']} presumed), {clients.refused} posts refused,"
        f" accepted again after {middle:.2f} s (at most {max(recoveries):.2f} s)\n"
    )


@pytest.mark.timeout(110)
async def test_three_stops(bursar: Service, upstream: httpx.AsyncClient, own: Server) -> None:
    """It is cut off in mid-work three times."""
    await _check_loop(bursar, upstream, own, 3)


@pytest.mark.long
@pytest.mark.timeout(1_800)
async def test_a_hundred_stops(bursar: Service, upstream: httpx.AsyncClient, own: Server) -> None:
    """The same every few seconds, a hundred times."""
    await _check_loop(bursar, upstream, own, 100)


async def test_no_database_at_the_start(bursar: Service, own: Server) -> None:
    """One sentence on stderr, and the exit code of a failure."""
    own.stop()
    child = await bursar.spawn()
    left = await child.ended(20)
    assert left.code == 1
    (sentence,) = left.err.splitlines()
    assert sentence.startswith("bursar: The PostgreSQL database test_1 at 127.0.0.1:")
    assert "cannot be used right now" in sentence


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_stopping_while_it_is_away(
    bursar: Service, upstream: httpx.AsyncClient, own: Server
) -> None:
    """SIGTERM without a database ends the process all the same; what ran is taken over by the next one."""
    await set_faults(upstream, random=[{"kind": "latency", "delay_s": 30, "probability": 1}])
    await bursar.start()
    async with bursar.client() as client:
        accepted = [await submit(client, BODIES[0]) for _ in range(3)]
        while len(await requests_of(upstream)) < 3:
            await _CLOCK.sleep(0.05)
    own.stop()
    left = await bursar.stop(40)
    assert left.code == 0, left.out
    own.start()
    await set_faults(upstream)
    await bursar.start()
    async with bursar.client() as client:
        tasks = await all_ended(client, accepted)
    await bursar.stop()
    assert {task["outcome"] for task in tasks} == {"answered"}
    books = read_books(bursar.env["BURSAR_DATABASE_URL"], await bill_of(upstream))
    check_all(books, set(accepted))
