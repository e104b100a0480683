"""A disk that fills up under a whole service: typed errors, nothing lost, nothing bought twice, back by itself."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.domain.errors import StoreFull
from app.llm.anthropic_line import REFERENCE_HEADER
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME
from tests.acceptance.books import check_all, opened, read_books
from tests.support.clock import FakeClock, yielded
from tests.support.disk import Disk, owned
from tests.support.loglines import LineChecker
from tests.support.service import Running, started

_BACK_S = 10.0
"""How soon the service is at work again once it can be."""
_TOOLS: dict[str, Any] = {"tools": ["calculator"], "complexity": "simple"}
_CLOCK = SystemClock()


@asynccontextmanager
async def _on(disk: Disk, **given: Any) -> AsyncIterator[Running]:
    """A service on that disk; at its end the books are right, on both sides, and the file is whole."""
    async with started(disk.folder, disk_floor_bytes=0, grace_s=5.0, **given) as bursar:
        yield bursar
        disk.room = None
        simulator = bursar.simulator
        tasks = (await bursar.client.get("/tasks", params={"limit": 200})).json()["tasks"]
        for task in tasks:
            await bursar.finished(task["id"])
    path = disk.folder / DATABASE_NAME
    check_all(
        read_books(path, simulator.bill.as_json(with_lines=True)), {task["id"] for task in tasks}
    )
    with opened(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        reserved = {
            "/".join(map(str, row))
            for row in connection.execute(
                "SELECT task_id, step, attempt FROM ledger_lines WHERE ended = 0"
            )
        }
    asked = {seen.headers[REFERENCE_HEADER] for seen in simulator.log.seen}
    assert asked <= reserved, "a model call without a written reservation"


async def _until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await yielded()


def _postponed(log_lines: LineChecker) -> int:
    """How often a write that must not be given up has found no room."""
    return sum('"write_postponed"' in line for line in log_lines.lines)


async def _ready(bursar: Running) -> None:
    since_s = _CLOCK.monotonic_s()
    while (await bursar.client.get("/readyz")).status_code != 200:
        assert _CLOCK.monotonic_s() - since_s < _BACK_S


async def test_a_full_disk_under_a_running_call(tmp_path: Path, log_lines: LineChecker) -> None:
    """The answer that comes meanwhile is kept and written later; nobody is claimed; everything goes on."""
    with owned(tmp_path / "data") as disk:
        async with _on(disk, workers=1) as bursar:
            bursar.script({"kind": "latency", "delay_s": 2.0})
            running = await bursar.submit('Work. [[sim {"steps": 1}]]', **_TOOLS)
            waiting = await bursar.submit()
            await _until(lambda: len(bursar.simulator.bill.lines) == 1)
            disk.room = 0
            await _until(lambda: _postponed(log_lines) > 1)
            refused = await bursar.client.post("/tasks", json={"task": "x"})
            assert refused.status_code == 507
            assert refused.json()["type"] == "urn:bursar:problem:store-full"
            assert int(refused.headers["retry-after"]) > 0
            probe = await bursar.client.get("/readyz")
            assert (probe.status_code, probe.json()["type"]) == (
                503,
                "urn:bursar:problem:store-full",
            )
            assert (await bursar.client.get("/healthz")).status_code == 200
            for task, status in ((running, "running"), (waiting, "queued")):
                shown = (await bursar.client.get(task["links"]["self"])).json()
                assert shown["status"] == status
            assert len(bursar.simulator.log.seen) == 1, (
                "the answer was paid for, and is not written yet"
            )
            disk.room = None
            since_s = _CLOCK.monotonic_s()
            await _ready(bursar)
            assert (await bursar.finished(running["id"]))["outcome"] == "answered"
            assert (await bursar.finished(waiting["id"]))["outcome"] == "answered"
            assert _CLOCK.monotonic_s() - since_s < _BACK_S
            assert len(bursar.simulator.bill.lines) == 3
            tasks = (await bursar.client.get("/tasks")).json()["tasks"]
            assert {task["id"] for task in tasks} == {running["id"], waiting["id"]}


async def test_a_disk_that_is_full_again_and_again(tmp_path: Path) -> None:
    """Full at every moment of thirty tasks' ways: each ends once, and the books agree line by line."""
    draw = Random(19)  # noqa: S311
    with owned(tmp_path / "data") as disk:
        async with _on(disk, workers=8) as bursar:
            for _ in range(6):
                for _ in range(5):
                    await bursar.submit('Work. [[sim {"steps": 2, "parallel": 2}]]', **_TOOLS)
                await _CLOCK.sleep(draw.uniform(0, 0.1))
                disk.room = draw.choice((0, 5_000, 30_000))
                before = disk.refused
                async with asyncio.timeout(20):
                    while disk.refused == before:
                        await bursar.client.post("/tasks", json={"task": "Fill. " * 2_000})
                disk.room = None
                await _ready(bursar)
        assert disk.refused >= 6


async def test_a_stop_while_the_disk_is_full(tmp_path: Path, log_lines: LineChecker) -> None:
    """An answer that cannot be written does not hold the exit; the next start books its call as presumed."""
    with owned(tmp_path / "data") as disk:
        async with started(disk.folder, disk_floor_bytes=0, grace_s=0.2, workers=1) as bursar:
            bursar.script({"kind": "latency", "delay_s": 0.2})
            task = await bursar.submit()
            await _until(lambda: len(bursar.simulator.bill.lines) == 1)
            disk.room = 0
            await _until(lambda: _postponed(log_lines) > 0)
            since_s = _CLOCK.monotonic_s()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        if left:
            await asyncio.wait(left, timeout=5)
        assert not {one for one in left if not one.done()}, "nothing of it runs any more"
        assert _CLOCK.monotonic_s() - since_s < 6
        disk.room = None
        async with started(disk.folder, disk_floor_bytes=0) as bursar:
            ended = await bursar.finished(task["id"])
    assert (ended["outcome"], ended["runs"]) == ("answered", 2)
    assert ended["cost"]["presumed_usd"] > 0
    assert ended["cost"]["confirmed_usd"] > 0


@pytest.mark.parametrize("cycles", [100, pytest.param(500, marks=pytest.mark.long)])
async def test_the_file_is_whole_after_every_full_disk(tmp_path: Path, cycles: int) -> None:
    """The disk fills up in the middle of commits: what was acknowledged is there, nothing else is."""
    draw = Random(cycles)  # noqa: S311
    kept = 0
    with owned(tmp_path / "data") as disk:
        store = SqliteStore(disk.folder, FakeClock())

        def op(tx: Tx) -> None:
            body = bytes(draw.randint(0, 9_000))
            tx.one("append_event", subject="s", type="x", at_us=1, run=0, data="{}", body=body)

        for _ in range(cycles):
            disk.room = draw.randint(0, 40_000)
            results = await asyncio.gather(
                *(store.write(op) for _ in range(draw.randint(1, 6))), return_exceptions=True
            )
            assert {type(result) for result in results} <= {type(None), StoreFull}
            kept += results.count(None)
            disk.room = None
            verdict = store._connection.execute("PRAGMA quick_check(1)").fetchone()[0]
            assert verdict == "ok"
        rows = await store.read(lambda tx: tx.all("read_events", subject="s", after=0, limit=9_999))
        assert [row["seq"] for row in rows] == list(range(1, kept + 1))
        assert disk.refused > cycles // 10
        await store.close()


async def test_below_the_floor_nothing_new_begins(tmp_path: Path, log_lines: LineChecker) -> None:
    """Too little space: submissions are refused and nobody is claimed; what runs goes on to its end."""
    async with started(tmp_path, workers=1) as bursar:
        space = bursar.service.services.space
        floor = space.floor_bytes
        assert floor == 64 * 1024 * 1024
        bursar.script({"kind": "latency", "delay_s": 1.5})
        running = await bursar.submit('Work. [[sim {"steps": 1}]]', **_TOOLS)
        waiting = await bursar.submit()
        await bursar.saw(running["id"], "attempt_started")
        space.floor_bytes = 1 << 62
        async with asyncio.timeout(5):
            while (probe := await bursar.client.get("/readyz")).status_code == 200:
                pass
        assert (probe.status_code, probe.json()["type"]) == (503, "urn:bursar:problem:store-full")
        refused = await bursar.client.post("/tasks", json={"task": "x"})
        assert (refused.status_code, refused.json()["type"]) == (
            507,
            "urn:bursar:problem:store-full",
        )
        assert int(refused.headers["retry-after"]) > 0
        assert (await bursar.finished(running["id"]))["outcome"] == "answered"
        raised = await bursar.client.put(
            f"/sessions/{running['session_id']}/budget", json={"budget_usd": 9}
        )
        assert raised.status_code == 200, "money can still be written"
        assert (await bursar.client.get(waiting["links"]["self"])).json()["status"] == "queued"
        assert len(log_lines.entries("disk_low")) == 1
        space.floor_bytes = floor
        await _ready(bursar)
        assert (await bursar.finished(waiting["id"]))["outcome"] == "answered"
