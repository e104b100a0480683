"""A whole service whose wall clock is set by an hour, again and again, while it works."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import US_PER_S, SystemClock
from app.store.sqlite_file import DATABASE_NAME
from tests.acceptance.books import check_all, read_books
from tests.support.loglines import LineChecker
from tests.support.service import started

_HOUR_S = 3_600
_BACK_S = 60.0
"""How soon a task goes on that waited for its next attempt when the clock was set."""


class _SetClock(SystemClock):
    """The machine's clock, and what somebody set it wrong by."""

    def __init__(self) -> None:
        self.set_s = 0.0

    def now_us(self) -> int:
        return super().now_us() + int(self.set_s * US_PER_S)


@pytest.mark.parametrize(
    "jumps", [(_HOUR_S,), (-_HOUR_S,), (_HOUR_S, -2 * _HOUR_S, _HOUR_S)], ids=str
)
async def test_set_while_it_works(
    tmp_path: Path, log_lines: LineChecker, jumps: tuple[float, ...]
) -> None:
    """Every task is answered in its first run but for those that were put off; nothing is asked or paid twice."""
    clock = _SetClock()
    async with started(
        tmp_path, clock=clock, workers=6, park_after_s=1.0, session_budget_usd=50
    ) as bursar:
        slow = {"kind": "latency", "delay_s": 0.5}
        bursar.script({"kind": "overloaded", "retry_after": 4}, *[slow] * 5)
        body: dict[str, Any] = {
            "task": 'Work. [[sim {"steps": 2}]]',
            "tools": ["calculator"],
            "complexity": "simple",
            "deadline_s": 8_000,
        }
        parked = await bursar.submit(**body)
        await bursar.saw(parked["id"], "task_requeued")
        tasks = [await bursar.submit(**body) for _ in range(10)]
        async with asyncio.timeout(20):
            while len(bursar.simulator.log.seen) < 6:
                await clock.sleep(0.01)
        for jump_s in jumps:
            clock.set_s += jump_s
            await clock.sleep(0.2)
        since_s = clock.monotonic_s()
        ends = [await bursar.finished(task["id"]) for task in (parked, *tasks)]
        assert clock.monotonic_s() - since_s < _BACK_S
        later = await bursar.run(**body)
        simulator = bursar.simulator
    assert {end["outcome"] for end in (*ends, later)} == {"answered"}
    assert [end["runs"] for end in ends[1:]] == [1] * len(tasks)
    assert ends[0]["runs"] == 2
    assert all(end["cost"]["presumed_usd"] == 0 for end in ends)
    books = read_books(tmp_path / DATABASE_NAME, simulator.bill.as_json(with_lines=True))
    check_all(books, {end["id"] for end in ends})
    assert len(books.bill) == 3 * (len(ends) + 1)
    lost = {"lease_lost", "worker_lost", "run_lost", "run_stale"}
    assert not lost & {entry["event"] for entry in log_lines.entries()}
