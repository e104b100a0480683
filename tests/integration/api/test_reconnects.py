"""Event streams that break at any byte: what a client puts together is the journal, exactly."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.support.asgi import opened
from tests.support.follower import Connect, Follower, Parts
from tests.support.service import Running, started

_TASK = 'Work. [[sim {"steps": 3, "parallel": 2}]]'
_TOOLS: dict[str, Any] = {"tools": ["calculator", "text_stats"], "complexity": "simple"}


def _over(bursar: Running, task: dict[str, Any]) -> Connect:
    @asynccontextmanager
    async def connect(last: int) -> AsyncIterator[tuple[int, Parts]]:
        headers = {"accept": "text/event-stream"}
        if last:
            headers["last_event_id"] = str(last)
        async with opened(bursar.service.app, task["links"]["events"], headers) as stream:

            async def parts() -> Parts:
                while (part := await stream.part()) is not None:
                    yield part

            yield stream.status, parts()

    return connect


@pytest.mark.parametrize("reconnects", [1_000, pytest.param(20_000, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
async def test_a_thousand_reconnects(tmp_path: Path, reconnects: int) -> None:
    """Ten tasks, watched while they run and afterwards: no gap, nothing twice, nothing out of order."""
    draw, count = Random(11), 0  # noqa: S311
    async with started(tmp_path, workers=4) as bursar:
        usual = {"kind": "latency", "delay_s": [0.0, 0.05], "probability": 1}
        while count < reconnects:
            bursar.script(*({**usual, "probability": None} for _ in range(40)))
            tasks = [await bursar.submit(_TASK, **_TOOLS) for _ in range(10)]
            followers = [
                (task, Follower(_over(bursar, task), draw)) for task in tasks for _ in range(4)
            ]
            await asyncio.gather(*(follower.follow() for _, follower in followers))
            for task, follower in followers:
                journal = [
                    {"id": event["seq"], "data": event} for event in await bursar.events(task["id"])
                ]
                assert follower.seen == journal
                assert journal[-1]["data"]["type"] == "task_finished"
                count += follower.connections
    assert count >= reconnects
