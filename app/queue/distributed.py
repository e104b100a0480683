"""The queue of many processes on one PostgreSQL: DBOS brings the tickets, the task table decides.

A task that waits has a ticket (see `app.queue.dispatch`), handed in after the transaction that made it wait. What a
crash leaves between the two, a sweep mends. A ticket arrives at a process with a free slot; there it claims the
task's row, or ends without effect. It stays with its executor until the run is over: that is how DBOS counts slots.
"""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from app.domain.clock import US_PER_S, Clock
from app.domain.errors import LeaseLost, QueueFull, Stopping, StoreError
from app.domain.lease import Lease
from app.domain.record import record
from app.domain.task import Claim, Subject
from app.journal.call_events import AttemptReturned
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
from app.queue.caps import NO_CAPS, Caps
from app.queue.dispatch import Dispatch, Ticket
from app.queue.sweep import Sweep, due_tickets, still_waits
from app.store.port import Store

_log = logging.getLogger(__name__)
RETRY_S = 1.0
SWEEP_INTERVAL_S = 1.0
STOP_S = 5.0
"""How long each of these may take to end: claims that are on their way, the caretaker's look, the last tickets. What they
leave others take over."""


@record(frozen=True, slots=True)
class Bounds:
    """How many tasks may wait, be paused, or run at once for a session or key: in all processes together."""

    waiting: int
    paused: int
    caps: Caps = NO_CAPS
    before_end: verbs.BeforeEnd = verbs.nothing_before
    """What goes with a task that ends while it waits."""
    stop_s: float = STOP_S


class DistributedQueue:
    """One a process. With a `lease` it takes tasks, too; without, it only brings them into the queue.

    Add `on_event` to the feed's views. The counts of other processes are known as of the last sweep: together
    they may exceed a bound by what they accept within a second.
    """

    def __init__(
        self, store: Store, clock: Clock, dispatch: Dispatch, bounds: Bounds, lease: Lease | None
    ) -> None:
        self._store = store
        self._clock = clock
        self._dispatch = dispatch
        self._bounds = bounds
        self._lease = lease
        self._sweep = Sweep(store, dispatch, bounds.caps, bounds.before_end)
        self._buffer: asyncio.Queue[Claim | None] = asyncio.Queue()
        self._free = asyncio.Semaphore(0)
        """Slots that wait and have not been promised a claim."""
        self._hungry = 0
        self._over: dict[Subject, asyncio.Event] = {}
        """The runs of this process; the event ends the run's ticket."""
        self._claiming: set[asyncio.Task[Claim | None]] = set()
        self._due: set[str] = set()
        """Tasks that need a ticket, by what this process has committed."""
        self._moved: set[str] = set()
        """Tasks that have moved up: their tickets are for a place farther back."""
        self._woken = asyncio.Event()
        self._accepting = 0
        self._waiting_count = 0
        self._paused_count = 0
        self._next_sweep_s = 0.0
        self._stopping = False
        self._closing = False
        self._caretaker: asyncio.Task[None] | None = None
        self._deafening: asyncio.Task[None] | None = None

    @property
    def depth(self) -> int:
        """Tasks that wait, those being accepted included."""
        return self._waiting_count + self._accepting

    @property
    def may_pause(self) -> bool:
        return self._paused_count < self._bounds.paused

    @contextmanager
    def place(self) -> Iterator[None]:
        if self._stopping:
            raise Stopping
        if self.depth >= self._bounds.waiting:
            raise QueueFull(self._bounds.waiting)
        self._accepting += 1
        try:
            yield
        finally:
            self._accepting -= 1

    def on_event(self, entry: Recorded) -> None:
        """Who waits from now on needs a ticket."""
        match entry.event:
            case TaskAccepted(run_at_us=run_at_us):
                self._waiting_count += 1
                self._wake_at(entry.subject.task_id, run_at_us or 0)
            case TaskRequeued(reason=reason, available_at_us=available_at_us):
                if reason != "batch" or available_at_us <= self._clock.now_us():
                    self._waiting_count += 1
                    self._wake_at(entry.subject.task_id, available_at_us)
                self._left()
            case TaskResumed() | TaskRetried() | AttemptReturned():
                self._waiting_count += 1
                self.wake(entry.subject.task_id)
            case TaskClaimed():
                self._waiting_count = max(self._waiting_count - 1, 0)
            case TaskPaused():
                self._paused_count += 1
                self._left()
            case TaskFinished():
                self._left()
            case _:
                pass

    def _left(self) -> None:
        """A run is over: who was held back by a limit for it has been let in, and needs a ticket."""
        if self._sweep.any_held:
            self._next_sweep_s = 0.0
            self._woken.set()

    def wake(self, task_id: str | None = None) -> None:
        if task_id is not None:
            self._due.add(task_id)
        self._woken.set()

    async def next(self) -> Claim | None:
        if self._stopping:
            return None
        self._hungry += 1
        self._free.release()
        try:
            return await self._buffer.get()
        finally:
            self._hungry -= 1

    def ended(self, claim: Claim) -> None:
        over = self._over.pop(claim.subject, None)
        if over is not None:
            over.set()

    async def start(self) -> None:
        await self._dispatch.open()
        await self._count()
        self._caretaker = asyncio.create_task(self._take_care(), name="queue-care")
        if self._lease is not None:
            await self._dispatch.listen(self._arrive)

    async def stop(self) -> None:
        self._stopping = True
        if self._claiming:
            await asyncio.wait(self._claiming, timeout=self._bounds.stop_s)
        # Waited for in `close`: with the database away it takes long, and nothing is claimed any more.
        if self._deafening is None:  # a second stop must not make `close` forget the first one's
            self._deafening = asyncio.create_task(self._dispatch.deafen(), name="queue-deafen")
        while not self._buffer.empty():  # claimed, not yet in a worker's hand: give it back
            claim = self._buffer.get_nowait()
            if claim is not None:
                await self._give_back(claim)
        for _ in range(self._hungry):
            self._buffer.put_nowait(None)

    async def close(self) -> None:
        """Hand in the tickets of what was given back; those that nobody has used here go to others."""
        self._closing = True
        self._woken.set()
        if self._deafening is not None:
            await self._deafening
        if self._caretaker is not None:
            await asyncio.wait({self._caretaker}, timeout=self._bounds.stop_s)
            self._caretaker.cancel()
            await asyncio.wait({self._caretaker})
        try:
            async with asyncio.timeout(self._bounds.stop_s):
                await self._leave_tickets()
        except (StoreError, TimeoutError) as error:
            why = str(error) or "The database has not answered in time."
            _log.warning("tickets_left", extra={"error_message": why})
        await self._dispatch.close()

    async def _leave_tickets(self) -> None:
        await self._hand_in()
        held = await self._dispatch.held(mine=True)
        unused = await self._store.read(lambda tx: [t.id for t in held if still_waits(tx, t)])
        await self._dispatch.put_back(unused)
        await self._dispatch.forget([t.id for t in held if t.id not in unused])

    async def _give_back(self, claim: Claim) -> None:
        with suppress(StoreError):  # else it is rescued once this worker's lease is over
            await self._store.write(
                lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us)
            )
        self.ended(claim)

    async def _arrive(self, task_id: str, run: int) -> None:
        """A ticket is here: claim its task for a free slot, and hold the ticket until that run is over.

        Cancelled when this process takes no more tickets; then somebody else gets it.
        """
        ticket = Ticket(task_id, run).id
        await self._free.acquire()
        if self._stopping:
            await asyncio.Event().wait()
        claiming = asyncio.create_task(self._claim(task_id, run), name=f"claim-{ticket}")
        self._claiming.add(claiming)
        claiming.add_done_callback(self._claiming.discard)
        try:
            claim = await asyncio.shield(claiming)
        except Exception:  # the slot that waits is free for another one
            self._free.release()
            raise
        if claim is None and self._stopping:
            await asyncio.Event().wait()
        if claim is None:
            self._sweep.spent(ticket)
            self._free.release()
            return
        over = self._over.get(claim.subject)
        if over is not None:
            await over.wait()

    async def _claim(self, task_id: str, run: int) -> Claim | None:
        """The claim of this run, in the buffer already; None when there is nothing to claim."""
        assert self._lease is not None  # noqa: S101  (tickets arrive at who takes tasks)
        while not self._stopping:
            moved = set[str]()
            try:
                claim = await self._claim_once(self._lease.worker, task_id, run, moved)
            except LeaseLost:  # nothing may be taken until it is renewed
                self._lease.want_renewal()
                await self._clock.sleep(RETRY_S)
            except StoreError as error:
                _log.warning("tickets_postponed", extra={"error_message": str(error)})
                await self._clock.sleep(RETRY_S)
            else:
                if claim is not None:
                    self._over[claim.subject] = asyncio.Event()
                    self._buffer.put_nowait(claim)
                if moved:
                    self._moved |= moved
                    self._woken.set()
                return claim
        return None

    async def _claim_once(
        self, worker: str, task_id: str, run: int, moved: set[str]
    ) -> Claim | None:
        caps = self._bounds.caps
        return await self._store.write(
            lambda tx: verbs.claim_one(tx, worker, task_id, caps, run=run, moved=moved)
        )

    async def _take_care(self) -> None:
        """Hand in tickets as they become due; now and then look for what fell between."""
        while not self._closing:
            self._woken.clear()
            try:
                await self._hand_in()
                if not self._stopping and self._clock.monotonic_s() >= self._next_sweep_s:
                    self._next_sweep_s = self._clock.monotonic_s() + SWEEP_INTERVAL_S
                    await self._sweep.once(self._clock.monotonic_s())
                    await self._count()
            except StoreError as error:
                _log.warning("tickets_postponed", extra={"error_message": str(error)})
                await self._clock.sleep(RETRY_S)
            except Exception:  # noqa: BLE001  (a bug must not end the caretaker in silence)
                _log.exception("caretaker_failed")
                await self._clock.sleep(RETRY_S)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._woken.wait(), SWEEP_INTERVAL_S)

    async def _hand_in(self) -> None:
        due, self._due = self._due, set()
        moved, self._moved = self._moved, set()
        try:
            if due or moved:
                tickets = await self._store.read(lambda tx: due_tickets(tx, due | moved))
                await self._dispatch.forget([t.id for t in tickets if t.task_id in moved])
                await self._dispatch.hand_in(tickets)
        except StoreError:
            self._due |= due
            self._moved |= moved
            raise

    async def _count(self) -> None:
        limits, before = self._bounds, self._waiting_count
        found = await self._store.read(
            lambda tx: (
                tx.one("count_waiting", limit=limits.waiting),
                tx.one("count_paused", limit=limits.paused),
            )
        )
        waiting, paused = found
        meanwhile = max(self._waiting_count - before, 0)  # some of these may be counted already
        self._waiting_count = (waiting["waiting_count"] if waiting else 0) + meanwhile
        self._paused_count = paused["paused_count"] if paused else 0

    def _wake_at(self, task_id: str, available_at_us: int) -> None:
        delay_s = (available_at_us - self._clock.now_us()) / US_PER_S
        if delay_s <= 0:
            self.wake(task_id)
        else:
            asyncio.get_running_loop().call_later(delay_s, self.wake, task_id)
