"""A few minutes of everything at once: memory and descriptors must not grow with what was done."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from statistics import mean, median
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.books import check_bill, check_ledger, check_steps, check_tasks, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults
from tests.support.process import Service, service, simulator

_CLOCK = SystemClock()
_SOAK_S = 240.0
_SAMPLE_S = 1.0
_CLIENTS = 12
_FAULTS = (
    "rate_limit",
    "overloaded",
    "server_error",
    "cut_before_headers",
    "cut_mid_body",
    "cut_mid_stream",
    "stream_error",
    "truncate_json",
    "usage_missing",
)
_BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {"task": "At length.", "complexity": "simple", "max_tokens": 9_000},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 2}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
    },
    {"task": "Too dear.", "budget_usd": 0.000001, "on_budget": "fail"},
]


@dataclass
class _Load:
    """Clients that submit, watch, hang up and cancel."""

    client: httpx.AsyncClient
    accepted: set[str] = field(default_factory=set)
    stopping: bool = False

    async def run(self) -> None:
        await asyncio.gather(*(self._one(Random(number)) for number in range(_CLIENTS)))  # noqa: S311

    async def _one(self, draw: Random) -> None:
        while not self.stopping:
            answer = await self.client.post("/tasks", json=draw.choice(_BODIES))
            assert answer.status_code in {202, 402}, answer.text
            if answer.status_code == 402:
                continue
            task_id = answer.json()["id"]
            self.accepted.add(task_id)
            match draw.randint(0, 9):
                case 0:
                    await self.client.post(f"/tasks/{task_id}/cancel")
                case 1 | 2 | 3:
                    await self._watch(task_id, draw.randint(1, 4_000))
                case _:
                    await self.client.get(f"/tasks/{task_id}", headers={"prefer": "wait=5"})

    async def _watch(self, task_id: str, count: int) -> None:
        headers = {"accept": "text/event-stream"}
        with suppress(httpx.TransportError):
            async with self.client.stream(
                "GET", f"/tasks/{task_id}/events", headers=headers
            ) as stream:
                async for part in stream.aiter_raw():
                    count -= len(part)
                    if count <= 0:
                        return


@dataclass
class _Samples:
    """What the process used, over time."""

    rss_bytes: list[int] = field(default_factory=list)
    descriptors: list[int] = field(default_factory=list)

    async def take(self, pid: int) -> None:
        """Sample until cancelled."""
        while True:
            self._look(Path(f"/proc/{pid}"))
            await _CLOCK.sleep(_SAMPLE_S)

    def _look(self, process: Path) -> None:
        resident = (process / "statm").read_text().split()[1]
        self.rss_bytes.append(int(resident) * os.sysconf("SC_PAGE_SIZE"))
        self.descriptors.append(sum(1 for _ in (process / "fd").iterdir()))

    def check(self) -> str:
        """Nothing grows once it is warm: the last third against the one before it."""
        third = len(self.rss_bytes) // 3
        middle, last = self.rss_bytes[third : 2 * third], self.rss_bytes[2 * third :]
        growth = mean(last) / mean(middle) - 1
        open_middle = max(self.descriptors[third : 2 * third])
        open_last = max(self.descriptors[2 * third :])
        told = (
            f"rss {median(middle) / 1e6:.0f} -> {median(last) / 1e6:.0f} MB ({growth:+.1%}), "
            f"descriptors at most {open_middle} -> {open_last}"
        )
        assert growth < 0.05, told
        assert open_last <= open_middle + 8, told
        return told


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[tuple[Service, httpx.AsyncClient]]:
    """A service over an upstream that fails in every way now and then."""
    async with simulator(tmp_path) as upstream:
        faults = [{"kind": kind, "probability": 0.01} for kind in _FAULTS]
        usual = {"kind": "latency", "delay_s": [0, 0.1], "probability": 1}
        await set_faults(upstream, random=[*faults, usual], seed=22)
        url = str(upstream.base_url)
        async with service(tmp_path, url, BURSAR_WORKERS="16") as made:
            yield made, upstream


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_nothing_grows(bursar: tuple[Service, httpx.AsyncClient]) -> None:
    """After the first third neither memory nor descriptors grow; at the end the books are right."""
    made, upstream = bursar
    child = await made.start()
    samples = _Samples()
    async with made.client() as client:
        load = _Load(client)
        working = asyncio.create_task(load.run())
        sampling = asyncio.create_task(samples.take(child.pid))
        await asyncio.wait({working, sampling}, timeout=_SOAK_S, return_when="FIRST_COMPLETED")
        sampling.cancel()
        load.stopping = True
        await working
        await all_ended(client, load.accepted)
    assert (await made.stop()).code == 0
    books = read_books(made.database, await bill_of(upstream))
    for check in (check_ledger, check_bill, check_steps):
        check(books)
    check_tasks(books, load.accepted)
    print(f"{len(load.accepted)} tasks in {_SOAK_S:.0f} s: {samples.check()}")  # noqa: T201
