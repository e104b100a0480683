"""A client of an event stream that loses its connection at any byte, and comes back with the last id it has."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from random import Random
from typing import Any

Parts = AsyncIterator[bytes]
Connect = Callable[[int], AbstractAsyncContextManager[tuple[int, Parts]]]
"""From the last id to status and bytes of a new connection; leaving the block hangs up."""


@dataclass
class Follower:
    """Follows one task to its end. `seen` is what it has put together from all its connections."""

    connect: Connect
    draw: Random
    longest: int = 3_000
    """Bytes that a connection lasts, at most."""
    seen: list[dict[str, Any]] = field(default_factory=list)
    connections: int = 0

    async def follow(self) -> None:
        """Connect again and again, until the service says that there is nothing more."""
        while True:
            last = self.seen[-1]["id"] if self.seen else 0
            self.connections += 1
            async with self.connect(last) as (status, parts):
                if status == 204:
                    return
                assert status == 200
                await self._take(parts, self.draw.randint(0, self.longest))

    async def _take(self, parts: Parts, count: int) -> None:
        """Read `count` bytes; what is not a whole message by then was never received."""
        received = b""
        async for part in parts:
            received += part
            if len(received) >= count:
                break
        whole, _, _ = received[:count].rpartition(b"\n\n")
        for message in whole.decode().split("\n\n"):
            if message.startswith("id: "):
                found = dict(line.split(": ", 1) for line in message.split("\n"))
                self.seen.append({"id": int(found["id"]), "data": json.loads(found["data"])})
