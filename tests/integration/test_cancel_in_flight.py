"""A cancel in the middle of work: the socket closes, tools are told, what is known of the price is booked."""

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.simulator.core import Simulator
from app.tools.port import Tool
from app.tools.threads import given_up
from tests.support.clock import yielded
from tests.support.probe import ANYTHING
from tests.support.service import HANG, Running, started, started_at
from tests.support.wire import Then, Wire, chunk, event, stream_head

_SOON_S = 15.0
"""What was asked hangs for ever; room for a busy machine."""
_START: dict[str, Any] = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-haiku-5-5",
        "content": [],
        "stop_reason": None,
        "usage": {"input_tokens": 30, "output_tokens": 1},
    },
}
_STREAMED: dict[str, Any] = {"max_tokens": 9_000, "complexity": "simple"}
_WITH_TOOL: dict[str, Any] = {"tools": ["slow"], "complexity": "simple"}


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service over the simulator."""
    async with started(tmp_path) as running:
        yield running


async def _cancelled(bursar: Running, task_id: str) -> dict[str, Any]:
    """Cancel it and wait for its end, which must come soon."""
    clock = SystemClock()
    since_s = clock.monotonic_s()
    answer = await bursar.client.post(f"/tasks/{task_id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["status"] in {"cancelling", "cancelled"}
    ended = await bursar.finished(task_id)
    assert clock.monotonic_s() - since_s < _SOON_S
    assert (ended["status"], ended["outcome"]) == ("cancelled", "cancelled")
    assert ended["reserved_usd"] == 0
    return ended


async def _failure(bursar: Running, task_id: str) -> dict[str, Any]:
    """What the journal says of the call that was broken off."""
    (failed,) = [e for e in await bursar.events(task_id) if e["type"] == "attempt_failed"]
    data: dict[str, Any] = failed["data"]
    assert data["error_type"] == "interrupted"
    return data


async def test_a_stream_that_had_begun_is_booked_by_its_report(bursar: Running) -> None:
    """More than the bill, less than the reservation, and marked as an estimate."""
    bursar.script({"kind": "slow_body", "delay_s": 30})
    task = await bursar.submit(**_STREAMED)
    reservation = await bursar.saw(task["id"], "attempt_started")
    async with asyncio.timeout(10):
        while not bursar.simulator.bill.lines:
            await yielded()
    await yielded(200)  # the stream's first event is on its way
    ended = await _cancelled(bursar, task["id"])
    failed = await _failure(bursar, task["id"])
    (billed,) = bursar.simulator.bill.lines
    assert failed["kind"] == "estimated"
    assert ended["cost"]["estimated_usd"] == ended["cost_usd"] == failed["charged_usd"] > 0
    assert billed.nano <= round(ended["cost_usd"] * 1e9)
    assert ended["cost_usd"] < reservation["data"]["reserved_usd"]


async def test_a_call_of_which_nothing_is_known_is_presumed(bursar: Running) -> None:
    """No byte had come: the whole reservation counts as spent."""
    bursar.script(HANG)
    task = await bursar.submit()
    reservation = await bursar.saw(task["id"], "attempt_started")
    async with asyncio.timeout(10):
        while not bursar.simulator.bill.lines:
            await yielded()
    ended = await _cancelled(bursar, task["id"])
    assert ended["cost_usd"] == ended["cost"]["presumed_usd"]
    assert ended["cost_usd"] == reservation["data"]["reserved_usd"]


@pytest.mark.parametrize("begun", [(), (stream_head(), chunk(event(_START)))])
async def test_the_calls_socket_closes(tmp_path: Path, begun: tuple[bytes, ...]) -> None:
    """The provider's side sees the connection end; nobody is left who could still be sent tokens."""
    async with Wire() as wire:
        wire.play(*begun, Then.STALL)
        async with started_at(wire.url, Simulator(SystemClock()), tmp_path) as bursar:
            task = await bursar.submit(**_STREAMED)
            async with asyncio.timeout(10):
                await wire.arrived.wait()
            await yielded(200)
            assert not wire.client_gone.is_set()
            await _cancelled(bursar, task["id"])
            async with asyncio.timeout(_SOON_S):
                await wire.client_gone.wait()
            assert len(wire.requests) == 1
            kind = "estimated" if begun else "presumed"
            assert (await _failure(bursar, task["id"]))["kind"] == kind


def _add(bursar: Running, run: Any) -> None:
    """Give the service one more tool."""
    tool = Tool(name="slow", description="Takes long.", input_schema=ANYTHING, run=run)
    bursar.service.tools.register(tool)


async def test_a_tool_is_told(bursar: Running) -> None:
    """A coroutine is cancelled, its task ends at once, and the model is not asked again."""
    entered, told = asyncio.Event(), asyncio.Event()

    async def slow(_arguments: dict[str, Any]) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            raise
        return "never"

    _add(bursar, slow)
    task = await bursar.submit('[[sim {"steps": 2}]] Work.', **_WITH_TOOL)
    async with asyncio.timeout(10):
        await entered.wait()
    await _cancelled(bursar, task["id"])
    async with asyncio.timeout(_SOON_S):
        await told.wait()
    assert len(bursar.simulator.log.seen) == 1


async def test_a_tool_in_a_thread_can_ask(bursar: Running) -> None:
    """A plain function cannot be stopped, but it can ask whether anybody still waits for it."""
    entered, stopped = threading.Event(), threading.Event()
    asked: list[bool] = []

    def slow(_arguments: dict[str, Any]) -> str:
        asked.append(given_up())
        entered.set()
        while not given_up():
            stopped.wait(0.01)
        stopped.set()
        return "stopped"

    _add(bursar, slow)
    task = await bursar.submit('[[sim {"steps": 2}]] Work.', **_WITH_TOOL)
    assert await asyncio.to_thread(entered.wait, 10)
    await _cancelled(bursar, task["id"])
    assert await asyncio.to_thread(stopped.wait, 10)
    assert asked == [False]
    assert len(bursar.simulator.log.seen) == 1
