"""Lets calls leave, one process's view of all models: at once where nothing is in the way, else in fair turns.

A call that would wait for long gives its worker's slot back and keeps its place: when its turn comes the place is held
for it for some seconds while the task is woken. So nobody looks again and again, and a limit that lifts lets in as
many as it has room for, not all of them.
"""

import asyncio
from collections.abc import Callable, Iterator
from functools import lru_cache

from app.domain.clock import US_PER_S, Clock
from app.domain.record import record
from app.llm.call import Call, Parked
from app.llm.governor.lane import Hold, Lane, Told
from app.llm.governor.road import Entry, Permit, Promise, Road
from app.llm.models import family_of

PROMISE_S = 5.0
"""How long a woken task's turn is held for it."""
PARK_S = 30.0
"""Beyond the estimate of its turn: when a parked task looks by itself, should nobody wake it."""
PARK_LONGEST_S = 600.0
ROADS_LIMIT = 256
"""Beyond it the pool that was idle for longest is forgotten: clients choose the names of models."""
MODELS_LIMIT = 1_024
_SHORTEST_S = 0.005
_SHARED = ("claude-opus-4", "claude-sonnet-4")
"""Families whose versions share their limits. Source: Messages API documentation, "Rate limits"."""


@record(frozen=True, slots=True)
class GovernorLimits:
    """What the learned limits begin with and end at."""

    start: int = 128
    """Calls in flight per model, until answers have shown that more is possible."""
    most: int = 10_000
    """Calls in flight per model, at most."""
    park_after_s: float = 5.0


class Governor:
    """One a process. `on_turn` hears which parked task's turn has come; `tell` what other processes should know."""

    def __init__(self, clock: Clock, limits: GovernorLimits | None = None) -> None:
        self._clock = clock
        self._limits = limits or GovernorLimits()
        self._roads: dict[str, Road] = {}
        self._by_model: dict[str, Road] = {}
        self._places: dict[str, Entry] = {}
        """Where each waiting task stands; a task has one call at a time."""
        self._drained = False
        self.now_s = clock.monotonic_s
        self.on_turn: Callable[[str], None] = lambda _task_id: None
        self.tell: Callable[[str, Told], None] = lambda _pool, _told: None

    def enter(self, call: Call) -> Permit | None:
        """Let the call leave if nothing is in its way; else `wait`."""
        road = self._by_model.get(call.request.model) or self._road(call.request.model)
        if road.promised or self._places:
            kept = self._kept(road, call.subject.task_id)
            if kept is not None:
                return kept
        if len(road.line) or self._drained:
            return None
        now_s = self.now_s()
        if road.lane.hold(now_s, call.prompt_tokens) is not None:
            return None
        return Permit(self, road, road.lane.take(now_s, call.prompt_tokens))

    async def wait(self, call: Call) -> Permit:
        """Let the call leave when its turn comes.

        Raises:
            Parked: that is too long for a worker's slot; the place is kept. Or the service stops.
        """
        if self._drained:
            raise Parked("drain", self._clock.now_us())
        entry = self._join(call)
        turn: asyncio.Future[Permit] = asyncio.get_running_loop().create_future()
        entry.turn = turn
        self.moved(entry.road)
        try:
            if not turn.done():
                entry.road.waited_count += 1
                self._too_long(entry)
                async with asyncio.timeout(self._limits.park_after_s):
                    return await asyncio.shield(turn)
            return turn.result()
        except TimeoutError:
            if turn.done():
                return turn.result()
            raise self._park(entry) from None
        except BaseException:
            if entry.turn is not None:  # not parked
                self._leave(entry)
            raise

    def is_called(self, task_id: str) -> bool:
        """The task's turn has come while it was being given back."""
        return any(task_id in road.promised for road in self._roads.values())

    def run_of(self, task_id: str) -> int | None:
        """The run of the task that asked last, if a place is kept for it or a turn is held."""
        entry = self._places.get(task_id)
        if entry is not None:
            return entry.run
        held = (road.promised.get(task_id) for road in self._roads.values())
        return next((promise.run for promise in held if promise is not None), None)

    def kept(self) -> Iterator[str]:
        """The tasks for which a turn is held, then those for which a place is kept."""
        for road in self._roads.values():
            yield from road.promised
        yield from self._places

    def forget(self, *task_ids: str) -> None:
        """They have ended, wherever they waited, or go on elsewhere. Places go first: nobody of them is called."""
        for task_id in task_ids:
            if (entry := self._places.get(task_id)) is not None:
                self._leave(entry)
        for task_id in task_ids:
            for road in self._roads.values():
                promise = road.promised.pop(task_id, None)
                if promise is not None:
                    promise.permit.unused()

    def begin_drain(self) -> None:
        """The service stops: who waits goes back to the queue, nobody else is let in."""
        self._drained = True
        for entry in self._places.values():
            if entry.turn is not None and not entry.turn.done():
                entry.turn.set_exception(Parked("drain", self._clock.now_us()))
        for road in self._roads.values():
            if road.pump is not None:
                road.pump.cancel()

    def hear(self, pool: str, told: Told) -> None:
        """Another process has learned something of a pool. It is a hint: it expires by itself."""
        road = self._roads.get(pool) or self._open(pool)
        road.lane.heard(told, self.now_s())
        self.moved(road)

    def outage_s(self, model: str) -> float | None:
        """For how long the model has been out of reach; None: it is not, as far as is known."""
        road = self._by_model.get(model) or self._roads.get(pool_of(model))
        return None if road is None else road.lane.breaker.outage_s(self.now_s())

    def is_out(self, pool: str) -> bool:
        """Whether a pool is out of reach, as far as is known."""
        road = self._roads.get(pool)
        return road is not None and road.lane.breaker.outage_s(self.now_s()) is not None

    def roads(self) -> Iterator[Road]:
        """Every pool that was asked for, for reports."""
        return iter(self._roads.values())

    def moved(self, road: Road) -> None:
        """Something has changed: let in who may leave now, and see that somebody looks again in time."""
        if not len(road.line) and not road.promised:
            return
        now_s = self.now_s()
        self._expire(road, now_s)
        while not self._drained and (entry := road.line.head()) is not None:
            if road.lane.hold(now_s, entry.prompt) is not None:
                break
            self._call(road, entry, now_s)
        self._wind(road, now_s)

    def _call(self, road: Road, entry: Entry, now_s: float) -> None:
        """It is this one's turn, who is the head of the line; until it has left an outage is waited for."""
        permit = Permit(self, road, road.lane.take(now_s, entry.prompt))
        road.line.pop()
        del self._places[entry.task_id]
        if entry.turn is not None:
            entry.turn.set_result(permit)
        else:
            road.promised[entry.task_id] = Promise(permit, now_s + PROMISE_S, entry.run)
            self.on_turn(entry.task_id)

    def _join(self, call: Call) -> Entry:
        """The call's place: the one it has kept, or a new one."""
        task_id, run, road = call.subject.task_id, call.subject.run, self._road(call.request.model)
        entry = self._places.get(task_id)
        if entry is not None and entry.road is not road:  # another model goes on
            self._leave(entry)
            entry = None
        if entry is None:
            payer = call.payer
            flow = (payer.key_id or payer.owner, payer.session_id)
            entry = Entry(task_id, run, flow, call.prompt_tokens, road)
            self._places[task_id] = entry
            road.line.join(flow, entry, first=call.tries.made > 0)
        entry.run = run
        return entry

    def _kept(self, road: Road, task_id: str) -> Permit | None:
        """The turn that was held for the task."""
        promise = road.promised.pop(task_id, None)
        return None if promise is None else promise.permit

    def _leave(self, entry: Entry) -> None:
        """Give up the place, or the turn that has come meanwhile."""
        if self._places.get(entry.task_id) is entry:
            del self._places[entry.task_id]
            entry.road.line.leave(entry.flow, entry)
        turn = entry.turn
        if turn is not None and turn.done() and not turn.cancelled() and turn.exception() is None:
            turn.result().unused()
        self.moved(entry.road)

    def _too_long(self, entry: Entry) -> None:
        """Raises `Parked` at once where it is plain that the wait is longer than a slot may be held."""
        if self._estimate_s(entry) > self._limits.park_after_s:
            raise self._park(entry)

    def _estimate_s(self, entry: Entry) -> float:
        road, now_s = entry.road, self.now_s()
        hold = road.lane.hold(now_s, entry.prompt)
        first_s = 0.0 if hold is None or hold.wait_s is None else hold.wait_s
        return first_s + (road.line.ahead(entry.flow)) * road.lane.pace_s(entry.prompt)

    def _park(self, entry: Entry) -> Parked:
        entry.turn = None
        entry.road.parked_count += 1
        hold = self._hold_of(entry)
        wait_s = min(2 * self._estimate_s(entry) + PARK_S, PARK_LONGEST_S)
        at_us = self._clock.now_us() + int(wait_s * US_PER_S)
        return Parked("upstream_busy" if hold is None else hold.reason, at_us)

    def _hold_of(self, entry: Entry) -> Hold | None:
        return entry.road.lane.hold(self.now_s(), entry.prompt)

    def _expire(self, road: Road, now_s: float) -> None:
        """Turns that nobody came for go to others."""
        gone = [t for t, promise in road.promised.items() if promise.until_s <= now_s]
        for task_id in gone:
            road.promised.pop(task_id).permit.lapsed()

    def _wind(self, road: Road, now_s: float) -> None:
        """See that somebody looks when time alone brings the next turn."""
        due = [promise.until_s for promise in road.promised.values()]
        entry = road.line.head()
        hold = None if entry is None else road.lane.hold(now_s, entry.prompt)
        if hold is not None and hold.wait_s is not None:
            due.append(now_s + hold.wait_s)
        if not due or self._drained:
            return
        at_s = max(min(due), now_s + _SHORTEST_S)
        if road.pump is not None and not road.pump.done():
            if road.wakes_at_s <= at_s + _SHORTEST_S:
                return
            road.pump.cancel()
        road.wakes_at_s = at_s
        road.pump = asyncio.create_task(self._look_later(road, at_s - now_s), name="governor")

    async def _look_later(self, road: Road, wait_s: float) -> None:
        await self._clock.sleep(wait_s)
        road.pump = None
        self.moved(road)

    def _road(self, model: str) -> Road:
        road = self._by_model.get(model)
        if road is None:
            pool = pool_of(model)
            if len(self._by_model) >= MODELS_LIMIT:
                oldest = next(iter(self._by_model))
                self._by_model.pop(oldest).models.discard(oldest)
            road = self._by_model[model] = self._roads.get(pool) or self._open(pool)
            road.models.add(model)
        return road

    def _open(self, pool: str) -> Road:
        if len(self._roads) >= ROADS_LIMIT:
            self._close_one()
        lane = Lane(pool, start=self._limits.start, most=self._limits.most)
        road = self._roads[pool] = Road(lane)
        lane.breaker.awaited = road.line.__len__
        return road

    def _close_one(self) -> None:
        now_s = self.now_s()
        idle = [road for road in self._roads.values() if road.is_idle(now_s)]
        if idle:
            road = min(idle, key=lambda road: road.lane.concurrency.last_s)
            del self._roads[road.lane.pool]
            for model in road.models:
                self._by_model.pop(model, None)


@lru_cache(maxsize=512)
def pool_of(model: str) -> str:
    """The pool of limits that a model draws on: its family, dated or not; some families share one."""
    family = family_of(model)
    for shared in _SHARED:
        if family == shared or family.startswith(f"{shared}-"):
            return f"{shared}.x"
    return family
