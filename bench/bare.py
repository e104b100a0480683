"""The bare loop: the SDK and a tool, as an engineer writes it by hand. No queue, no journal, no budget.

    python -m bench.bare URL default|aiohttp asyncio|uvloop

Reads lines `w1 1000 100` (what, how many tasks, how many at a time) and answers each with `done 0` when the tasks have
ended: so many of them have failed.
"""

import asyncio
import sys
from collections.abc import Iterator
from typing import cast

import anthropic
import uvloop
from anthropic import AsyncAnthropic, DefaultAioHttpClient
from anthropic.types import MessageParam, ToolParam, ToolResultBlockParam

from app.tools.builtin.calculator import calculate, calculator_tool
from app.tools.registry import ToolRegistry
from bench.workload import MAX_TOKENS, MODEL, TEXT

_TOOLS = cast(
    "list[ToolParam]", list(ToolRegistry([calculator_tool()]).definitions(["calculator"]))
)


async def run_task(client: AsyncAnthropic, tools: list[ToolParam]) -> str:
    """One task to its answer."""
    messages: list[MessageParam] = [{"role": "user", "content": TEXT}]
    while True:
        response = await client.messages.create(
            model=MODEL,
            max_tokens=MAX_TOKENS,
            messages=messages,
            tools=tools or anthropic.omit,
        )
        if response.stop_reason != "tool_use":
            return "".join(block.text for block in response.content if block.type == "text")
        messages.append({"role": "assistant", "content": response.content})
        results: list[ToolResultBlockParam] = [
            {
                "type": "tool_result",
                "tool_use_id": block.id,
                "content": calculate(str(block.input["expression"])),
            }
            for block in response.content
            if block.type == "tool_use"
        ]
        messages.append({"role": "user", "content": results})


async def run_tasks(client: AsyncAnthropic, what: str, count: int, at_a_time: int) -> int:
    """`count` tasks, `at_a_time` side by side; how many of them failed."""
    tools = _TOOLS if what == "w2" else []
    waiting, failed = iter(range(count)), 0

    async def work(numbers: Iterator[int]) -> None:
        nonlocal failed
        for _ in numbers:
            try:
                await run_task(client, tools)
            except anthropic.APIError:
                failed += 1

    await asyncio.gather(*(work(waiting) for _ in range(at_a_time)))
    return failed


async def _main(url: str, transport: str) -> None:
    http_client = DefaultAioHttpClient() if transport == "aiohttp" else None
    async with AsyncAnthropic(api_key="bench", base_url=url, http_client=http_client) as client:
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        loop = asyncio.get_running_loop()
        while command := await loop.run_in_executor(None, sys.stdin.readline):
            what, count, at_a_time = command.split()
            failed = await run_tasks(client, what, int(count), int(at_a_time))
            sys.stdout.write(f"done {failed}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    (uvloop.run if sys.argv[3] == "uvloop" else asyncio.run)(_main(sys.argv[1], sys.argv[2]))
