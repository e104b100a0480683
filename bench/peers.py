"""The same tasks with libraries of the field, each as its own documentation shows it.

    python -m bench.peers URL agno|langchain|pydantic_ai

In the environment that `make peers` makes. Speaks the protocol of `bench.bare`.
"""

import asyncio
import importlib
import itertools
import sys
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from app.tools.builtin.calculator import calculate
from bench.workload import MAX_TOKENS, MODEL, TEXT

Ask = Callable[[], Awaitable[str]]
"""One task to its answer."""


def calculator(expression: str) -> str:
    """Evaluate an arithmetic expression exactly."""
    return calculate(expression)


def agno(url: str, tools: list[Any]) -> Ask:
    """An `Agent` with the Claude model; one client for all, as its documentation advises for servers."""
    agent_class = importlib.import_module("agno.agent").Agent
    claude = importlib.import_module("agno.models.anthropic").Claude
    client = importlib.import_module("anthropic").AsyncAnthropic(api_key="bench", base_url=url)
    agent = agent_class(
        model=claude(id=MODEL, max_tokens=MAX_TOKENS, async_client=client, retries=0),
        tools=tools,
        telemetry=False,
    )

    async def ask() -> str:
        return str((await agent.arun(TEXT)).content)

    return ask


def langchain(url: str, tools: list[Any]) -> Ask:
    """`create_agent` with `ChatAnthropic`."""
    chat = importlib.import_module("langchain_anthropic").ChatAnthropic
    create_agent = importlib.import_module("langchain.agents").create_agent
    model = chat(
        model_name=MODEL,
        max_tokens=MAX_TOKENS,
        base_url=url,
        api_key="bench",
        max_retries=0,
    )
    agent = create_agent(model, tools)

    async def ask() -> str:
        ended = await agent.ainvoke({"messages": [{"role": "user", "content": TEXT}]})
        return str(ended["messages"][-1].text)

    return ask


def pydantic_ai(url: str, tools: list[Any]) -> Ask:
    """An `Agent` with `AnthropicModel`."""
    package = importlib.import_module("pydantic_ai")
    model_class = importlib.import_module("pydantic_ai.models.anthropic").AnthropicModel
    provider = importlib.import_module("pydantic_ai.providers.anthropic").AnthropicProvider
    client = importlib.import_module("anthropic").AsyncAnthropic(
        api_key="bench", base_url=url, max_retries=0
    )
    model = model_class(MODEL, provider=provider(anthropic_client=client))
    agent = package.Agent(model, tools=tools, model_settings={"max_tokens": MAX_TOKENS})

    async def ask() -> str:
        return str((await agent.run(TEXT)).output)

    return ask


_LIBRARIES = {"agno": agno, "langchain": langchain, "pydantic_ai": pydantic_ai}


async def _run(ask: Ask, count: int, at_a_time: int) -> int:
    """How many of the tasks failed."""
    numbers, answered = itertools.repeat(None, count), 0

    async def work() -> None:
        nonlocal answered
        for _ in numbers:
            with suppress(Exception):  # whatever the library raises
                answer = await ask()  # apart: `+=` would read the count before it waits
                answered += "Supervised learning" in answer

    await asyncio.gather(*(work() for _ in range(at_a_time)))
    return count - answered


async def _main(url: str, library: str) -> None:
    make = _LIBRARIES[library]
    agents = {"w1": make(url, []), "w2": make(url, [calculator])}
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    loop = asyncio.get_running_loop()
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        what, count, at_a_time = command.split()
        failed = await _run(agents[what], int(count), int(at_a_time))
        sys.stdout.write(f"done {failed}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1], sys.argv[2]))
