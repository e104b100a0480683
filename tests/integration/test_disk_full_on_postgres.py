"""A PostgreSQL whose disk fills up under a whole service: typed errors, nobody claimed, no half rows, back by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.llm.anthropic_line import REFERENCE_HEADER
from tests.acceptance.books import check_all, read_books
from tests.support.clock import yielded
from tests.support.loglines import LineChecker
from tests.support.pgdisk import PostgresDisk, postgres_disk
from tests.support.service import Running, started

_BACK_S = 10.0
"""How soon the service is at work again once it can be."""
_TOOLS: dict[str, Any] = {"tools": ["calculator"], "complexity": "simple"}
_FULL = "urn:bursar:problem:store-full"
_CLOCK = SystemClock()


@pytest.fixture
def disk(replica_url: str) -> Iterator[PostgresDisk]:
    """The disk under the test's database."""
    with postgres_disk(replica_url) as made:
        yield made


@asynccontextmanager
async def _on(disk: PostgresDisk, folder: Path, **given: Any) -> AsyncIterator[Running]:
    """A service on that disk; at its end every task ends, and the books are right on both sides."""
    async with started(folder, database_url=disk.url, grace_s=5.0, **given) as bursar:
        yield bursar
        disk.room = None
        simulator = bursar.simulator
        tasks = (await bursar.client.get("/tasks", params={"limit": 200})).json()["tasks"]
        for task in tasks:
            await bursar.finished(task["id"])
    books = read_books(disk.url, simulator.bill.as_json(with_lines=True))
    check_all(books, {task["id"] for task in tasks})
    assert len(simulator.log.seen) == simulator.seen_count, "the log has forgotten some"
    asked = {seen.headers[REFERENCE_HEADER] for seen in simulator.log.seen}
    assert asked <= set(books.reservations), "a model call without a written reservation"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await yielded()


async def _ready(bursar: Running) -> None:
    since_s = _CLOCK.monotonic_s()
    while (await bursar.client.get("/readyz")).status_code != 200:
        assert _CLOCK.monotonic_s() - since_s < _BACK_S


async def test_a_full_disk_under_a_running_call(
    tmp_path: Path, disk: PostgresDisk, log_lines: LineChecker
) -> None:
    """POST is a 507, nobody is claimed, the answer that was paid for is written once there is room; all goes on."""
    async with _on(disk, tmp_path, workers=2) as bursar:
        bursar.script({"kind": "latency", "delay_s": 0.5})
        running = await bursar.submit('Work. [[sim {"steps": 1}]]', **_TOOLS)
        await _until(lambda: len(bursar.simulator.bill.lines) == 1)
        disk.room = 0
        refused = await bursar.client.post("/tasks", json={"task": "x"})
        assert (refused.status_code, refused.json()["type"]) == (507, _FULL)
        assert int(refused.headers["retry-after"]) > 0
        probe = await bursar.client.get("/readyz")
        assert (probe.status_code, probe.json()["type"]) == (503, _FULL)
        assert (await bursar.client.get("/healthz")).status_code == 200
        await _until(lambda: bool(log_lines.entries("write_postponed")))
        shown = (await bursar.client.get(running["links"]["self"])).json()
        assert shown["status"] == "running"
        assert len(bursar.simulator.log.seen) == 1, "paid for, not written yet, and no other call"
        disk.room = None
        await _ready(bursar)
        assert (await bursar.finished(running["id"]))["outcome"] == "answered"
        tasks = (await bursar.client.get("/tasks")).json()["tasks"]
        assert [task["id"] for task in tasks] == [running["id"]]


async def test_a_disk_that_is_full_again_and_again(tmp_path: Path, disk: PostgresDisk) -> None:
    """Full at any statement of thirty tasks' ways, and of more that wait: each ends once, and the books agree."""
    draw = Random(19)  # noqa: S311
    async with _on(disk, tmp_path, workers=4) as bursar:
        for _ in range(6):
            for _ in range(5):
                await bursar.submit('Work. [[sim {"steps": 2, "parallel": 2}]]', **_TOOLS)
            await _CLOCK.sleep(draw.uniform(0, 0.1))
            disk.room = draw.randrange(60)
            async with asyncio.timeout(20):
                while (await bursar.client.post("/tasks", json={"task": "x"})).status_code != 507:
                    pass
            waiting = bursar.rows("SELECT COUNT(*) AS n FROM tasks WHERE status = 'queued'")
            claimed = bursar.rows("SELECT COUNT(*) AS n FROM events WHERE type = 'task_claimed'")
            await _until(lambda: disk.refused > 3)
            for before, statement in (
                (waiting, "SELECT COUNT(*) AS n FROM tasks WHERE status = 'queued'"),
                (claimed, "SELECT COUNT(*) AS n FROM events WHERE type = 'task_claimed'"),
            ):
                assert bursar.rows(statement) == before, "somebody was claimed without room"
            disk.room = None
            await _ready(bursar)
