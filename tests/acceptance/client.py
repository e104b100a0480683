"""A client of the API, as another program would write it."""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.domain.clock import SystemClock

_LOOK_S = 1.0
"""Far less than it takes to send a thousand requests, which is what the simulator remembers."""
_CLOCK = SystemClock()
Task = dict[str, Any]
ENDED = {"succeeded", "failed", "cancelled"}


async def submit(client: httpx.AsyncClient, body: dict[str, Any]) -> str:
    """Submit a task; its id, once it is durable."""
    answer = await client.post("/tasks", json=body)
    assert answer.status_code == 202, answer.text
    task_id: str = answer.json()["id"]
    assert answer.headers["location"] == f"/tasks/{task_id}"
    return task_id


async def ended(client: httpx.AsyncClient, task_id: str) -> Task:
    """The task at its end, however long that takes (the test's own timeout bounds it)."""
    while True:
        answer = await client.get(f"/tasks/{task_id}", headers={"prefer": "wait=20"})
        assert answer.status_code == 200, answer.text
        task: Task = answer.json()
        if task["status"] in ENDED:
            return task


async def all_ended(client: httpx.AsyncClient, task_ids: Iterable[str]) -> list[Task]:
    """Every task at its end."""
    return [await ended(client, task_id) for task_id in task_ids]


async def events_of(client: httpx.AsyncClient, task_id: str) -> list[dict[str, Any]]:
    """The task's events, page by page."""
    found: list[dict[str, Any]] = []
    after = 0
    while True:
        answer = await client.get(f"/tasks/{task_id}/events", params={"after": after, "limit": 50})
        page = answer.json()
        if not page["events"]:
            return found
        found += page["events"]
        after = page["next_after"]


async def set_faults(
    simulator: httpx.AsyncClient, *script: dict[str, Any], random: Any = (), seed: int = 1
) -> None:
    """Tell the simulator what goes wrong from now on."""
    wanted = {"script": list(script), "random": list(random), "seed": seed}
    answer = await simulator.put("/simulator/faults", json=wanted)
    assert answer.status_code == 200, answer.text


async def bill_of(simulator: httpx.AsyncClient) -> dict[str, Any]:
    """The simulator's bill with its lines."""
    bill: dict[str, Any] = (await simulator.get("/simulator/bill")).json()
    return bill


async def requests_of(simulator: httpx.AsyncClient) -> list[dict[str, Any]]:
    """The latest thousand requests the simulator was sent."""
    answer = await simulator.get("/simulator/requests", params={"limit": 1_000})
    found: list[dict[str, Any]] = answer.json()["requests"]
    return found


@dataclass
class Witness:
    """Sees every request the simulator is sent, not only the latest thousand."""

    simulator: httpx.AsyncClient
    seen: dict[int, dict[str, Any]] = field(default_factory=dict)

    async def look(self) -> None:
        """See what has come since."""
        wanted = {"limit": 1_000, "after": max(self.seen, default=0)}
        answer = await self.simulator.get("/simulator/requests", params=wanted)
        self.seen |= {request["number"]: request for request in answer.json()["requests"]}

    async def all(self) -> list[dict[str, Any]]:
        """Every request there has been, in order."""
        await self.look()
        assert sorted(self.seen) == list(range(1, len(self.seen) + 1)), "requests were missed"
        return [self.seen[number] for number in sorted(self.seen)]

    async def stay(self) -> None:
        """Look now and then, for ever."""
        while True:
            await self.look()
            await _CLOCK.sleep(_LOOK_S)


@asynccontextmanager
async def witness(simulator: httpx.AsyncClient) -> AsyncIterator[Witness]:
    """It looks on during the block."""
    made = Witness(simulator)
    looking = asyncio.create_task(made.stay())
    try:
        yield made
    finally:
        looking.cancel()
        await asyncio.wait({looking})
