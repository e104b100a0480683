"""What the governors of several processes tell each other: a 429's wait, an outage. Hints, never more.

A hint that is lost costs its process one more 429. One that is wrong lapses by itself, within minutes at most.
"""

import asyncio
import math

from app.domain.clock import Clock
from app.domain.errors import StoreClosed, StoreError
from app.journal.hints import UpstreamHint
from app.llm.governor.governor import Governor
from app.llm.governor.lane import Reason, Told
from app.store.port import Store, Tx

LONGEST_S = 300.0
"""No process holds its calls back for longer on another's word."""
RETRY_S = 1.0
"""How soon it is said again when the store did not take it."""
_AGAIN_S = 0.1
"""An outage that is told of late: nobody needs to wait any more, but whoever asks, asks alone."""


class Gossip:
    """Between a governor and a store that tells others of commits."""

    def __init__(self, store: Store, governor: Governor, clock: Clock) -> None:
        self._store = store
        self._governor = governor
        self._clock = clock
        self._until_s: dict[tuple[str, Reason], float] = {}
        """What is still to be told, and until when that holds."""
        self._telling: set[asyncio.Task[None]] = set()
        governor.tell = self.tell

    def tell(self, pool: str, told: Told) -> None:
        """This process has learned something."""
        what = pool, told.reason
        until_s = self._clock.monotonic_s() + min(told.wait_s, LONGEST_S)
        being_told = what in self._until_s
        self._until_s[what] = max(until_s, self._until_s.get(what, until_s))
        if not being_told:
            telling = asyncio.create_task(self._tell(*what), name="gossip")
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

    async def _tell(self, pool: str, reason: Reason) -> None:
        """Until the others have it, or it does not hold any more; what is learned meanwhile is told as well."""
        what, told_s = (pool, reason), -math.inf
        try:
            while (until_s := self._until_s[what]) > told_s and (left_s := self._left_s(*what)) > 0:
                try:
                    await self._say(UpstreamHint(pool, reason, left_s))
                    told_s = until_s
                except StoreClosed:
                    return
                except StoreError:
                    await self._clock.sleep(RETRY_S)
        finally:
            del self._until_s[what]

    def _left_s(self, pool: str, reason: Reason) -> float:
        """For how long it still holds."""
        left_s = self._until_s[pool, reason] - self._clock.monotonic_s()
        goes_on = reason is Reason.OUTAGE and self._governor.is_out(pool)
        return max(left_s, _AGAIN_S) if goes_on else left_s

    async def _say(self, hint: UpstreamHint) -> None:
        def op(tx: Tx) -> None:
            tx.after_commit(hint)

        await self._store.write(op)
