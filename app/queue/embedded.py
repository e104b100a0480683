"""The embedded queue: the task table, and an `asyncio` queue of what was claimed for free workers."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from app.domain.clock import US_PER_S, Clock, Wall
from app.domain.errors import LeaseLost, QueueFull, Stopping, StoreError
from app.domain.lease import Lease
from app.domain.task import Claim
from app.journal.call_events import AttemptReturned
from app.journal.event import Event
from app.journal.events import (
    TaskAccepted,
    TaskClaimed,
    TaskFinished,
    TaskPaused,
    TaskRequeued,
    TaskResumed,
    TaskRetried,
)
from app.journal.journal import Recorded
from app.queue import verbs
from app.queue.caps import NO_CAPS, Caps, release_held
from app.store.port import Store
from app.store.space import DiskSpace

_log = logging.getLogger(__name__)
CLAIM_LIMIT = 256
"""Tasks claimed in one transaction, at most."""
PAUSED_LIMIT = 100_000
SWEEP_INTERVAL_S = 1.0
"""How often waiting and paused tasks are looked at, and a store that failed is tried again."""


class EmbeddedQueue:
    """Hands out tasks by rank: age, and so much for each level of priority. Add `on_event` to the feed's views."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        lease: Lease,
        limit: int,
        paused_limit: int = PAUSED_LIMIT,
        caps: Caps = NO_CAPS,
        space: DiskSpace | None = None,
        before_end: verbs.BeforeEnd = verbs.nothing_before,
    ) -> None:
        self._store = store
        self._clock = clock
        self._lease = lease
        self._limit = limit
        self._paused_limit = paused_limit
        self._caps = caps
        self._space = space
        self._before_end = before_end
        self._buffer: asyncio.Queue[Claim | None] = asyncio.Queue()
        self._woken = asyncio.Event()
        self._hungry = 0
        self._accepting = 0
        self._waiting: set[str] = set()
        self._paused: set[str] = set()
        self._batched: set[str] = set()
        """Tasks that wait for their batch: in nobody's way, and not counted."""
        self._next_sweep_s = 0.0
        self._wall = Wall(clock)
        self._dispatcher: asyncio.Task[None] | None = None
        self._stopping = False

    @property
    def depth(self) -> int:
        """Tasks that wait, those being accepted included."""
        return len(self._waiting) + self._accepting

    @property
    def may_pause(self) -> bool:
        return len(self._paused) < self._paused_limit

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._stopping:
            raise Stopping
        if self._space is not None:
            self._space.check()
        if self.depth >= self._limit:
            raise QueueFull(self._limit)
        self._accepting += 1
        try:
            yield
        finally:
            self._accepting -= 1

    def on_event(self, entry: Recorded) -> None:
        """Keep count of who waits, and wake the dispatcher for who came."""
        task_id = entry.subject.task_id
        match entry.event:
            case TaskAccepted() | TaskRetried() as came:
                later_us = came.run_at_us if isinstance(came, TaskAccepted) else None
                self._came(task_id, later_us or 0)
            case TaskRequeued(reason=reason, available_at_us=available_at_us):
                if reason == "batch" and available_at_us > self._clock.now_us():
                    self._batched.add(task_id)
                else:
                    self._came(task_id, available_at_us)
            case TaskResumed():
                self._paused.discard(task_id)
                if self._paused:  # there may be more that can go on: look at once
                    self._next_sweep_s = 0.0
                self._came(task_id, 0)
            case TaskPaused():
                self._paused.add(task_id)
            case TaskClaimed():
                self._waiting.discard(task_id)
            case other:
                self._on_batch_or_end(task_id, other)

    def _on_batch_or_end(self, task_id: str, event: Event) -> None:
        match event:
            case AttemptReturned() if task_id in self._batched:
                self._batched.discard(task_id)
                self._came(task_id, 0)
            case TaskFinished():
                self._waiting.discard(task_id)
                self._batched.discard(task_id)
                self._paused.discard(task_id)
            case _:
                pass

    def _came(self, task_id: str, available_at_us: int) -> None:
        self._waiting.add(task_id)
        self._wake_at(available_at_us)

    def wake(self, task_id: str | None = None) -> None:
        self._woken.set()

    def ended(self, claim: Claim) -> None:
        """The slot asks for its next claim itself."""

    async def next(self) -> Claim | None:
        if self._stopping:  # what the buffer still holds is for those who wait already
            return None
        self._hungry += 1
        self._woken.set()
        try:
            return await self._buffer.get()
        finally:
            self._hungry -= 1

    async def start(self) -> None:
        await self._store.write(lambda tx: tx.run("wake_from_future", now_us=tx.now_us))
        for row in await self._store.read(lambda tx: tx.all("waiting_tasks")):
            self._waiting.add(row["id"])
            self._wake_at(row["available_at_us"])
        paused = await self._store.read(lambda tx: tx.all("paused_tasks"))
        self._paused.update(row["id"] for row in paused)
        batched = await self._store.read(lambda tx: tx.all("batched_tasks"))
        self._batched.update(row["id"] for row in batched)
        self._dispatcher = asyncio.create_task(self._dispatch(), name="queue-dispatch")

    async def stop(self) -> None:
        self._stopping = True
        self._woken.set()
        if self._dispatcher is not None:
            await self._dispatcher
        while not self._buffer.empty():  # claimed, not yet in a worker's hand: give it back
            claim = self._buffer.get_nowait()
            if claim is not None:
                await self._give_back(claim)
        for _ in range(self._hungry):
            self._buffer.put_nowait(None)

    async def close(self) -> None:
        """Nothing is held beyond `stop`."""

    async def _give_back(self, claim: Claim) -> None:
        with suppress(StoreError):  # else it is rescued once this worker's lease is over
            await self._store.write(
                lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us)
            )

    async def _dispatch(self) -> None:
        """Claim as many tasks as workers are free; sleep until there is something to do."""
        while not self._stopping:
            self._woken.clear()
            try:
                await self._claim(min(self._hungry - self._buffer.qsize(), CLAIM_LIMIT))
                if self._clock.monotonic_s() >= self._next_sweep_s:
                    self._next_sweep_s = self._clock.monotonic_s() + SWEEP_INTERVAL_S
                    await self._sweep()
            except StoreError as error:  # try again, take nothing meanwhile
                _log.warning("claims_postponed", extra={"error_message": str(error)})
                await self._clock.sleep(SWEEP_INTERVAL_S)
            except Exception:  # noqa: BLE001  (a bug must not end the dispatcher in silence)
                _log.exception("dispatch_failed")
                await self._clock.sleep(SWEEP_INTERVAL_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), SWEEP_INTERVAL_S)

    async def _claim(self, free: int) -> None:
        """Take tasks for `free` workers; none while the lease is not renewed, or the disk nearly full."""
        if free <= 0 or not self._waiting or (self._space is not None and self._space.low):
            return
        try:
            claims, more = await self._store.write(
                lambda tx: verbs.claim_some(tx, self._lease.worker, free, self._caps)
            )
        except LeaseLost:
            self._lease.want_renewal()
            return
        for claim in claims:
            self._buffer.put_nowait(claim)
        if (
            more
        ):  # for workers beyond the limit of one claim, or behind many that had to be held back
            self._woken.set()

    async def _sweep(self) -> None:
        """End what waited past its deadline; resume what its budget can pay by now, whoever raised it."""
        if (
            self._wall.was_set_back() and self._waiting
        ):  # short waits would last as long as the jump
            await self._wake_parked()
        if self._waiting or self._batched:
            await self._store.write(lambda tx: verbs.expire(tx, CLAIM_LIMIT, self._before_end))
        if self._waiting:
            await self._release_held()
        if (
            self._paused
        ):  # looked for by a reader: with many of them the writer has better things to do
            found = await self._store.read(
                lambda tx: tx.one("resumable_tasks", now_us=tx.now_us, limit=1)
            )
            if found is not None:
                await self._store.write(lambda tx: verbs.resume(tx, CLAIM_LIMIT))

    async def _wake_parked(self) -> None:
        """Let whatever a run has put off start at once; not what waits for an instant that somebody named."""
        await self._store.write(lambda tx: tx.run("wake_parked", now_us=tx.now_us))

    async def _release_held(self) -> None:
        """With workers to spare, whatever a limit holds back without need may go on."""
        if self._hungry <= self._buffer.qsize():
            return
        if await self._store.read(lambda tx: tx.one("any_held")) is None:
            return
        if await self._store.write(lambda tx: release_held(tx, self._caps)):
            self._woken.set()

    def _wake_at(self, available_at_us: int) -> None:
        delay_s = (available_at_us - self._clock.now_us()) / US_PER_S
        if delay_s <= 0:
            self._woken.set()
        else:
            asyncio.get_running_loop().call_later(delay_s, self._woken.set)
