"""Tools that do not come back: the caller is freed, and what is left behind stays bounded."""

import asyncio
import contextvars
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.tools.port import ToolOutcome
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from app.tools.threads import ToolThreads
from tests.unit.tools.conftest import RegistryOf
from tests.unit.tools.support import answer, tool

SHORT_S = 0.02


async def until(condition: Callable[[], bool]) -> None:
    """Wait for a condition that other threads or callbacks bring about."""
    async with asyncio.timeout(10):
        while not condition():
            await SystemClock().sleep(0.001)


def stuck_on(
    gate: threading.Event, started: threading.Event | None = None
) -> Callable[[dict[str, Any]], str]:
    def run(values: dict[str, Any]) -> str:
        if started is not None:
            started.set()
        gate.wait()
        return "late"

    return run


class Stubborn:
    """A coroutine tool that answers cancellation by going on."""

    def __init__(self) -> None:
        self.started = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled_count = 0

    async def __call__(self, values: dict[str, Any]) -> str:
        self.started.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled_count += 1
        return "late"


async def test_coroutine_past_its_deadline_is_cancelled(registry_of: RegistryOf) -> None:
    """A well-behaved coroutine is stopped, and gone soon after."""
    stopped = asyncio.Event()

    async def run(values: dict[str, Any]) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.set()

    registry = registry_of(tool(run, timeout_s=SHORT_S))
    result = await answer(registry)
    assert (result.outcome, result.error_type) == (ToolOutcome.TIMEOUT, "timeout")
    assert result.is_error
    assert result.duration_s >= SHORT_S * 0.9
    await stopped.wait()
    await until(lambda: not registry.stragglers)


async def test_coroutine_that_ignores_cancellation(registry_of: RegistryOf) -> None:
    """It cannot keep its caller; it is watched until it ends, and its late answer is dropped."""
    stubborn = Stubborn()
    registry = registry_of(tool(stubborn, timeout_s=SHORT_S))
    result = await answer(registry)
    assert result.outcome is ToolOutcome.TIMEOUT
    await until(lambda: stubborn.cancelled_count == 1)
    assert len(registry.stragglers) == 1
    stubborn.release.set()
    await until(lambda: not registry.stragglers)


async def test_too_many_stragglers(registry_of: RegistryOf) -> None:
    """Coroutines that do not stop are bounded: beyond the limit a call is refused at once."""
    stubborn = Stubborn()
    registry = registry_of(tool(stubborn, timeout_s=SHORT_S), straggler_limit=2)
    for _ in range(2):
        assert (await answer(registry)).outcome is ToolOutcome.TIMEOUT
    refused = await answer(registry)
    assert (refused.outcome, refused.error_type) == (ToolOutcome.ERROR, "too_many_stragglers")
    stubborn.release.set()
    await until(lambda: not registry.stragglers)
    assert (await answer(registry)).content == "late"


@pytest.mark.parametrize(("idempotent", "words"), [(True, "called again"), (False, "unknown")])
async def test_timeout_says_what_it_means(
    registry_of: RegistryOf, gate: threading.Event, idempotent: bool, words: str
) -> None:
    """After a timeout the model learns whether calling again is safe."""
    probe = tool(stuck_on(gate), timeout_s=SHORT_S, idempotent=idempotent)
    assert words in (await answer(registry_of(probe))).content


async def test_task_may_allow_less_time(registry_of: RegistryOf, gate: threading.Event) -> None:
    """The task's limit wins over what the tool declares."""
    registry = registry_of(tool(stuck_on(gate), timeout_s=3600))
    result = await answer(registry, limits=ToolLimits(timeout_limit_s=SHORT_S))
    assert result.outcome is ToolOutcome.TIMEOUT
    assert "0.02 s" in result.content


async def test_all_threads_hang(registry_of: RegistryOf, gate: threading.Event) -> None:
    """When every thread is past its deadline a call is refused at once; afterwards all is well."""
    probe = tool(stuck_on(gate), timeout_s=SHORT_S)
    patient = tool(lambda _: "done", name="patient", timeout_s=3600)
    registry = registry_of(probe, patient, thread_limit=2)
    hung = await asyncio.gather(answer(registry), answer(registry))
    assert [result.error_type for result in hung] == ["timeout", "timeout"]
    refused = await answer(registry, "patient")
    assert (refused.outcome, refused.error_type) == (ToolOutcome.ERROR, "no_free_thread")
    assert "all 2 threads" in refused.content
    gate.set()
    deadline = asyncio.get_running_loop().time() + 10
    while refused.outcome is ToolOutcome.ERROR and asyncio.get_running_loop().time() < deadline:
        refused = await answer(registry, "patient")
    assert refused.content == "done"


async def test_busy_is_not_hung(registry_of: RegistryOf, gate: threading.Event) -> None:
    """While a call is within its deadline, others wait for its thread."""
    slow = tool(stuck_on(gate), name="slow", timeout_s=3600)
    registry = registry_of(slow, tool(lambda _: "second"), thread_limit=1)
    first = asyncio.ensure_future(answer(registry, "slow"))
    second = asyncio.ensure_future(answer(registry))
    await asyncio.wait((first, second), timeout=SHORT_S)
    assert not second.done()
    gate.set()
    assert (await first).content == "late"
    assert (await second).content == "second"


async def test_never_started_never_runs(registry_of: RegistryOf, gate: threading.Event) -> None:
    """A call that gave up waiting for a thread has no effect later."""
    ran: list[str] = []
    started = threading.Event()
    slow = tool(stuck_on(gate, started), name="slow", timeout_s=3600)
    late = tool(lambda _: ran.append("late"), name="late", timeout_s=SHORT_S)
    registry = registry_of(slow, late, tool(lambda _: "last"), thread_limit=1)
    first = asyncio.ensure_future(answer(registry, "slow"))
    await until(started.is_set)
    given_up = await answer(registry, "late")
    assert (given_up.outcome, given_up.error_type) == (ToolOutcome.TIMEOUT, "not_started")
    gate.set()
    await first
    assert (await answer(registry)).content == "last"
    assert ran == []


async def test_cancelled_caller_leaves_a_thread(
    registry_of: RegistryOf, gate: threading.Event
) -> None:
    """The caller's cancellation does not wait for a thread, which is not yet counted as hung."""
    started = threading.Event()
    slow = tool(stuck_on(gate, started), timeout_s=3600)
    registry = registry_of(slow, tool(lambda _: "ok", name="next"), thread_limit=1)
    caller = asyncio.ensure_future(answer(registry))
    await until(started.is_set)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    following = asyncio.ensure_future(answer(registry, "next"))
    await asyncio.wait((following,), timeout=SHORT_S)
    assert not following.done()
    gate.set()
    assert (await following).content == "ok"


async def test_cancelled_caller_stops_its_coroutine(registry_of: RegistryOf) -> None:
    """The caller's cancellation reaches the tool, and the caller does not wait for it."""
    stubborn = Stubborn()
    registry = registry_of(tool(stubborn))
    caller = asyncio.ensure_future(answer(registry))
    await stubborn.started.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await until(lambda: stubborn.cancelled_count == 1)
    stubborn.release.set()
    await until(lambda: not registry.stragglers)


@pytest.mark.parametrize("mode", ["async", "thread", "inline"])
async def test_tool_that_cancels_itself(registry_of: RegistryOf, mode: str) -> None:
    """A CancelledError of the tool's own making is an error, not the caller's cancellation."""

    def run(values: dict[str, Any]) -> None:
        raise asyncio.CancelledError

    async def run_async(values: dict[str, Any]) -> None:
        raise asyncio.CancelledError

    probe = tool(run_async) if mode == "async" else tool(run, inline=mode == "inline")
    result = await answer(registry_of(probe))
    assert result.outcome is ToolOutcome.ERROR
    assert result.error_type in {"cancelled", "CancelledError"}


async def test_plain_functions_run_in_the_tools_own_threads(registry_of: RegistryOf) -> None:
    """Neither on the loop nor in the default pool; threads are daemons and are used again."""
    registry = registry_of(
        tool(lambda _: [threading.current_thread().name, threading.current_thread().daemon])
    )
    names = [(await answer(registry)).content for _ in range(20)]
    assert all(re.fullmatch(r'\["tool-\d+",true\]', name) for name in names), names
    assert len(set(names)) < len(names)


async def test_inline_runs_on_the_loop(registry_of: RegistryOf) -> None:
    """Inline means: in the caller's own thread."""
    registry = registry_of(tool(lambda _: threading.current_thread().name, inline=True))
    assert (await answer(registry)).content == threading.current_thread().name


async def test_thread_sees_the_callers_context(registry_of: RegistryOf) -> None:
    """Context variables, which carry ids for logs, reach the thread."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")
    variable.set("here")
    registry = registry_of(tool(lambda _: variable.get()))
    assert (await answer(registry)).content == "here"


async def test_no_thread_after_close(registry_of: RegistryOf) -> None:
    """A closed registry refuses what needs a thread, and says why."""
    registry = registry_of(tool(lambda _: "x"))
    registry.close()
    result = await answer(registry)
    assert result.error_type == "no_free_thread"
    assert "stopping" in result.content


async def test_close_ends_idle_threads(registry_of: RegistryOf) -> None:
    """After `close` no thread of the registry is left, once its calls have ended."""
    threads: list[threading.Thread] = []
    registry = registry_of(tool(lambda _: threads.append(threading.current_thread())))
    await answer(registry)
    registry.close()
    await until(lambda: not any(thread.is_alive() for thread in threads))


def test_thread_limit_is_at_least_one() -> None:
    """A pool without threads could never answer."""
    with pytest.raises(ValueError, match="thread_limit"):
        ToolThreads(0)


def test_answer_after_the_loop_is_gone(gate: threading.Event) -> None:
    """A hung thread that ends after its loop was closed does no harm and leaves the pool usable."""
    registry = ToolRegistry(
        [tool(stuck_on(gate), timeout_s=SHORT_S), tool(lambda _: "ok", name="next")],
        thread_limit=1,
    )
    assert asyncio.run(answer(registry)).error_type == "timeout"
    gate.set()

    async def again() -> str:
        result = await answer(registry, "next")
        while result.error_type == "no_free_thread":
            result = await answer(registry, "next")
        return result.content

    assert asyncio.run(again()) == "ok"
    registry.close()
