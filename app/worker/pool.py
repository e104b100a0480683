"""Slots that run claimed tasks, one at a time each, and stop in an orderly way."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Any

from app.agent.job import History, Job
from app.agent.loop import AgentLoop
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.budget.accounts import open_blocked
from app.budget.scopes import Payer
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock
from app.domain.errors import BudgetExhausted, StaleLease, StoreError
from app.domain.lease import Lease
from app.domain.task import Claim, Conclusion, Outcome, TaskError, TaskStatus
from app.journal.events import CancelRequested, TaskFinished, TaskRetried
from app.journal.hints import Hint
from app.journal.journal import Recorded, fence, is_called_off, read_all
from app.llm.batching.economy import PARKED
from app.llm.call import Parked, Paused
from app.llm.governor.governor import Governor
from app.queue import verbs
from app.queue.port import Queue
from app.store.persist import persist
from app.store.port import Row, Store, Tx
from app.worker.elsewhere import as_asked, is_cancelling, is_gone, kept_for, latest_run
from app.worker.recovery import park, presume_open

_log = logging.getLogger(__name__)
HAND_BACK_S = 1.5
"""How long interrupted runs may take to book their call and return their task."""
STORE_RETRY_S = 1.0
"""How soon a task is tried again whose run the store's failure stopped."""
_BUG = Conclusion(
    Outcome.INTERNAL_ERROR,
    error=TaskError(
        "internal_error", "Something went wrong inside the service; its log has the details."
    ),
)


class WorkerPool:
    """`slots` tasks in flight. Add `on_event` to the feed's views: that is how a cancel reaches a run."""

    def __init__(
        self,
        store: Store,
        queue: Queue,
        loop: AgentLoop,
        turns: Turns,
        clock: Clock,
        lease: Lease,
        *,
        slots: int,
        governor: Governor | None = None,
    ) -> None:
        self._governor = governor or Governor(clock)
        self._store = store
        self._queue = queue
        self._loop = loop
        self._turns = turns
        self._clock = clock
        self._lease = lease
        self.slots = slots
        self._workers: list[asyncio.Task[None]] = []
        self._running: dict[str, asyncio.Task[Any]] = {}
        self._histories: dict[str, History] = {}
        self._waking: set[asyncio.Task[None]] = set()
        self._cancelled: set[str] = set()
        turns.on_turn = self._on_turn

    @property
    def running(self) -> int:
        """Tasks in flight."""
        return len(self._running)

    def start(self) -> None:
        """Open the slots."""
        self._workers = [
            asyncio.create_task(self._work(), name=f"slot-{number}") for number in range(self.slots)
        ]

    def begin_drain(self) -> None:
        """From now on no run starts another call; it returns its task at its next step."""
        self._loop.begin_drain()

    async def stop(self, grace_s: float) -> None:
        """Let running steps end, then hand the tasks back; after `grace_s` interrupt what still runs.

        A run that cannot even write its return (a store that fails) is left: recovery takes it over.
        """
        self.begin_drain()
        if not self._workers:
            return
        _, late = await asyncio.wait(self._workers, timeout=max(grace_s, 0))
        for run in list(self._running.values()):
            run.cancel("drain")
        if late:
            _, stuck = await asyncio.wait(late, timeout=HAND_BACK_S)
            for worker in stuck:
                worker.cancel()

    def abandon(self) -> None:
        """The lease is lost: stop every run at once. Whoever takes the tasks over decides what becomes of them."""
        for run in list(self._running.values()):
            run.cancel("lease_lost")

    def on_event(self, entry: Recorded) -> None:
        """A cancel that was asked for interrupts the run at once, or as soon as it begins."""
        task_id = entry.subject.task_id
        if (history := self._histories.get(task_id)) is not None:
            history.grew(entry)
        match entry.event:
            case CancelRequested():
                self._interrupt(task_id)
            case TaskRetried():
                self._cancelled.discard(task_id)  # it was another run's
            case TaskFinished():
                self._ended(task_id)
            case _:
                pass

    async def hear(self, hint: Hint) -> None:
        """Another process may have asked to cancel what runs here, or have gone on with what waits here: ask the rows.

        Raises:
            StoreError: they could not be asked.
        """
        wanted = hint.task_ids
        mine = [t for t in self._running if wanted is None or t in wanted]
        away = self._away(wanted)
        if not mine and not away:
            return
        me, all_of_them = self._lease.worker, wanted is None
        asked, places = await self._store.read(
            lambda tx: (
                [row["id"] for row in tx.all("cancelling_tasks", worker=me)]
                if all_of_them
                else [t for t in mine if is_cancelling(tx, t)],
                {t: tx.one("task_place", id=t) for t in away},
            )
        )
        for task_id in asked:
            self._interrupt(task_id)
        self._catch_up(places)

    def _away(self, wanted: frozenset[str] | None) -> list[str]:
        """Those of the tasks that something is kept for here, and that do not run here."""
        kept = kept_for(self._turns, self._governor, wanted)
        kept |= self._cancelled if wanted is None else self._cancelled & wanted
        return [t for t in kept if t not in self._running]

    def _catch_up(self, places: Mapping[str, Row | None]) -> None:
        """A task that goes on elsewhere stands in nobody's way here; of one that has ended nothing is kept."""
        away = {t: place for t, place in places.items() if t not in self._running}
        run_of, me = self._governor.run_of, self._lease.worker
        self._governor.forget(*(t for t, row in away.items() if is_gone(row, run_of(t), me)))
        for task_id, place in away.items():
            if place is None or TaskStatus(place["status"]).terminal:
                self._ended(task_id)
                continue
            if place["status"] != TaskStatus.CANCELLING:
                self._cancelled.discard(task_id)  # it was another run's
            if is_gone(place, self._turns.run_of(task_id), me):
                self._turns.leave(task_id)

    def _ended(self, task_id: str) -> None:
        self._cancelled.discard(task_id)
        self._turns.forget(task_id)  # it may have ended while it waited in the queue
        self._governor.forget(task_id)

    def _interrupt(self, task_id: str) -> None:
        if task_id not in self._cancelled:
            self._cancelled.add(task_id)
            run = self._running.get(task_id)
            if run is not None:
                run.cancel("cancel")

    async def _work(self) -> None:
        while (claim := await self._queue.next()) is not None:
            run = asyncio.create_task(self._run(claim), name=claim.subject.task_id)
            await asyncio.wait({run})
            self._queue.ended(claim)
            self._after(claim.subject.task_id, run)

    def _after(self, task_id: str, run: "asyncio.Task[bool]") -> None:
        """Keep or give up the task's turn, and say so when a run ended out of order."""
        error = None if run.cancelled() else run.exception()
        if isinstance(error, StaleLease):
            _log.warning("run_stale", extra={"task_id": task_id, "error_message": str(error)})
        elif error is not None:
            _log.error("run_lost", exc_info=error, extra={"task_id": task_id})
        if run.cancelled() or error is not None or not run.result():
            self._turns.leave(task_id)
        elif self._turns.is_called(task_id):  # its turn came while it was being given back
            self._on_turn(task_id)
        if self._governor.is_called(task_id):
            self._on_turn(task_id)

    async def _run(self, claim: Claim) -> bool:
        """One run of a task, from the claim to its end or its return to the queue.

        Returns:
            Whether the task keeps its turn in a budget's line.

        Raises:
            StaleLease: another run holds the task by now, or may.
        """
        self._check(claim)
        task_id, this = claim.subject.task_id, asyncio.current_task()
        assert this is not None  # noqa: S101  (a coroutine runs in a task)
        self._running[task_id] = this  # from here on a cancel can be answered
        try:
            if task_id in self._cancelled and await self._is_called_off(claim):
                await self._finish(claim, Conclusion(Outcome.CANCELLED))
                return False
            return await self._worked(claim)
        finally:
            if (
                self._running.get(task_id) is this
            ):  # else the task came back before this run had ended
                del self._running[task_id]
                self._histories.pop(task_id, None)
                self._cancelled.discard(task_id)

    async def _worked(self, claim: Claim) -> bool:
        try:
            conclusion = await self._attempt(claim)
        except (Parked, Paused, StoreError) as why:
            return await self._set_aside(claim, why)
        except asyncio.CancelledError:
            await self._interrupted(claim)
        except StaleLease:
            # The hint may come now: it must not break off what it asks for.
            self._cancelled.add(claim.subject.task_id)
            if not await self._is_called_off(claim):
                raise
            await self._finish(claim, Conclusion(Outcome.CANCELLED))
        except Exception:  # noqa: BLE001  (a bug of ours must not leave a task without an end)
            _log.exception("internal_error", extra={"task_id": claim.subject.task_id})
            await self._finish(claim, _BUG)
        else:
            if conclusion is not None:
                await self._finish(claim, conclusion)
        return False

    async def _is_called_off(self, claim: Claim) -> bool:
        """The run was refused its next step because another process wrote down a cancel: its hint is still on its way.

        Raises:
            StaleLease: the lease is lost.
        """
        self._check(claim)
        return await persist(self._store, self._clock, lambda tx: is_called_off(tx, claim.subject))

    async def _set_aside(self, claim: Claim, why: Parked | Paused | StoreError) -> bool:
        """The task goes on later, from its last finished step; returns whether it keeps its turn."""
        match why:
            case Parked(reason=reason) if reason == PARKED:
                await self._let_go(claim, reason, lambda tx: park(tx, claim))
            case Parked():
                await self._give_back(claim, why.reason, why.available_at_us)
                return why.reason == "budget_contention"
            case Paused() if self._queue.may_pause:
                await self._pause(claim, why.cause)
            case Paused():
                await self._finish(claim, why.otherwise)
            case _:
                at_us = self._clock.now_us() + int(STORE_RETRY_S * US_PER_S)
                await self._give_back(claim, "store_failed", at_us)
        return False

    async def _interrupted(self, claim: Claim) -> None:
        if claim.subject.task_id in self._cancelled:
            await self._finish(claim, Conclusion(Outcome.CANCELLED))
        else:
            await self._give_back(claim, "drain", self._clock.now_us())

    async def _attempt(self, claim: Claim) -> Conclusion | None:
        left_s = self._left_s(claim)
        deadline = asyncio.timeout(left_s)
        deadline_s = self._clock.monotonic_s() + left_s
        try:
            async with deadline:
                return await self._loop.run(await self._job(claim, deadline_s))
        except TimeoutError:
            if deadline.expired():
                return verbs.DEADLINE_PASSED
            raise

    def _left_s(self, claim: Claim) -> float:
        """How long the run may take. From here on the wall clock is not asked: it may be set meanwhile.

        Never longer than the task was given in all: the clock may have been set back while it waited.
        """
        left_s = (claim.deadline_at_us - self._clock.now_us()) / US_PER_S
        return max(min(left_s, claim.spec.deadline_s), 0.0)

    async def _job(self, claim: Claim, deadline_s: float) -> Job:
        transcript, history, subject = Transcript.begin(claim.spec), History(), claim.subject
        if subject.run > 1:
            entries = await read_all(self._store, subject)
            transcript = rebuild(claim.spec, entries)
            for entry in entries:
                history.grew(entry)
        self._histories[subject.task_id] = history

        def conclude(tx: Tx, conclusion: Conclusion) -> None:
            verbs.finish(tx, subject, as_asked(tx, subject, conclusion))

        return Job(claim, transcript, _payer(claim), conclude, deadline_s, history)

    def _check(self, claim: Claim) -> None:
        """Make sure that the lease it was claimed under is still this process's.

        Raises:
            StaleLease: it was lost; nothing of the task may be changed any more.
        """
        if claim.worker != self._lease.worker:
            message = f"the lease of {claim.worker} on task {claim.subject.task_id} is lost"
            raise StaleLease(message)

    async def _finish(self, claim: Claim, conclusion: Conclusion) -> None:
        self._check(claim)

        def op(tx: Tx) -> int:
            fence(tx, claim.subject)
            ended = as_asked(tx, claim.subject, conclusion)
            presumed_count = presume_open(tx, claim.subject, ended.outcome, ending=True)
            verbs.finish(tx, claim.subject, ended)
            return presumed_count

        self._freed(claim, await persist(self._store, self._clock, op))

    async def _give_back(self, claim: Claim, reason: str, available_at_us: int) -> None:
        await self._let_go(
            claim, reason, lambda tx: verbs.give_back(tx, claim.subject, reason, available_at_us)
        )

    async def _pause(self, claim: Claim, cause: BudgetExhausted) -> None:
        def leave(tx: Tx) -> bool:
            open_blocked(tx, cause, claim.subject.owner)
            return verbs.pause(tx, claim.subject, cause)

        await self._let_go(claim, "budget", leave)

    async def _let_go(self, claim: Claim, reason: str, leave: Callable[[Tx], bool]) -> None:
        """End the run but not the task; a cancel that came meanwhile is carried out instead."""
        self._check(claim)

        def op(tx: Tx) -> int:
            fence(tx, claim.subject)
            presumed_count = presume_open(tx, claim.subject, reason)
            if not leave(tx):
                cancelled = Conclusion(Outcome.CANCELLED)
                presumed_count += presume_open(tx, claim.subject, cancelled.outcome, ending=True)
                verbs.finish(tx, claim.subject, cancelled)
            return presumed_count

        self._freed(claim, await persist(self._store, self._clock, op))

    def _freed(self, claim: Claim, ended_count: int) -> None:
        """Reservations that ended here may have been what others wait for."""
        if ended_count:
            self._turns.ended(_payer(claim).scopes(self._clock.now_us()))

    def _on_turn(self, task_id: str) -> None:
        """The turn has come of a task that waits in the queue: let it start now."""
        if task_id not in self._running:
            waking = asyncio.create_task(self._make_available(task_id), name="turn")
            self._waking.add(waking)
            waking.add_done_callback(self._waking.discard)

    async def _make_available(self, task_id: str) -> None:
        run = latest_run(self._turns, self._governor, task_id)
        me = self._lease.worker

        def op(tx: Tx) -> Row | None:
            place = tx.one("task_place", id=task_id)
            if not is_gone(place, run, me):
                tx.run("make_available", id=task_id, now_us=tx.now_us)
            return place

        try:
            place = await self._store.write(op)
        except StoreError:
            return  # it becomes available by itself, later
        if is_gone(place, run, me):
            self._catch_up({task_id: place})  # of which no hint has come yet
        else:
            self._queue.wake(task_id)


def _payer(claim: Claim) -> Payer:
    subject, spec = claim.subject, claim.spec
    return Payer(subject.task_id, subject.session_id, subject.owner, spec.ancestors, spec.key_id)
