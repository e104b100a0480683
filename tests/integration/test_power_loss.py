"""The power goes: what a client had its 202 for is on the disk, whatever of the rest arrived there."""

import asyncio
from pathlib import Path
from random import Random
from typing import Any

import pytest

from app.budget.audit import audit
from app.domain.clock import SystemClock
from app.store.sqlite import SqliteStore
from tests.support.clock import yielded
from tests.support.disk import Disk, owned
from tests.support.service import HANG, Running, started

_TOOLS: dict[str, Any] = {"tools": ["calculator", "text_stats"], "complexity": "simple"}


async def _survivors(folder: Path) -> set[str]:
    """The tasks in what a power loss has left. The file must be whole, and say nothing that contradicts itself."""
    store = SqliteStore(folder, SystemClock())
    try:
        verdict = store._connection.execute("PRAGMA integrity_check").fetchone()[0]
        assert verdict == "ok"
        assert list((await store.read(audit)).drifts) == []
        return _tasks(store)
    finally:
        await store.close()


def _tasks(store: SqliteStore) -> set[str]:
    """Every task; each with the event of its acceptance, and with events without gaps."""
    rows = store._connection.execute(
        "SELECT t.id, COUNT(e.seq) AS count, MIN(e.seq) AS first, MAX(e.seq) AS last"
        " FROM tasks AS t LEFT JOIN events AS e ON e.subject = t.id GROUP BY t.id"
    ).fetchall()
    assert all(row["first"] == 1 and row["last"] == row["count"] for row in rows)
    return {row["id"] for row in rows}


async def _submit(bursar: Running, disk: Disk, acknowledged: dict[str, int], **body: Any) -> None:
    """Submit, and note how far the disk had come when the 202 was there."""
    task = await bursar.submit(**body)
    acknowledged[task["id"]] = disk.position


async def test_the_202_comes_after_the_sync(tmp_path: Path) -> None:
    """At the instant of each 202, what was synced is enough: not one byte more has to arrive."""
    acknowledged: dict[str, int] = {}
    with owned(tmp_path / "data") as disk:
        async with started(disk.folder, workers=1) as bursar:
            bursar.script(HANG)
            first = await bursar.submit()
            await bursar.saw(first["id"], "attempt_started")
            for _ in range(
                12
            ):  # nobody else writes: no other commit's sync can cover for a missing one
                await _submit(bursar, disk, acknowledged)
    seen = set[str]()
    for number, (task_id, position) in enumerate(acknowledged.items()):
        disk.after_power_loss(tmp_path / f"left-{number}", position)
        seen.add(task_id)
        assert seen <= await _survivors(tmp_path / f"left-{number}")


async def test_a_disk_that_does_not_sync_is_noticed(tmp_path: Path) -> None:
    """The test before this one can fail: without syncs the tasks are not there."""
    acknowledged: dict[str, int] = {}
    with owned(tmp_path / "data") as disk:
        async with started(disk.folder, workers=1) as bursar:
            bursar.script(HANG)
            first = await bursar.submit()
            await bursar.saw(first["id"], "attempt_started")
            disk.syncing = False
            await _submit(bursar, disk, acknowledged)
            ((task_id, position),) = acknowledged.items()
    disk.after_power_loss(tmp_path / "left", position)
    assert task_id not in await _survivors(tmp_path / "left")


@pytest.mark.timeout(300)
@pytest.mark.parametrize("losses", [40, pytest.param(400, marks=pytest.mark.long)])
async def test_at_any_moment_of_a_busy_service(tmp_path: Path, losses: int) -> None:
    """Cut at random between two of its writes, its last unsynced ones lost, kept or torn: nothing acknowledged is gone."""
    draw, acknowledged = Random(losses), dict[str, int]()  # noqa: S311
    with owned(tmp_path / "data") as disk:
        async with started(disk.folder, workers=8) as bursar:
            for _ in range(4):
                await asyncio.gather(
                    *(
                        _submit(
                            bursar,
                            disk,
                            acknowledged,
                            task='Work. [[sim {"steps": 2, "parallel": 2}]]',
                            **_TOOLS,
                        )
                        for _ in range(6)
                    )
                )
                await yielded(draw.randint(0, 300))
            for task_id in acknowledged:
                await bursar.finished(task_id)
            busy = disk.position
    positions = sorted(draw.randint(min(acknowledged.values()), busy) for _ in range(losses))
    for number, position in enumerate(positions):
        folder = tmp_path / f"left-{number}"
        disk.after_power_loss(folder, position, draw)
        promised = {task_id for task_id, at in acknowledged.items() if at <= position}
        assert promised <= await _survivors(folder), f"position {position}"


async def test_the_next_start_finishes_what_a_power_loss_left(tmp_path: Path) -> None:
    """A service on what was left brings every acknowledged task to its end, and its books are right."""
    draw, acknowledged = Random(7), dict[str, int]()  # noqa: S311
    with owned(tmp_path / "data") as disk:
        async with started(disk.folder, workers=4) as bursar:
            for _ in range(8):
                await _submit(
                    bursar, disk, acknowledged, task='Work. [[sim {"steps": 2}]]', **_TOOLS
                )
            position = disk.position
    disk.after_power_loss(tmp_path / "left", position, draw)
    async with started(tmp_path / "left") as bursar:
        ends = [await bursar.finished(task_id) for task_id in acknowledged]
    assert {task["outcome"] for task in ends} == {"answered"}
    assert acknowledged.keys() <= await _survivors(tmp_path / "left")
