"""Tasks with the same prefix that come at once: one goes first, the others wait until the cache has what it wrote.

A prefix is system prompt and tools. An entry of the cache can be read once the first answer has begun, so many
equal requests sent together would each write it.
"""

import asyncio
from collections import OrderedDict
from dataclasses import dataclass

from app.domain.clock import US_PER_S, Clock
from app.llm.cache_plan import LIFETIME_S, MARGIN_S

PREFIXES_LIMIT = 1_024
HOLD_S = 0.25
"""How long the second of a burst looks out for a third: only then is the first of its writes surely read."""
STEADY = 4
"""So many askers of a prefix within a cache's lifetime are a flow: the next one comes in time."""
_LIFETIME_US = (LIFETIME_S["5m"] - MARGIN_S) * US_PER_S


@dataclass(slots=True)
class _Prefix:
    readable_until_us: int = 0
    leader: asyncio.Event | None = None
    """Set when the one that goes first has its answer, or none."""
    looking: asyncio.Event | None = None
    """Of the one that looks out for others; set when one has come and goes first."""
    asking: int = 0
    seen: int = 0
    seen_at_us: int = 0


@dataclass(slots=True)
class Place:
    """An asker's, until it has its answer."""

    shared: bool
    """The prefix can be read, or others wait to read what this one writes."""
    leads: bool
    prefix: _Prefix
    started_us: int


class Bursts:
    """One a process. `wait_s` is how long anybody waits for the first of a burst."""

    def __init__(self, clock: Clock, wait_s: float) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._prefixes: OrderedDict[int, _Prefix] = OrderedDict()
        self._released = False

    def release(self) -> None:
        """Nobody waits any more: the service stops."""
        self._released = True
        for prefix in self._prefixes.values():
            for event in (prefix.leader, prefix.looking):
                if event is not None:
                    event.set()

    async def enter(self, key: int, *, writes: bool) -> Place:
        """Take a place among those who ask with this prefix. `writes`: it will write it if nobody has."""
        prefix, give_up_s = self._seen(key), self._clock.monotonic_s() + self._wait_s
        while not self._is_readable(prefix) and not self._released:
            if prefix.leader is not None:
                if not await self._heard(prefix.leader, give_up_s):
                    break
            elif writes or prefix.looking is not None or prefix.seen > STEADY:
                return self._lead(prefix)
            elif not prefix.asking or not await self._found_others(prefix, give_up_s):
                break
        return self._placed(prefix, shared=self._is_readable(prefix), leads=False)

    def leave(self, place: Place, *, cached: bool | None) -> None:
        """The asker has its answer: the cache had or took its prefix, or did not; None: no answer."""
        prefix = place.prefix
        prefix.asking -= 1
        if cached:
            until_us = place.started_us + _LIFETIME_US
            prefix.readable_until_us = max(prefix.readable_until_us, until_us)
        elif cached is False and place.shared:
            prefix.readable_until_us = 0
        if place.leads and prefix.leader is not None:
            prefix.leader.set()
            prefix.leader = None

    def _seen(self, key: int) -> _Prefix:
        prefix, now_us = self._prefixes.get(key), self._clock.now_us()
        if prefix is None:
            prefix = self._prefixes[key] = _Prefix()
            if len(self._prefixes) > PREFIXES_LIMIT:
                self._prefixes.popitem(last=False)  # who waits there goes on with what it holds
        self._prefixes.move_to_end(key)
        lapsed = now_us - prefix.seen_at_us > _LIFETIME_US
        prefix.seen = 1 if lapsed else prefix.seen + 1
        prefix.seen_at_us = now_us
        return prefix

    def _is_readable(self, prefix: _Prefix) -> bool:
        return self._clock.now_us() < prefix.readable_until_us

    def _lead(self, prefix: _Prefix) -> Place:
        others = prefix.looking is not None or prefix.seen > STEADY
        prefix.leader = asyncio.Event()
        if prefix.looking is not None:
            prefix.looking.set()
        return self._placed(prefix, shared=others, leads=True)

    def _placed(self, prefix: _Prefix, *, shared: bool, leads: bool) -> Place:
        prefix.asking += 1
        return Place(shared, leads, prefix, self._clock.now_us())

    async def _found_others(self, prefix: _Prefix, give_up_s: float) -> bool:
        hold_s = min(give_up_s, self._clock.monotonic_s() + HOLD_S)
        prefix.looking = looking = asyncio.Event()
        try:
            return await self._heard(looking, hold_s)
        finally:
            if prefix.looking is looking:
                prefix.looking = None

    async def _heard(self, event: asyncio.Event, give_up_s: float) -> bool:
        try:
            async with asyncio.timeout(max(give_up_s - self._clock.monotonic_s(), 0)):
                await event.wait()
        except TimeoutError:
            return False
        return True
