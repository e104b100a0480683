"""The same over real sockets: connections torn at any byte, and a service that is stopped meanwhile."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.client import events_of, set_faults, submit
from tests.support.follower import Connect, Follower, Parts
from tests.support.process import service, simulator

_CLOCK = SystemClock()
_TASK = {
    "task": 'Work. [[sim {"steps": 3, "parallel": 2}]]',
    "tools": ["calculator", "text_stats"],
    "complexity": "simple",
}


async def _connected(client: httpx.AsyncClient, task_id: str, last: int) -> httpx.Response:
    """A stream; tried until there is a service again. One that is not read to its end takes its connection along."""
    headers = {"accept": "text/event-stream", "last-event-id": str(last)}
    while True:
        request = client.build_request("GET", f"/tasks/{task_id}/events", headers=headers)
        try:
            return await client.send(request, stream=True)
        except httpx.TransportError:
            await _CLOCK.sleep(0.2)


def _over(client: httpx.AsyncClient, task_id: str) -> Connect:
    @asynccontextmanager
    async def connect(last: int) -> AsyncIterator[tuple[int, Parts]]:
        response = await _connected(client, task_id, last)

        async def parts() -> Parts:
            try:
                async for part in response.aiter_raw():
                    yield part
            except httpx.TransportError:
                return  # the service has gone

        try:
            yield response.status_code, parts()
        finally:
            await response.aclose()

    return connect


@pytest.mark.parametrize("reconnects", [120, pytest.param(5_000, marks=pytest.mark.long)])
@pytest.mark.timeout(600)
async def test_over_sockets(tmp_path: Path, reconnects: int) -> None:
    """What each client has put together is the journal, across a restart of the service as well."""
    draw, count, restarted = Random(23), 0, False  # noqa: S311
    async with simulator(tmp_path) as upstream:
        usual = {"kind": "latency", "delay_s": [0.0, 0.1], "probability": 1}
        await set_faults(upstream, random=[usual], seed=4)
        async with service(tmp_path, str(upstream.base_url), BURSAR_GRACE_S="1") as bursar:
            await bursar.start()
            async with bursar.client() as client:
                while count < reconnects:
                    ids = [await submit(client, _TASK) for _ in range(8)]
                    followers = [
                        Follower(_over(client, task_id), draw, longest=2_000) for task_id in ids
                    ]
                    following = asyncio.gather(*(follower.follow() for follower in followers))
                    if not restarted:
                        restarted = True
                        await bursar.stop()
                        await bursar.start()
                    await following
                    for task_id, follower in zip(ids, followers, strict=True):
                        journal = [
                            {"id": event["seq"], "data": event}
                            for event in await events_of(client, task_id)
                        ]
                        assert follower.seen == journal
                        count += follower.connections
            assert (await bursar.stop()).code == 0
