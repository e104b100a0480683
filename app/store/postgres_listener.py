"""LISTEN on a PostgreSQL channel: short texts that other processes send with their commits.

A notification is a hint: while the connection is away they are lost. So whoever listens is told when the
connection is new, and asks the database now and then anyway.
"""

import asyncio
import logging
from collections.abc import Callable

import psycopg

from app.domain.clock import Clock

CHANNEL = "bursar"
RETRY_S = 1.0
_NETWORK = (
    "keepalives=1 keepalives_idle=5 keepalives_interval=2 keepalives_count=3 connect_timeout=5"
)
_log = logging.getLogger(__name__)


class Listener:
    """`heard` gets each text, and None when some may have been missed; on the event loop's thread."""

    def __init__(self, url: str, clock: Clock, heard: Callable[[str | None], None]) -> None:
        self._url = url
        self._clock = clock
        self._heard = heard
        self._listening: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to listen; a connection that fails is tried again until `stop`."""
        self._listening = asyncio.create_task(self._listen_on(), name="store-listener")

    async def stop(self) -> None:
        """Hang up."""
        if self._listening is not None:
            self._listening.cancel()
            await asyncio.wait({self._listening})

    async def _listen_on(self) -> None:
        while True:
            try:
                await self._listen()
            except (psycopg.Error, OSError) as error:
                _log.warning("hints_lost", extra={"error_message": str(error).strip()})
            await self._clock.sleep(RETRY_S)

    async def _listen(self) -> None:
        where = psycopg.conninfo.make_conninfo(self._url, application_name="bursar-listener")
        connection = await psycopg.AsyncConnection.connect(f"{where} {_NETWORK}", autocommit=True)
        async with connection:
            await connection.execute(f"LISTEN {CHANNEL}")
            self._heard(None)
            async for told in connection.notifies():
                self._heard(told.payload)
