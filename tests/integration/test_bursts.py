"""Bursts over the whole service: one task writes the prefix, the others wait for it and read; a stop does not wait for them."""

import asyncio
from pathlib import Path
from typing import Any

from app.domain.clock import SystemClock
from tests.support.service import HANG, Running, started

ASKED: dict[str, Any] = {
    "model": "claude-sonnet-5-5",
    "system": "You are careful. " * 600,
    "budget_usd": 0.2,
    "session_id": "s",
}
COUNT = 24


async def _billed(bursar: Running, tools: list[str]) -> list[Any]:
    bursar.script({"kind": "latency", "delay_s": 0.3, "repeat": 200})
    tasks = [await bursar.submit(f"Say {n}.", tools=tools, **ASKED) for n in range(COUNT)]
    ended = [await bursar.finished(task["id"]) for task in tasks]
    assert all(task["status"] == "succeeded" for task in ended)
    spent = sum(round(task["cost_usd"] * 1e9) for task in ended)
    lines = list(bursar.simulator.bill.lines)
    assert spent == sum(line.nano for line in lines)
    return lines


async def test_tasks_with_tools_write_their_prefix_once(tmp_path: Path) -> None:
    """The first goes alone; everybody else reads what it wrote."""
    async with started(tmp_path, workers=COUNT) as bursar:
        lines = await _billed(bursar, ["calculator"])
    written = [line for line in lines if line.meters.cache_write_5m > 1_000]
    assert len(written) == 1
    assert sum(line.meters.cache_read > 1_000 for line in lines) == COUNT - 1


async def test_single_calls_share_a_prefix_once_there_are_enough(tmp_path: Path) -> None:
    """Some ask plainly before anybody knows of the others; one writes, the rest read."""
    async with started(tmp_path, workers=COUNT) as bursar:
        lines = await _billed(bursar, [])
    assert sum(line.meters.cache_write_5m > 0 for line in lines) == 1
    assert sum(line.meters.cache_read > 1_000 for line in lines) >= COUNT - 6


async def test_a_stop_does_not_wait_for_those_who_wait(tmp_path: Path) -> None:
    """The first hangs, the others wait for it: all are handed back at once, and only one call was made."""
    clock = SystemClock()
    async with started(tmp_path, workers=4, cache_wait_s=500) as bursar:
        bursar.script(HANG)
        tasks = [await bursar.submit(f"Say {n}.", tools=["calculator"], **ASKED) for n in range(3)]
        await bursar.saw(tasks[0]["id"], "attempt_started")
        for task in tasks[1:]:
            await bursar.saw(task["id"], "task_claimed")
        began_s = clock.monotonic_s()
        await asyncio.wait_for(bursar.service.drain(), 30)
        assert clock.monotonic_s() - began_s < 30
        assert len(bursar.simulator.log.seen) == 1
        rows = bursar.rows("SELECT status FROM tasks")
    assert {row["status"] for row in rows} == {"queued"}
