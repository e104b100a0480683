"""A task's history is bounded: beyond the limit it ends, whatever made it long."""

from pathlib import Path
from typing import Any

import pytest

from app.agent.job import History, HistoryLimits
from app.domain.task import Outcome, Subject
from app.journal.call_events import AttemptStarted
from app.journal.events import TaskRequeued
from app.journal.journal import Recorded
from app.tools.port import Tool
from tests.support.probe import ANYTHING
from tests.support.provider import answer, calls, status, text, tool_use
from tests.support.seeding import drift
from tests.support.service import Running, started


def _entry(seq: int, body: bytes | None) -> Recorded:
    return Recorded(seq, 0, Subject("t", "s"), TaskRequeued("drain", 0), body)


@pytest.mark.parametrize(
    ("events", "size_bytes", "reached"),
    [(9, 99, False), (10, 0, True), (0, 100, True), (11, 101, True)],
)
def test_either_limit(events: int, size_bytes: int, reached: bool) -> None:
    """Events and bytes are bounded apart."""
    assert HistoryLimits(10, 100).reached(History(events, size_bytes)) is reached


def test_what_counts() -> None:
    """Every event counts, and the bytes of answers and tool results."""
    history = History()
    for seq, body in ((1, None), (2, b"12345"), (3, b"")):
        history.grew(_entry(seq, body))
    assert (history.events, history.size_bytes) == (3, 5)


async def test_a_long_talk_ends(open_works: Any) -> None:
    """No further step begins beyond the limit; the end says why and keeps the latest text."""
    talk = [calls(tool_use(f"c{n}"), before=[text(f"part {n}")]) for n in range(9)]
    limits = HistoryLimits(12, 10_000_000)
    async with open_works(*talk, history_limits=limits) as works:
        await works.accept()
        await works.start()
        row = await works.ended()
        assert row["outcome"] == Outcome.HISTORY_LIMIT
        assert '"history_limit"' in row["error_json"]
        assert (row["result_partial"], row["reserved_nano"]) == (1, 0)
        assert len(works.desk.provider.asked) == 3  # two events before, then four a step
        assert await drift(works.desk.store) == []


async def test_a_task_that_is_parked_for_ever_ends(open_works: Any) -> None:
    """Runs that get nowhere make a history long, too: it is counted over all of them."""
    failures = [status(529, retry_after_s=30.0) for _ in range(99)]
    limits = HistoryLimits(20, 10_000_000)
    async with open_works(
        *failures, history_limits=limits, park_after_s=1.0, max_attempts=100, total_s=1e9
    ) as works:
        await works.accept(deadline_s=1e6)
        await works.start()
        while (row := await works.until("t", "queued", "failed"))["status"] == "queued":
            works.desk.clock.move(31)
            works.queue.wake()
        assert row["outcome"] == Outcome.HISTORY_LIMIT
        assert len(works.events(AttemptStarted)) < 6


async def test_large_results(tmp_path: Path) -> None:
    """A megabyte of tool results is enough where a megabyte is allowed."""
    async with started(
        tmp_path,
        task_history_limit_bytes=1_048_576,
        tool_result_limit_bytes=1_048_576,
        max_steps=20,
        task_budget_usd=50,
        session_budget_usd=50,
    ) as bursar:
        _add_large(bursar)
        task = await bursar.run(
            'Work. [[sim {"steps": 15}]]', tools=["large"], complexity="simple", max_steps=20
        )
    assert (task["status"], task["outcome"]) == ("failed", "history_limit")
    assert task["error"]["type"] == "history_limit"
    assert 2 < task["steps"] < 6


def _add_large(bursar: Running) -> None:
    async def large(_arguments: dict[str, Any]) -> str:
        return "x" * 300_000

    bursar.service.tools.register(
        Tool(name="large", description="Much.", input_schema=ANYTHING, run=large)
    )


async def test_the_default_lets_every_task_end_by_its_steps(open_works: Any) -> None:
    """A hundred steps with ten tools each stay below five thousand events."""
    limits = HistoryLimits()
    assert limits.events >= 100 * (2 + 2 * 20) + 500
    async with open_works(answer(text("done"))) as works:
        await works.accept()
        await works.start()
        assert (await works.ended())["outcome"] == Outcome.ANSWERED
