"""Deadlines of a task, of a call, of a tool: each holds against somebody who does not care about it."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.tools.port import Tool
from tests.support.probe import ANYTHING
from tests.support.service import HANG, Running, started

_CLOCK = SystemClock()
_LATE_S = 10.0
"""How much later than its deadline something may end on a busy machine."""
_TRICKLE = {"kind": "slow_body", "pieces": 10_000, "delay_s": 0.02}
"""Bytes that come and come: no wait between two of them is ever long."""
_STREAMED: dict[str, Any] = {"max_tokens": 9_000}


@asynccontextmanager
async def _takes(at_least_s: float) -> AsyncIterator[None]:
    """What is in the block takes that long, and not much longer."""
    since_s = _CLOCK.monotonic_s()
    yield
    took_s = _CLOCK.monotonic_s() - since_s
    assert at_least_s <= took_s < at_least_s + _LATE_S


async def _of(bursar: Running, task: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    return [e["data"] for e in await bursar.events(task["id"]) if e["type"] == kind]


@pytest.mark.parametrize("body", [{}, _STREAMED], ids=["plain", "streamed"])
async def test_a_call_that_trickles(tmp_path: Path, body: dict[str, Any]) -> None:
    """An upstream that keeps sending bytes is bounded by the call's total time, and the call is tried again."""
    async with started(tmp_path, call_timeout_s=0.5) as bursar:
        bursar.script(_TRICKLE)
        async with _takes(0.5):
            task = await bursar.run('Say. [[sim {"answer_tokens": 400}]]', **body)
        (failed,) = await _of(bursar, task, "attempt_failed")
    assert (task["outcome"], failed["error_type"]) == ("answered", "timeout")
    assert failed["kind"] == ("estimated" if body else "presumed")
    assert failed["charged_usd"] > 0
    assert task["cost_usd"] >= failed["charged_usd"]


async def test_a_call_just_in_time(tmp_path: Path) -> None:
    """A slow answer below the limit is an answer: made once, paid as it was."""
    async with started(tmp_path, call_timeout_s=20) as bursar:
        bursar.script({"kind": "latency", "delay_s": 0.4})
        async with _takes(0.4):
            task = await bursar.run()
        assert await _of(bursar, task, "attempt_failed") == []
    assert task["cost_usd"] == task["cost"]["confirmed_usd"] > 0


@pytest.mark.parametrize(
    ("rule", "kind"), [(HANG, "presumed"), (_TRICKLE, "estimated")], ids=["silent", "trickling"]
)
async def test_a_task_in_the_middle_of_a_call(bursar: Running, rule: Any, kind: str) -> None:
    """At the task's deadline its call is broken off and booked by what is known of it; no other one is made."""
    bursar.script(rule)
    async with _takes(0.8):
        task = await bursar.run(
            'Say. [[sim {"answer_tokens": 400}]]', deadline_s=0.8, complexity="simple", **_STREAMED
        )
    assert (task["status"], task["outcome"]) == ("failed", "deadline")
    assert task["error"]["type"] == "deadline"
    assert task["reserved_usd"] == 0
    assert task["cost_usd"] == task["cost"][f"{kind}_usd"] > 0
    assert len(bursar.simulator.log.seen) == 1


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service whose tools may take half a second."""
    async with started(tmp_path, tool_timeout_s=0.5) as running:
        yield running


def _add(bursar: Running, run: Callable[[dict[str, Any]], Any]) -> None:
    tool = Tool(name="stuck", description="Gets stuck.", input_schema=ANYTHING, run=run)
    bursar.service.tools.register(tool)


@pytest.fixture
def gate() -> Any:
    """What a stuck thread waits for; opened at the end, so that no thread is left."""
    opened = threading.Event()
    yield opened
    opened.set()


async def _deaf(_arguments: dict[str, Any]) -> str:
    """A coroutine that answers its cancellation by going on, for a while."""
    for _ in range(3):
        try:
            await _CLOCK.sleep(1.5)
        except asyncio.CancelledError:
            continue
    return "late"


@pytest.mark.parametrize("how", ["thread", "deaf coroutine"])
async def test_a_tool_that_does_not_stop(bursar: Running, gate: threading.Event, how: str) -> None:
    """The model is told that it timed out, the task goes on and ends, while the tool still hangs."""
    _add(bursar, _deaf if how == "deaf coroutine" else lambda _arguments: gate.wait(30))
    async with _takes(0.5):
        task = await bursar.run('Work. [[sim {"steps": 1}]]', tools=["stuck"], complexity="simple")
    (finished,) = await _of(bursar, task, "tool_finished")
    assert (task["outcome"], finished["outcome"]) == ("answered", "timeout")
    assert finished["is_error"]
    assert finished["duration_s"] >= 0.5
    assert not gate.is_set()


@pytest.mark.parametrize("how", ["thread", "deaf coroutine"])
async def test_a_task_in_the_middle_of_a_tool(
    tmp_path: Path, gate: threading.Event, how: str
) -> None:
    """The tool's own limit is far away: the task ends at its deadline all the same, and asks nothing more."""
    async with started(tmp_path, tool_timeout_s=60) as bursar:
        _add(bursar, _deaf if how == "deaf coroutine" else lambda _arguments: gate.wait(30))
        async with _takes(0.8):
            task = await bursar.run(
                'Work. [[sim {"steps": 1}]]', tools=["stuck"], deadline_s=0.8, complexity="simple"
            )
        assert (task["outcome"], len(bursar.simulator.log.seen)) == ("deadline", 1)


async def test_a_task_that_waits_for_its_next_attempt(bursar: Running) -> None:
    """A retry that would come after the deadline is not waited for."""
    bursar.script({"kind": "rate_limit", "retry_after": 3_000})
    task = await bursar.run(deadline_s=600)
    assert (task["status"], task["outcome"]) == ("failed", "upstream_failed")
    assert len(bursar.simulator.log.seen) == 1
