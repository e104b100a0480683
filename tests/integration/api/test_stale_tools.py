"""Tools side by side: what ends the run of one of them ends all of them."""

import asyncio
from typing import Any

from app.domain.clock import SystemClock
from app.tools.port import Tool
from tests.support.probe import ANYTHING
from tests.support.service import Running

_CLOCK = SystemClock()


async def test_a_stale_run_stops_all_of_its_tools(bursar: Running) -> None:
    """Others have taken the task over: the first result is refused, and the tools beside it are told."""
    entered, told, go_on = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def quick(_arguments: dict[str, Any]) -> str:
        await go_on.wait()
        return "done"

    async def slow(_arguments: dict[str, Any]) -> str:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            told.set()
            raise
        return "never"

    for name, run in (("quick", quick), ("slow", slow)):
        tool = Tool(name=name, description="A tool.", input_schema=ANYTHING, run=run)
        bursar.service.tools.register(tool)
    text = '[[sim {"steps": 2, "parallel": 2, "tools": ["quick", "slow"]}]] Work.'
    await bursar.submit(text, tools=["quick", "slow"], complexity="simple")
    async with asyncio.timeout(25):
        await entered.wait()
    bursar.alter("UPDATE tasks SET run_count = run_count + 1")
    go_on.set()
    async with asyncio.timeout(25):
        while bursar.service.pool.running:
            await _CLOCK.sleep(0.01)
    async with asyncio.timeout(5):
        await told.wait()
