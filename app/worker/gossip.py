"""What the governors of several processes tell each other: a 429's wait, an outage. Hints, never more.

A hint that is lost costs its process one more 429. One that is wrong lapses by itself, within minutes at most.
"""

import asyncio
import math
from contextlib import suppress

from app.domain.errors import StoreError
from app.journal.hints import UpstreamHint
from app.llm.governor.governor import Governor
from app.llm.governor.lane import Reason, Told
from app.store.port import Store, Tx

LONGEST_S = 300.0
"""No process holds its calls back for longer on another's word."""


class Gossip:
    """Between a governor and a store that tells others of commits."""

    def __init__(self, store: Store, governor: Governor) -> None:
        self._store = store
        self._governor = governor
        self._telling: set[asyncio.Task[None]] = set()
        governor.tell = self.tell

    def tell(self, pool: str, told: Told) -> None:
        """This process has learned something."""
        telling = asyncio.create_task(self._tell(pool, told), name="gossip")
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    def hear(self, hint: UpstreamHint) -> None:
        """Another one has."""
        known = hint.reason in {Reason.RATE_LIMITED, Reason.OUTAGE}
        if known and math.isfinite(hint.wait_s) and hint.wait_s > 0:
            told = Told(Reason(hint.reason), min(hint.wait_s, LONGEST_S))
            self._governor.hear(hint.pool, told)

    async def stop(self) -> None:
        """Say nothing more."""
        for telling in self._telling:
            telling.cancel()

    async def _tell(self, pool: str, told: Told) -> None:
        hint = UpstreamHint(pool, told.reason, min(told.wait_s, LONGEST_S))

        def op(tx: Tx) -> None:
            tx.after_commit(hint)

        with suppress(StoreError):
            await self._store.write(op)
