"""A store that replicas share, and the dispatcher beside it: what tests of tickets look at."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from app.domain.clock import SystemClock
from app.domain.lease import Lease
from app.journal.feed import Feed
from app.queue.caps import NO_CAPS, Caps
from app.queue.dispatch import Dispatch, Ticket
from app.queue.distributed import Bounds, DistributedQueue
from app.queue.sweep import Sweep
from app.queue.tickets import HELD
from app.store.postgres import PostgresStore

_CLOCK = SystemClock()


@dataclass
class Office:
    """The store, a dispatcher that does not listen, and the database behind both."""

    url: str
    store: PostgresStore
    dispatch: Dispatch

    @property
    def sweep(self) -> Sweep:
        """One that remembers nothing."""
        return Sweep(self.store, self.dispatch, NO_CAPS)

    def queue(self, executor: str, *, slots: int = 4, caps: Caps = NO_CAPS) -> DistributedQueue:
        """The queue of a process that takes tasks; one without `slots` only brings them."""
        queue = DistributedQueue(
            self.store,
            _CLOCK,
            Dispatch(self.url, executor=executor, slots=slots),
            Bounds(99, 99, caps),
            Lease("w") if slots else None,
        )
        self.store.listener = Feed(queue.on_event).publish
        return queue

    async def stands(self, ticket: str, status: str) -> bool:
        """Whether the ticket stands there."""
        return await self.status(ticket) == status

    async def status(self, ticket: str) -> str | None:
        """Where the ticket stands."""
        standing = (await self.dispatch.standing([ticket])).get(ticket)
        return standing.status if standing else None

    def look(self, statement: str) -> list[tuple[Any, ...]]:
        """What the database says, read past everybody."""
        with psycopg.connect(self.url) as connection:
            return connection.execute(statement.encode()).fetchall()

    def ago(self, column: str, ticket: str, seconds: int) -> None:
        """Pretend that it happened so long ago."""
        with psycopg.connect(self.url) as connection:
            connection.execute(
                f"UPDATE dbos.workflow_status SET {column} = {column} - {seconds * 1_000}"  # noqa: S608
                f" WHERE workflow_uuid = '{ticket}'".encode()
            )

    async def held_by_a_dead_executor(self, ticket: Ticket) -> None:
        """The ticket was taken by a process that is gone."""
        await self.dispatch.hand_in([ticket])
        taken = asyncio.Event()

        async def never(_task_id: str, _run: int) -> None:
            taken.set()
            await asyncio.Event().wait()

        dead = Dispatch(self.url, executor="dead", slots=4)
        await dead.open()
        await dead.listen(never)
        async with asyncio.timeout(60):
            await taken.wait()
        await dead.close()
        assert await self.status(ticket.id) == HELD


async def until(found: Callable[[], Awaitable[bool]]) -> None:
    """Wait for it."""
    async with asyncio.timeout(60):
        while not await found():
            await _CLOCK.sleep(0.05)
