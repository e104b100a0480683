"""PostgreSQL is away: programs that keep posting meanwhile, and what a replica must say."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import httpx

POSTERS = 6
BODIES: list[dict[str, Any]] = [
    {"task": "Why is the sky blue?", "complexity": "simple"},
    {
        "task": 'Work it out. [[sim {"steps": 3, "parallel": 3}]]',
        "complexity": "simple",
        "tools": ["calculator", "text_stats"],
        "session_id": "shared",
    },
]


@dataclass
class Clients:
    """Programs that keep posting. The service lives, so each of their requests has an answer."""

    url: str
    accepted: list[str] = field(default_factory=list)
    refused: int = 0
    stopping: bool = False
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """The database answers, as far as the test knows."""
    welcome: asyncio.Event = field(default_factory=asyncio.Event)
    """A task was accepted since it was last cleared."""

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(POSTERS)))

    async def _one(self, number: int) -> None:
        count = number
        async with httpx.AsyncClient(base_url=self.url, trust_env=False, timeout=60) as client:
            while not self.stopping:
                answer = await client.post("/tasks", json=BODIES[count % len(BODIES)])
                if answer.status_code == 202:
                    self.accepted.append(answer.json()["id"])
                    self.welcome.set()
                    count += 1
                    await client.get(f"/tasks/{self.accepted[-1]}", headers={"prefer": "wait=1"})
                    continue
                check_refusal(answer)
                self.refused += 1
                await self.up.wait()


def check_refusal(answer: httpx.Response) -> None:
    """Come again, it says, and nothing of where the database is."""
    assert answer.status_code == 503, answer.text
    assert answer.json()["type"].endswith(":store-unavailable"), answer.text
    assert int(answer.headers["retry-after"]) > 0
    assert "postgresql://" not in answer.text


async def check_unready(client: httpx.AsyncClient) -> None:
    """It can take no work, and is alive."""
    check_refusal(await client.get("/readyz"))
    assert (await client.get("/healthz")).status_code == 200


async def check_away(client: httpx.AsyncClient) -> None:
    """Unready, alive, and honest to whoever asks."""
    await check_unready(client)
    check_refusal(await client.post("/tasks", json=BODIES[0]))
    check_refusal(await client.get("/tasks"))
