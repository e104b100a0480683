"""Streams with `deltas=true`: the answer while it is being written, beside the journal and never in it."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from app.llm.live import WATCHER_LIMIT_CHARS
from tests.support.asgi import Stream
from tests.support.service import HANG, Running, started

TALE = 'Tell me a tale. [[sim {"answer_tokens": 900}]]'


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service that runs one task at a time."""
    async with started(tmp_path, workers=1) as running:
        yield running


def _parsed(message: str) -> dict[str, Any]:
    found: dict[str, Any] = dict(line.split(": ", 1) for line in message.split("\n"))
    return {**found, "data": json.loads(found["data"])}


async def _rest(stream: Stream) -> list[dict[str, Any]]:
    """Every message until the end; those without an id are text."""
    found = []
    while (message := await stream.message()) is not None:
        if not message.startswith(":"):
            found.append(_parsed(message))
    return found


@asynccontextmanager
async def _watched(
    bursar: Running, task: str = TALE, query: str = "?deltas=true", **fields: object
) -> AsyncIterator[tuple[dict[str, Any], Stream]]:
    """A task that begins only once its stream is there."""
    bursar.script({**HANG, "prompt_contains": "First of all."})
    first = await bursar.submit("First of all.")
    await bursar.saw(first["id"], "attempt_started")
    submitted = await bursar.submit(task, **fields)
    async with bursar.stream(submitted["links"]["events"] + query) as stream:
        first_message = await stream.message()
        assert first_message is not None
        assert "task_accepted" in first_message
        yield submitted, stream


async def _let_go(bursar: Running, *rules: dict[str, object]) -> None:
    """The task that holds the only worker ends; from now on the simulator takes these faults."""
    bursar.script(*rules)
    (holding,) = (await bursar.client.get("/tasks", params={"status": "running"})).json()["tasks"]
    await bursar.client.post(holding["links"]["cancel"])


def _texts(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [m["data"] for m in messages if m["event"] == "text_delta"]


async def test_the_text_comes_while_it_is_written(bursar: Running) -> None:
    """In order, without gaps, before the answer is in the journal; together it is the result."""
    async with _watched(bursar) as (task, stream):
        await _let_go(bursar, {"kind": "slow_body", "delay_s": 0.001})
        messages = await _rest(stream)
    texts = _texts(messages)
    assert len(texts) > 1
    ended = await bursar.finished(task["id"])
    assert "".join(t["data"]["text"] for t in texts) == ended["result"]
    offset = 0
    for told in texts:
        assert (told["type"], told["run"], told["data"]["step"]) == ("text_delta", 1, 1)
        assert (told["data"]["attempt"], told["data"]["offset"]) == (1, offset)
        offset += len(told["data"]["text"])
    names = [m["event"] for m in messages]
    assert names.index("text_delta") < names.index("model_answered")
    assert all("id" not in m for m in messages if m["event"] == "text_delta")


async def test_never_in_the_journal(bursar: Running) -> None:
    """The journaled messages are those of every other stream, in number and content; no page shows a delta."""
    async with _watched(bursar) as (task, stream):
        await _let_go(bursar)
        messages = await _rest(stream)
    journaled = [m["data"] for m in messages if m["event"] != "text_delta"]
    pages = await bursar.events(task["id"])
    assert journaled == pages[1:]
    assert "text_delta" not in {entry["type"] for entry in pages}
    async with bursar.stream(task["links"]["events"] + "?deltas=true") as again:
        assert [m["data"] for m in await _rest(again)] == pages


async def test_only_who_asks_gets_it(bursar: Running) -> None:
    """Without `deltas` there is none, and nobody's watching makes the call a stream."""
    async with _watched(bursar, query="") as (_, stream):
        await _let_go(bursar)
        messages = await _rest(stream)
    assert _texts(messages) == []
    assert bursar.simulator.log.seen[-1].request["stream"] is False


@pytest.mark.parametrize("kind", ["cut_mid_stream", "stream_error", "stream_eof"])
async def test_a_retry_makes_the_earlier_text_void(bursar: Running, kind: str) -> None:
    """The second attempt's pieces begin at 0 again, under its own number; they alone are the result."""
    async with _watched(bursar) as (task, stream):
        await _let_go(bursar, {"kind": kind})
        messages = await _rest(stream)
    texts = [t["data"] for t in _texts(messages)]
    attempts = [t["attempt"] for t in texts]
    assert attempts == sorted(attempts)
    assert set(attempts) == {1, 2}
    second = [t for t in texts if t["attempt"] == 2]
    assert second[0]["offset"] == 0
    ended = await bursar.finished(task["id"])
    assert "".join(t["text"] for t in second) == ended["result"]
    assert ended["cost"]["estimated_usd"] > 0


async def test_a_watcher_that_does_not_read_holds_nothing_up(bursar: Running) -> None:
    """The call goes on and the task ends; what was too much is gone, the journal's events are all there."""
    long = 'Tell me. [[sim {"answer_tokens": 60000}]]'
    async with _watched(bursar, long, max_tokens=64_000, complexity="complex", budget_usd=9) as (
        task,
        stream,
    ):
        with bursar.service.services.live.watch(task["id"]) as idle:
            await _let_go(bursar)
            ended = await bursar.finished(task["id"])
            kept = idle.take()
        messages = await _rest(stream)
    assert ended["outcome"] == "answered"
    assert len(ended["result"]) > WATCHER_LIMIT_CHARS
    assert sum(len(delta.text) for delta in kept) <= WATCHER_LIMIT_CHARS
    assert kept[-1].offset + len(kept[-1].text) == len(ended["result"])
    journaled = [m["data"]["seq"] for m in messages if m["event"] != "text_delta"]
    assert journaled == list(range(2, journaled[-1] + 1))


async def test_cancel_with_a_live_watcher(bursar: Running) -> None:
    """The socket closes at once, the stream ends with the task, and what is known of the call is booked."""
    async with _watched(bursar) as (task, stream):
        await _let_go(bursar, {"kind": "slow_body", "delay_s": 0.2})
        reserved = await bursar.saw(task["id"], "attempt_started")
        while (message := await stream.message()) is not None and "text_delta" not in message:
            pass
        await bursar.client.post(task["links"]["cancel"])
        messages = await _rest(stream)
    assert messages[-1]["event"] == "task_finished"
    ended = await bursar.finished(task["id"])
    assert ended["status"] == "cancelled"
    assert (
        0 < ended["cost_usd"] == ended["cost"]["estimated_usd"] < reserved["data"]["reserved_usd"]
    )


@pytest.mark.parametrize("kind", ["cut_mid_stream", "stream_error", "stream_eof"])
async def test_tools_run_only_after_the_end_of_the_message(bursar: Running, kind: str) -> None:
    """A stream cut behind whole tool calls runs none of them: the retry's calls alone do."""
    asked = 'Work. [[sim {"steps": 1, "parallel": 5}]]'
    async with _watched(bursar, asked, tools=["calculator", "text_stats"]) as (task, stream):
        await _let_go(bursar, {"kind": kind})
        messages = await _rest(stream)
    ended = await bursar.finished(task["id"])
    assert ended["outcome"] == "answered"
    names = [m["event"] for m in messages]
    failed, answered = names.index("attempt_failed"), names.index("model_answered")
    assert failed < answered < names.index("tool_started")
    assert names.count("tool_started") == names.count("tool_finished") == 5


async def test_a_watcher_that_hangs_up_is_forgotten(bursar: Running) -> None:
    """The call goes on without it; no watcher is left, nor counted."""
    async with _watched(bursar) as (task, _):
        pass
    await _let_go(bursar)
    ended = await bursar.finished(task["id"])
    assert ended["outcome"] == "answered"
    assert bursar.service.services.live.voice(task["id"], 1, 1, 1) is None
    assert "bursar_sse_clients 0.0" in (await bursar.client.get("/metrics")).text


async def test_a_stop_ends_it(bursar: Running) -> None:
    """A stopping service does not wait for who watches the text."""
    async with _watched(bursar) as (_, stream):
        await bursar.service.drain()
        await _rest(stream)
