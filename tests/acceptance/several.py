"""Programs that know several APIs: they go to the next one when one leaves, with the same key, and for no other reason."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx

from app.domain.clock import SystemClock
from tests.acceptance.client import all_ended
from tests.support.fleet import Replica
from tests.support.process import client_of

POSTERS = 4
_CLOCK = SystemClock()


@dataclass(eq=False)
class Way:
    """An API, as these programs know it."""

    client: httpx.AsyncClient
    leaving: bool = False
    """It was asked to go, or is about to be killed: only then may a request come to nothing here."""

    async def ask(self, method: str, path: str, **given: Any) -> httpx.Response | None:
        """Its answer; None when it refuses because it stops, or hangs up."""
        try:
            answer = await self.client.request(method, path, **given)
        except (httpx.TransportError, RuntimeError):  # its client is closed once it has gone
            if not self.leaving:
                raise
            return None
        if answer.status_code < 500:
            return answer
        assert self.leaving, answer.text
        assert answer.status_code == 503, answer.text
        assert answer.json()["type"] == "urn:bursar:problem:stopping", answer.text
        assert int(answer.headers["retry-after"]) > 0
        return None


@dataclass
class Clients:
    """Programs that keep posting. Only what got its 202 counts; a post without an answer is made again elsewhere."""

    bodies: Sequence[dict[str, Any]]
    posters: int = POSTERS
    accepted: set[str] = field(default_factory=set)
    turned_away: int = 0
    """Requests that a leaving API refused, or never answered."""
    stopping: bool = False
    _ways: dict[int, Way] = field(default_factory=dict)

    def add(self, api: Replica) -> None:
        """From now on they know this one, too."""
        self._ways[api.port] = Way(client_of(api.url))

    def leaves(self, *leaving: Replica) -> None:
        """Call it just before they are asked to go, or killed."""
        for port in {replica.port for replica in leaving} & set(self._ways):
            self._ways[port].leaving = True

    async def forget(self, *gone: Replica) -> None:
        """They have gone."""
        for port in {replica.port for replica in gone} & set(self._ways):
            await self._ways.pop(port).client.aclose()

    async def all_ended(self) -> None:
        """Wait for the end of every accepted task, at one that stays."""
        way = next(way for way in self._ways.values() if not way.leaving)
        await all_ended(way.client, self.accepted)

    async def close(self) -> None:
        """They make no more requests."""
        for way in self._ways.values():
            await way.client.aclose()

    async def run(self) -> None:
        """Post until told to stop."""
        await asyncio.gather(*(self._one(number) for number in range(self.posters)))

    async def _one(self, poster: int) -> None:
        number = poster
        while not self.stopping:
            body = self.bodies[number % len(self.bodies)]
            headers = {"idempotency-key": f"{poster}-{number}"}
            answer = await self._ask("POST", "/tasks", json=body, headers=headers)
            assert answer.status_code == 202, answer.text
            task_id: str = answer.json()["id"]
            self.accepted.add(task_id)
            number += 1
            await self._ask("GET", f"/tasks/{task_id}", headers={"prefer": "wait=1"})

    async def _ask(self, method: str, path: str, **given: Any) -> httpx.Response:
        """The answer of the first one that gives any; they are asked in turn."""
        while True:
            for way in self._in_turn():
                answer = await way.ask(method, path, **given)
                if answer is not None:
                    return answer
                self.turned_away += 1
            await _CLOCK.sleep(0.05)

    def _in_turn(self) -> list[Way]:
        """All that are known; the first one is the last one the next time."""
        port, *others = self._ways
        self._ways[port] = self._ways.pop(port)
        return [self._ways[port], *(self._ways[other] for other in others)]
