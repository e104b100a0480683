"""SIGTERM again and again under load: in time, with exit code 0, and nothing lost or done twice."""

import asyncio
import random
import signal
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults
from tests.support.process import Service, service, simulator

_CLOCK = SystemClock()
_GRACE_S = 1.0
_POSTERS = 6
_BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 3}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
    },
    {"task": "At length.", "complexity": "simple", "max_tokens": 9_000},
]


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose bill outlives every stop of the service; some answers take longer than the grace."""
    async with simulator(tmp_path) as running:
        slow = {"kind": "latency", "delay_s": 3, "probability": 0.05}
        usual = {"kind": "latency", "delay_s": [0, 0.2], "probability": 1}
        await set_faults(running, random=[slow, usual], seed=8)
        yield running


class _Clients:
    """Programs that keep posting, with one connection each; a refusal may only say that the service stops."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.accepted: set[str] = set()
        self.refused = 0
        self.stopping = False
        self.up = asyncio.Event()

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(_POSTERS)))

    async def _one(self, number: int) -> None:
        async with httpx.AsyncClient(base_url=self._url, trust_env=False, timeout=10) as client:
            while not self.stopping:
                await self.up.wait()
                with suppress(httpx.TransportError):
                    await self._post(client, _BODIES[number % len(_BODIES)])
                number += 1

    async def _post(self, client: httpx.AsyncClient, body: dict[str, Any]) -> None:
        answer = await client.post("/tasks", json=body)
        if answer.status_code == 202:
            self.accepted.add(answer.json()["id"])
            await client.get(answer.headers["location"], headers={"prefer": "wait=1"})
            return
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "urn:bursar:problem:stopping"
        assert int(answer.headers["retry-after"]) > 0
        self.refused += 1
        await asyncio.wait({asyncio.ensure_future(_CLOCK.sleep(0.05))})


async def _stop_again_and_again(bursar: Service, clients: _Clients, stops: int) -> float:
    """The longest time that a stop took."""
    dice, longest_s = random.Random(13), 0.0  # noqa: S311
    for _ in range(stops):
        child = await bursar.start()
        clients.up.set()
        await child.lines(dice.randrange(20, 150))
        since_s = _CLOCK.monotonic_s()
        child.send(signal.SIGTERM)
        left = await child.ended(_GRACE_S + 10)
        clients.up.clear()
        longest_s = max(longest_s, _CLOCK.monotonic_s() - since_s)
        assert (left.code, left.err) == (0, "")
        assert "service_stop_cut_short" not in left.out
    return longest_s


@pytest.mark.timeout(1_500)
@pytest.mark.parametrize("stops", [2, pytest.param(200, marks=pytest.mark.long)])
async def test_stopped_again_and_again(
    tmp_path: Path, upstream: httpx.AsyncClient, stops: int
) -> None:
    """Every accepted task ends once, every answer is paid once, and no stop has to be cut short."""
    settings = {"BURSAR_SESSION_BUDGET_USD": "500", "BURSAR_WORKERS": "16"}
    settings["BURSAR_GRACE_S"] = str(_GRACE_S)
    async with service(tmp_path, str(upstream.base_url), **settings) as bursar:
        clients = _Clients(bursar.url)
        posting = asyncio.create_task(clients.run())
        try:
            longest_s = await _stop_again_and_again(bursar, clients, stops)
            await bursar.start()
            clients.stopping = True
            clients.up.set()
            await posting
            async with bursar.client() as client:
                tasks = await all_ended(client, clients.accepted)
        finally:
            posting.cancel()
        assert (await bursar.stop()).code == 0
        if stops > 2:  # on a machine of its own
            assert longest_s < _GRACE_S + 2
        assert {task["outcome"] for task in tasks} == {"answered"}
        check_all(read_books(bursar.database, await bill_of(upstream)), clients.accepted)
        assert len(clients.accepted) > 5 * stops
        print(f"{stops} stops, {len(tasks)} tasks, the longest took {longest_s:.2f} s")  # noqa: T201
