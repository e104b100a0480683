"""An API and three workers on a PostgreSQL that is killed again and again under load, the whole of it or one of its processes."""

import asyncio
import random
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from app.domain.clock import SystemClock
from app.queue.dispatch import Dispatch
from app.store.postgres_schema import prepare
from tests.acceptance.books import Books, check_all, check_requests, read_books
from tests.acceptance.client import Witness, all_ended, bill_of, set_faults, witness
from tests.acceptance.outages import Clients, check_away, check_unready
from tests.support.fleet import Fleet, fleet
from tests.support.postgres import Server, server
from tests.support.process import simulator

pytestmark = [pytest.mark.long, pytest.mark.timeout(3_600)]
_CLOCK = SystemClock()
_RECOVERY_S = 10
"""Promised: so long after PostgreSQL takes connections again, at most, a task is accepted, and one is claimed."""
_AWAY_S = 2
_SETTINGS = {
    "BURSAR_SESSION_BUDGET_USD": "500",
    "BURSAR_WORKERS": "8",
    "BURSAR_RUN_LIMIT": "50",
}


@pytest.fixture
def own() -> Iterator[Server]:
    """A PostgreSQL server that may be killed."""
    with server() as running:
        yield running


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose bill outlives everything; its answers take a moment."""
    async with simulator(tmp_path) as running:
        slow = [{"kind": "latency", "delay_s": [0, 0.3], "probability": 1}]
        await set_faults(running, random=slow, seed=17)
        yield running


@dataclass
class _Kills:
    """What was killed, and how long after each recovery things went on."""

    what: Counter[str] = field(default_factory=Counter)
    accepted_s: list[float] = field(default_factory=list)
    claimed_s: list[float] = field(default_factory=list)


class _Killer:
    """Kills PostgreSQL, and looks at what that does."""

    def __init__(self, own: Server, replicas: Fleet, clients: Clients) -> None:
        self._own = own
        self._replicas = replicas
        self._clients = clients
        self._dice = random.Random(18)  # noqa: S311  (a repeatable test, not a secret)
        self.kills = _Kills()

    async def kill(self, count: int, every_s: tuple[float, float]) -> None:
        """So many times; each time it has worked for so long before."""
        for _ in range(count):
            await _CLOCK.sleep(self._dice.uniform(*every_s))
            self._clients.up.clear()
            if self._dice.random() < 0.5:
                await self._all_of_it()
            else:
                title = await asyncio.to_thread(self._own.crash, self._dice)
                self.kills.what["backend" if title.startswith("bursar ") else title] += 1
            await self._back()

    async def _all_of_it(self) -> None:
        """As a crash of its machine would: it is away for up to two seconds, and everybody says so."""
        self.kills.what["server"] += 1
        self._own.stop()
        async with AsyncExitStack() as opened:
            api, *workers = [
                await opened.enter_async_context(self._replicas.client(replica))
                for replica in self._replicas.all
            ]
            await asyncio.gather(check_away(api), *(check_unready(one) for one in workers))
        await _CLOCK.sleep(self._dice.uniform(0, _AWAY_S))
        self._own.start()

    async def _back(self) -> None:
        """It takes connections again: until a task is accepted, and until one is claimed."""
        begun_s = _CLOCK.monotonic_s()
        self._clients.welcome.clear()
        self._clients.up.set()
        async with asyncio.timeout(120):
            accepted_s, claimed_s = await asyncio.gather(
                _since(begun_s, self._clients.welcome.wait()),
                _since(begun_s, self._claimed()),
            )
        self.kills.accepted_s.append(accepted_s)
        self.kills.claimed_s.append(claimed_s)

    async def _claimed(self) -> None:
        """Some worker claims a task from now on."""
        looking = [
            asyncio.create_task(
                worker.child.line(
                    lambda line: '"event":"task_claimed"' in line,
                    after=len(worker.child.out),
                    timeout_s=120,
                )
            )
            for worker in self._replicas.all[1:]
        ]
        done, others = await asyncio.wait(looking, return_when=asyncio.FIRST_COMPLETED)
        for one in others:
            one.cancel()
        for one in done:
            await one


async def _since(begun_s: float, wait: Awaitable[object]) -> float:
    await wait
    return _CLOCK.monotonic_s() - begun_s


@pytest.mark.parametrize(
    ("kills", "every_s"),
    [
        pytest.param(100, (1, 5), id="every few seconds"),
        pytest.param(40, (5, 40), id="now and then"),
    ],
)
async def test_killed_again_and_again(
    tmp_path: Path,
    upstream: httpx.AsyncClient,
    own: Server,
    kills: int,
    every_s: tuple[float, float],
) -> None:
    """Each accepted task ends once, what was refused is not kept, no call leaves unwritten, the bill is in the books."""
    prepare(url := own.create())
    Dispatch.prepare(url)
    async with (
        witness(upstream) as requests,
        fleet(tmp_path, url, str(upstream.base_url), **_SETTINGS) as replicas,
    ):
        api, _ = await asyncio.gather(replicas.start("api"), replicas.workers(3))
        clients = Clients(api.url)
        clients.up.set()
        posting = asyncio.create_task(clients.run())
        killer = _Killer(own, replicas, clients)
        try:
            await killer.kill(kills, every_s)
            clients.stopping = True
            await posting
            async with replicas.client(api) as client:
                await all_ended(client, clients.accepted)
        finally:
            posting.cancel()
        for replica in replicas.all:
            assert (await replicas.stop(replica)).code == 0
        books = await _checked(url, upstream, requests, clients)
    _report(books, clients, killer.kills)
    assert max(killer.kills.accepted_s) <= _RECOVERY_S
    assert max(killer.kills.claimed_s) <= _RECOVERY_S


async def _checked(
    url: str, upstream: httpx.AsyncClient, requests: Witness, clients: Clients
) -> Books:
    books = read_books(url, await bill_of(upstream))
    check_all(books, set(clients.accepted))
    check_requests(books, await requests.all())
    assert set(books.tasks) == set(clients.accepted), "refused, and kept all the same"
    assert {task["outcome"] for task in books.tasks.values()} == {"answered"}
    return books


def _report(books: Books, clients: Clients, kills: _Kills) -> None:
    kinds = Counter(line["kind"] for line in books.settlements.values())
    events = [event for found in books.events.values() for event in found]
    again = Counter(e["data"]["reason"] for e in events if e["type"] == "task_requeued")
    sys.stdout.write(
        f"{dict(kills.what)} killed: {len(books.tasks)} tasks, {len(books.settlements)} calls"
        f" ({kinds['presumed']} presumed), requeued {dict(again)}, {clients.refused} posts refused;"
        f" accepted again after {_shown(kills.accepted_s)}, claimed after {_shown(kills.claimed_s)}\n"
    )


def _shown(seconds: list[float]) -> str:
    return f"{sorted(seconds)[len(seconds) // 2]:.2f} s (at most {max(seconds):.2f} s)"
