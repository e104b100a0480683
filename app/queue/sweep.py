"""What falls between the task table and the dispatcher, looked for now and then by every process.

A crash can separate a task from its ticket: accepted without one, taken by an executor that died before it claimed
the row, ended at a concurrency limit. The rows say which tasks may start; whoever has no ticket gets one. Tickets
of runs that are over are voided and forgotten, a bounded number at a time.
"""

import logging
from collections.abc import Iterable

from app.domain.clock import US_PER_S
from app.domain.record import record
from app.queue import verbs
from app.queue.caps import Caps, release_held
from app.queue.dispatch import FIRST, ROW_S, Dispatch, Standing, Ticket, priority_of
from app.queue.tickets import ENDED, HELD, WAITING
from app.store.port import Row, Store, Tx

BATCH_LIMIT = 256
"""Tasks and tickets looked at together, at most."""
ARRIVAL_S = 15.0
"""A ticket that was taken must have claimed its task by then; else its executor is gone or stuck."""
RECHECK_S = 15.0
"""How soon the ticket of a task that still waits is looked for again."""
KEEP_S = 60.0
"""How long a ticket is kept that has ended."""
TIDY_INTERVAL_S = 10.0
_log = logging.getLogger(__name__)


def due_tickets(tx: Tx, task_ids: Iterable[str]) -> list[Ticket]:
    """The tickets of those among these tasks that may start now."""
    rows = (tx.one("waiting_task", id=task_id, now_us=tx.now_us) for task_id in task_ids)
    return [_ticket(row) for row in rows if row is not None and row["held_by"] in {None, "time"}]


def _ticket(row: Row) -> Ticket:
    """The ticket of a waiting task's next run. Whose turn in a budget's line has come goes first."""
    behind = -min(row["turn_called"], 0)
    called = row["turn_called"] > 0
    priority = FIRST if called else priority_of(row["rank_us"], behind)
    return Ticket(row["id"], row["run_count"], priority)


class Sweep:
    """Call `once` every second or so."""

    def __init__(
        self,
        store: Store,
        dispatch: Dispatch,
        caps: Caps,
        before_end: verbs.BeforeEnd = verbs.nothing_before,
    ) -> None:
        self._before_end = before_end
        self._store = store
        self._dispatch = dispatch
        self._caps = caps
        self.any_held = False
        """Some tasks wait for a place under a concurrency limit."""
        self._seen: dict[str, tuple[float, int]] = {}
        """Tickets that were in the queue when looked for: when that was, in seconds, and their priority."""
        self._next_tidy_s = 0.0
        self._offset = 0

    async def once(self, monotonic_s: float) -> None:
        """Look at everything that is due.

        Raises:
            StoreError: try again later.
        """
        await self._rows()
        await self._mend(monotonic_s)
        if monotonic_s >= self._next_tidy_s:
            self._next_tidy_s = monotonic_s + TIDY_INTERVAL_S
            await self._tidy()

    def spent(self, ticket: str) -> None:
        """It arrived here without effect: that it was seen in the queue says nothing any more."""
        self._seen.pop(ticket, None)

    async def _rows(self) -> None:
        """What time, budgets and limits have changed for tasks that wait. Looked for by a reader: mostly there is nothing."""
        now = await self._store.read(_changes)
        if now.due:
            await self._store.write(
                lambda tx: tx.run("release_due", now_us=tx.now_us, limit=BATCH_LIMIT)
            )
        if now.expired:
            await self._store.write(lambda tx: verbs.expire(tx, BATCH_LIMIT, self._before_end))
        if now.resumable:
            await self._store.write(lambda tx: verbs.resume(tx, BATCH_LIMIT))
        if now.held:
            await self._store.write(lambda tx: release_held(tx, self._caps))
        self.any_held = now.held

    async def _mend(self, monotonic_s: float) -> None:
        """Give a ticket to each of the first tasks in line that has none."""

        def op(tx: Tx) -> tuple[list[Ticket], int]:
            rows = tx.all("claimable_tasks", limit=BATCH_LIMIT)
            return [_ticket(row) for row in rows], tx.now_us

        first, now_us = await self._store.read(op)
        recent_s = monotonic_s - RECHECK_S
        self._seen = {t: seen for t, seen in self._seen.items() if seen[0] > recent_s}
        tickets = {ticket.id: ticket for ticket in first if not self._was_seen(ticket)}
        if not tickets:
            return
        standing = await self._dispatch.standing(list(tickets))
        spent = [s.id for s in standing.values() if s.status in ENDED]
        stuck = [s.id for s in standing.values() if _is_stuck(s, now_us)]
        old = {*spent, *(s.id for s in standing.values() if _moved_up(s, tickets[s.id]))}
        lacking = [t for t in tickets.values() if t.id not in standing or t.id in old]
        await self._dispatch.forget(list(old))
        await self._dispatch.put_back(stuck)
        await self._dispatch.hand_in(lacking)
        if stuck:
            _log.warning("tickets_put_back", extra={"count": len(stuck)})
        self._seen |= {
            one.id: (monotonic_s, one.priority)
            for one in standing.values()
            if one.status in WAITING and one.id not in old
        }

    def _was_seen(self, ticket: Ticket) -> bool:
        """A while ago, in a place that it may still have."""
        seen = self._seen.get(ticket.id)
        return seen is not None and not _is_farther_back(seen[1], ticket)

    async def _tidy(self) -> None:
        """Void the tickets of runs that are over, forget those that ended a while ago."""
        held = await self._dispatch.held(limit=BATCH_LIMIT, offset=self._offset)
        over = await self._store.read(lambda tx: [s.id for s in held if _is_over(tx, s)])
        await self._dispatch.cancel(over)
        self._offset = self._offset + len(held) - len(over) if len(held) == BATCH_LIMIT else 0
        now_us = await self._store.read(lambda tx: tx.now_us)
        while True:
            ended = await self._dispatch.ended(now_us - int(KEEP_S * US_PER_S), BATCH_LIMIT)
            await self._dispatch.forget([ticket.id for ticket in ended])
            if len(ended) < BATCH_LIMIT:
                return


@record(frozen=True, slots=True)
class _Changes:
    """Whether there is something to do."""

    due: bool
    expired: bool
    resumable: bool
    held: bool


def _changes(tx: Tx) -> _Changes:
    return _Changes(
        due=tx.one("any_due", now_us=tx.now_us) is not None,
        expired=tx.one("expired_tasks", now_us=tx.now_us, limit=1) is not None,
        resumable=tx.one("resumable_tasks", now_us=tx.now_us, limit=1) is not None,
        held=tx.one("any_held") is not None,
    )


def _moved_up(standing: Standing, ticket: Ticket) -> bool:
    return standing.status in WAITING and _is_farther_back(standing.priority, ticket)


def _is_farther_back(priority: int, ticket: Ticket) -> bool:
    """The task has moved up a row since: whoever was in front was cancelled, say."""
    return priority - ticket.priority >= ROW_S


def _is_stuck(ticket: Standing, now_us: int) -> bool:
    return ticket.status == HELD and ticket.arrived_at_us < now_us - int(ARRIVAL_S * US_PER_S)


def still_waits(tx: Tx, held: Standing) -> bool:
    """The run that this ticket is for has not begun."""
    ticket = Ticket.parse(held.id)
    row = tx.one("task_place", id=ticket.task_id)
    return row is not None and row["status"] == "queued" and row["run_count"] == ticket.run


def _is_over(tx: Tx, held: Standing) -> bool:
    """Nobody runs what this ticket was for. One that has only just arrived is left alone."""
    if held.arrived_at_us > tx.now_us - int(ARRIVAL_S * US_PER_S):
        return False
    ticket = Ticket.parse(held.id)
    row = tx.one("task_place", id=ticket.task_id)
    if row is None:
        return True
    runs = row["status"] in {"running", "cancelling"} and row["run_count"] == ticket.run + 1
    return not runs and not still_waits(tx, held)
