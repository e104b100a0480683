"""SIGTERM under load: no new work, no connection that holds the exit, nothing lost."""

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import ENDED, all_ended, bill_of, ended, set_faults, submit
from tests.support.process import Child, Service, service, simulator

_GRACE_S = 4.0
_STREAMS = 100
_AT_ONCE_S = 20.0
"""For an exit that must not wait for the grace of a minute; room for a busy machine."""
_SLOW = {"kind": "latency", "delay_s": 60, "prompt_contains": "forever", "probability": 1}
_TOOLS = {
    "task": 'Work. [[sim {"steps": 3, "parallel": 2}]]',
    "complexity": "simple",
    "tools": ["calculator"],
}
_FOREVER = {"task": "Take forever.", "complexity": "simple"}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator that is not stopped with the service, and slow with some tasks."""
    async with simulator(tmp_path) as running:
        usual = {"kind": "latency", "delay_s": [0.05, 0.3], "probability": 1}
        await set_faults(running, random=[_SLOW, usual], seed=5)
        yield running


class _Idle:
    """A connection that has asked once and then says nothing."""

    async def begin(self, bursar: Service) -> Self:
        """Ask."""
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", bursar.port)
        self._writer.write(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await self._reader.readexactly(length)
        return self

    async def rest(self) -> bytes:
        """What the service still says until it hangs up."""
        rest = await self._reader.read()
        self._writer.close()
        await self._writer.wait_closed()
        return rest


async def _watch(client: httpx.AsyncClient, task_id: str, begun: asyncio.Event) -> list[int]:
    """Follow a task's events until the server ends the stream; their numbers."""
    seen = []
    headers = {"accept": "text/event-stream"}
    async with client.stream("GET", f"/tasks/{task_id}/events", headers=headers) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                seen.append(int(line.removeprefix("id: ")))
                begun.set()
    return seen


async def _hold(client: httpx.AsyncClient, method: str, path: str, body: Any = None) -> Any:
    answer = await client.request(method, path, json=body, headers={"prefer": "wait=60"})
    assert answer.status_code in {200, 202}, answer.text
    return answer.json()


async def _stopping(client: httpx.AsyncClient) -> None:
    """Wait until the service says that it stops: not ready, and no new work."""
    while (probe := await client.get("/readyz")).status_code == 200:
        pass
    assert probe.status_code == 503
    refused = await client.post("/tasks", json=_FOREVER)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) > 0
    assert refused.json()["type"] == "urn:bursar:problem:stopping"
    assert (await client.get("/healthz")).status_code == 200


@pytest.mark.timeout(90)
async def test_sigterm_under_load(tmp_path: Path, upstream: httpx.AsyncClient) -> None:
    """Streams, held requests and idle connections let go; the exit is in time, the work goes on after."""
    settings = {"BURSAR_GRACE_S": str(_GRACE_S), "BURSAR_WORKERS": "8"}
    async with service(tmp_path, str(upstream.base_url), **settings) as bursar:
        child = await bursar.start()
        async with bursar.client() as client:
            slow = [await submit(client, _FOREVER) for _ in range(2)]
            quick = [await submit(client, _TOOLS) for _ in range(40)]
            idle = [await _Idle().begin(bursar) for _ in range(20)]
            begun = [asyncio.Event() for _ in range(_STREAMS)]
            watched = list(islice(cycle([*slow, *quick[-8:]]), _STREAMS))
            streams = [
                asyncio.create_task(_watch(client, task_id, event))
                for task_id, event in zip(watched, begun, strict=True)
            ]
            held_get = asyncio.create_task(_hold(client, "GET", f"/tasks/{slow[0]}"))
            held_post = asyncio.create_task(_hold(client, "POST", "/tasks", _FOREVER))
            await asyncio.gather(*(event.wait() for event in begun))
            await child.line(lambda line: '"event":"tool_finished"' in line)
            await child.line(lambda line: slow[1] in line and '"attempt_started"' in line)
            await _tasks(client, 43)
            child.send(signal.SIGTERM)
            await _stopping(client)
            assert (await held_get)["status"] not in ENDED
            posted = await held_post
            numbers = await asyncio.gather(*streams)
            requeued = (line for line in child.out if '"event":"task_requeued"' in line)
            assert not [line for line in requeued if slow[0] in line or slow[1] in line], (
                "streams and waits end at once, not with the grace"
            )
            left = await child.ended(_GRACE_S + 10)
        assert "service_stop_cut_short" not in left.out
        assert (left.code, left.err) == (0, "")
        assert all(seen == list(range(1, len(seen) + 1)) for seen in numbers)
        assert [await connection.rest() for connection in idle] == [b""] * len(idle)
        assert json.loads(left.out.splitlines()[-1])["event"] == "service_stopped"
        await _goes_on(bursar, upstream, {*slow, *quick, posted["id"]})


async def _tasks(client: httpx.AsyncClient, count: int) -> None:
    """Wait until the service has accepted so many tasks."""
    while len((await client.get("/tasks", params={"limit": 200})).json()["tasks"]) < count:
        pass


async def _goes_on(bursar: Service, upstream: httpx.AsyncClient, task_ids: set[str]) -> None:
    """After a restart every task finishes, and both sides' books agree."""
    await set_faults(upstream)
    await bursar.start()
    async with bursar.client() as client:
        tasks = await all_ended(client, task_ids)
    await bursar.stop()
    assert {task["outcome"] for task in tasks} == {"answered"}
    books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, task_ids)
    reasons = {
        event["data"]["reason"]
        for events in books.events.values()
        for event in events
        if event["type"] == "task_requeued"
    }
    assert reasons == {"drain"}


async def _slow_task(bursar: Service, child: Child) -> str:
    async with bursar.client() as client:
        task_id = await submit(client, _FOREVER)
    await child.line(lambda line: '"event":"attempt_started"' in line)
    return task_id


async def test_sigterm_twice(tmp_path: Path, upstream: httpx.AsyncClient) -> None:
    """The second signal does not wait for the grace of a minute; the task goes on after a restart.

    Then Ctrl-C ends the idle service in good order, although a client keeps its connection.
    """
    async with service(tmp_path, str(upstream.base_url), BURSAR_GRACE_S="60") as bursar:
        child = await bursar.start()
        task_id = await _slow_task(bursar, child)
        child.send(signal.SIGTERM)
        async with bursar.client() as client:
            await _stopping(client)
            child.send(signal.SIGTERM)
            assert (await child.ended(_AT_ONCE_S)).code == 128 + signal.SIGTERM
        await set_faults(upstream)
        await bursar.start()
        async with bursar.client() as client:
            assert (await ended(client, task_id))["outcome"] == "answered"
            idle = await _Idle().begin(bursar)
            bursar.child.send(signal.SIGINT)
            left = await bursar.child.ended(_AT_ONCE_S)
            assert (left.code, left.err) == (0, "")
            assert await idle.rest() == b""
        check_all(read_books(bursar.database, await bill_of(upstream)), {task_id})
