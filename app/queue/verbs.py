"""The verbs that move a task: enqueue, claim, give back, finish, cancel. Each inside a transaction.

    queued → running → (cancelling) → succeeded | failed | cancelled

A task's row and the event that tells of its change are written together.
"""

from collections.abc import Callable

import orjson

from app.domain.errors import BudgetExhausted, NotFound, StaleLease, TaskFinished
from app.domain.task import (
    Claim,
    Conclusion,
    Outcome,
    Subject,
    TaskError,
    TaskSpec,
    TaskStatus,
)
from app.journal.events import (
    CancelRequested,
    TaskClaimed,
    TaskPaused,
    TaskRequeued,
    TaskResumed,
)
from app.journal.events import TaskFinished as Finished
from app.journal.journal import append
from app.queue import leases
from app.queue.caps import NO_CAPS, Caps, Room, in_force
from app.queue.rows import make_way, move_up
from app.queue.spec import UNREADABLE, spec_of
from app.store.port import Row, Tx

_US_PER_S = 1_000_000
AGEING_US = 60 * _US_PER_S
SCAN_LIMIT = 1_000
"""Waiting tasks that one claim looks at, at most."""
NEVER_US = 1 << 62
"""Later than any instant: what only a higher limit can resume."""


BeforeEnd = Callable[[Tx, Subject, str], object]
"""What the end of a waiting task takes with it, called before it is written: with the reason."""


def nothing_before(_tx: Tx, _subject: Subject, _reason: str) -> None:
    """Nothing waits with the task."""


def enqueue(
    tx: Tx, subject: Subject, spec: TaskSpec, priority: int, *, ageing_us: int = AGEING_US
) -> None:
    """Put a new task in the queue. Its session and accounts exist already.

    It is due now, or at its `run_at`; its deadline counts from there. Each level of priority puts it
    `ageing_us` behind: after that time it goes before newcomers of the level above.
    """
    due_at_us = tx.now_us if spec.run_at_us is None else max(spec.run_at_us, tx.now_us)
    rank_us = due_at_us + priority * ageing_us
    tx.later("count_task", owner=subject.owner, session_id=subject.session_id)
    if due_at_us <= tx.now_us:
        make_way(tx, subject, rank_us, spec.key_id)
    tx.later(
        "insert_task",
        id=subject.task_id,
        owner=subject.owner,
        session_id=subject.session_id,
        spec=orjson.dumps(spec).decode(),
        priority=priority,
        now_us=tx.now_us,
        due_at_us=due_at_us,
        rank_us=rank_us,
        held_by="time" if due_at_us > tx.now_us else None,
        deadline_at_us=due_at_us + int(spec.deadline_s * _US_PER_S),
        parent_id=spec.ancestors[0] if spec.ancestors else None,
        key_id=spec.key_id,
    )


def claim(tx: Tx, worker: str, limit: int, caps: Caps = NO_CAPS) -> list[Claim]:
    """Take up to `limit` tasks that may start now, those of the lowest rank first.

    Raises:
        LeaseLost: the worker's own lease is gone or has expired.
    """
    return claim_some(tx, worker, limit, caps)[0]


def claim_some(tx: Tx, worker: str, limit: int, caps: Caps = NO_CAPS) -> tuple[list[Claim], bool]:
    """The same, and whether it broke off before it had seen everything: then claim again, soon."""
    leases.require(tx, worker)
    due = tx.run("release_due", now_us=tx.now_us, limit=SCAN_LIMIT)
    if in_force(tx, caps):
        rows, more = _within(tx, worker, limit, Room(tx, caps))
    else:
        rows = list(tx.all("claim_tasks", worker=worker, now_us=tx.now_us, limit=limit))
        more = len(rows) == limit
    rows.sort(key=lambda row: (row["rank_us"], row["id"]))
    move_up(tx, rows)
    claims = [_claimed_or_ended(tx, worker, row) for row in rows]
    return [claim for claim in claims if claim is not None], more or due == SCAN_LIMIT


def claim_one(
    tx: Tx,
    worker: str,
    task_id: str,
    caps: Caps = NO_CAPS,
    *,
    run: int | None = None,
    moved: set[str] | None = None,
) -> Claim | None:
    """Take this task, whatever its rank; None when it may not start now, or `run` is not its latest run.

    Into `moved` go the tasks that moved up in its place.

    Raises:
        LeaseLost: the worker's own lease is gone or has expired.
    """
    leases.require(tx, worker)
    row = tx.one("waiting_task", id=task_id, now_us=tx.now_us)
    if row is None or run not in (None, row["run_count"]):
        return None
    if in_force(tx, caps):
        lacking = Room(tx, caps).lacking(row)
        if lacking is not None:
            tx.later("hold_task", id=task_id, held_by=lacking)
            return None
    taken = tx.one("claim_task", id=task_id, worker=worker, now_us=tx.now_us)
    if taken is None:
        return None
    up = move_up(tx, [taken])
    if moved is not None:
        moved.update(up)
    return _claimed(tx, worker, taken, claim_of(taken))


def _within(tx: Tx, worker: str, limit: int, room: Room) -> tuple[list[Row], bool]:
    """Claim one by one. What a limit keeps back is taken out of the order, and not looked at again."""
    rows, seen_count = list[Row](), 0
    while seen_count < SCAN_LIMIT and len(rows) < limit:
        found = tx.all("claimable_tasks", limit=limit - len(rows))
        for candidate in found:
            lacking = room.lacking(candidate)
            if lacking is not None:
                tx.later("hold_task", id=candidate["id"], held_by=lacking)
                continue
            row = tx.one("claim_task", id=candidate["id"], worker=worker, now_us=tx.now_us)
            assert row is not None  # noqa: S101  (it was claimable a moment ago, in this transaction)
            room.take(candidate)
            rows.append(row)
        seen_count += len(found)
        if not found:
            return rows, False
    return rows, True


def _claimed_or_ended(tx: Tx, worker: str, row: Row) -> Claim | None:
    """None for a row that another version wrote: its task ends, and keeps nobody waiting. It can be retried by that one."""
    try:
        taken = claim_of(row)
    except UNREADABLE as error:
        subject = _subject_of(row)
        append(tx, subject, TaskClaimed(worker=worker, waited_s=0.0))
        message = f"This version cannot read the task as it was accepted: {type(error).__name__}."
        finish(
            tx, subject, Conclusion(Outcome.INTERNAL_ERROR, error=TaskError("unreadable", message))
        )
        return None
    return _claimed(tx, worker, row, taken)


def _claimed(tx: Tx, worker: str, row: Row, taken: Claim) -> Claim:
    waited_us = tx.now_us - max(row["available_at_us"], row["created_at_us"])
    waited_s = max(waited_us, 0) / _US_PER_S  # the clock may have been set back
    append(tx, taken.subject, TaskClaimed(worker=worker, waited_s=waited_s))
    return taken


def give_back(
    tx: Tx, subject: Subject, reason: str, available_at_us: int, *, crashed: bool = False
) -> bool:
    """Return a running task to the queue, not to be claimed before `available_at_us`.

    A run that `crashed` counts against the task, until one finishes a step.

    Returns:
        False when the run no longer holds it, or somebody asked to cancel it.
    """
    changed = tx.run(
        "requeue_task",
        id=subject.task_id,
        run=subject.run,
        available_at_us=available_at_us,
        now_us=tx.now_us,
        crashed=int(crashed),
    )
    if changed:
        append(tx, subject, TaskRequeued(reason=reason, available_at_us=available_at_us))
        tx.later("release_next", id=subject.task_id)
    return changed == 1


def park_in_batch(tx: Tx, subject: Subject, deadline_at_us: int) -> bool:
    """Return a running task to the queue until the answer of its batch is there; nobody's slot or place is held.

    Returns:
        False when the run no longer holds it, or somebody asked to cancel it.
    """
    if not give_back(tx, subject, "batch", deadline_at_us):
        return False
    tx.run("wait_for_batch", id=subject.task_id)
    return True


def pause(tx: Tx, subject: Subject, cause: BudgetExhausted) -> bool:
    """Let a running task wait until its budget can pay what it needs.

    Returns:
        False when the run no longer holds it, or somebody asked to cancel it.
    """
    event = TaskPaused(
        reason="budget",
        scope=cause.scope,
        scope_id=cause.shown_id,
        limit_nano=cause.limit_nano,
        spent_nano=cause.spent_nano,
        reserved_nano=cause.reserved_nano,
        needed_nano=cause.needed_nano,
        resets_at_us=cause.resets_at_us,
    )
    changed = tx.run(
        "pause_task",
        id=subject.task_id,
        run=subject.run,
        paused_json=orjson.dumps(event).decode(),
        now_us=tx.now_us,
        available_at_us=NEVER_US if cause.resets_at_us is None else cause.resets_at_us,
        blocked_scope=cause.scope,
        blocked_id=cause.scope_id,
        blocked_needed_nano=cause.needed_nano,
    )
    if changed:
        append(tx, subject, event)
        tx.later("release_next", id=subject.task_id)
    return changed == 1


def resume(tx: Tx, limit: int) -> int:
    """Put paused tasks back whose budget can pay by now, or whose window is over; returns how many.

    Their deadlines have stood still meanwhile.
    """
    found = tx.all("resumable_tasks", now_us=tx.now_us, limit=limit)
    for task in found:
        row = tx.one("resume_task", id=task["id"], now_us=tx.now_us)
        assert row is not None  # noqa: S101  (it was paused a moment ago, in this transaction)
        subject = Subject(task["id"], row["session_id"], row["owner"], row["run_count"])
        paused_us = max(tx.now_us - row["paused_at_us"], 0)
        append(tx, subject, TaskResumed(paused_s=paused_us / _US_PER_S))
    return len(found)


def finish(tx: Tx, subject: Subject, conclusion: Conclusion) -> None:
    """End a task. Terminal: nothing changes it any more. Its cost is what its own lines say, sub-tasks apart.

    Raises:
        StaleLease: this run no longer holds the task, or it has ended already.
    """
    error = conclusion.error
    status = conclusion.outcome.status
    row = tx.one(
        "finish_task",
        id=subject.task_id,
        run=subject.run,
        status=status,
        outcome=conclusion.outcome,
        now_us=tx.now_us,
        result_json=None if conclusion.result is None else orjson.dumps(conclusion.result).decode(),
        result_partial=int(conclusion.partial),
        error_json=None if error is None else orjson.dumps(error).decode(),
    )
    if row is None:
        message = f"run {subject.run} no longer holds task {subject.task_id}"
        raise StaleLease(message)
    tx.later("release_next", id=subject.task_id)
    cost = tx.one("cost_of_task", task_id=subject.task_id)
    append(
        tx,
        subject,
        Finished(
            status=status,
            outcome=conclusion.outcome,
            steps=row["step_count"],
            cost_nano=0 if cost is None else cost["cost_nano"],
            partial=conclusion.partial,
            result_bytes=len((conclusion.result or "").encode()),
            duration_s=max(tx.now_us - row["due_at_us"], 0) / _US_PER_S,
            error_type=error.type if error else None,
            error_message=error.message if error else None,
        ),
    )


def cancel(tx: Tx, owner: str, task_id: str, before_end: BeforeEnd = nothing_before) -> TaskStatus:
    """Cancel a waiting task at once; ask a running one to stop.

    Returns:
        `cancelled`, or `cancelling` until the worker confirms.

    Raises:
        NotFound: no such task of this owner.
        TaskFinished: it has ended already.
    """
    row = tx.one("read_task", id=task_id, owner=owner)
    if row is None:
        raise NotFound("task", task_id)
    status = TaskStatus(row["status"])
    subject = Subject(task_id, row["session_id"], owner, row["run_count"])
    if status.terminal:
        raise TaskFinished(task_id, status, row["outcome"])
    if status is TaskStatus.RUNNING:
        tx.run("request_cancel", id=task_id, owner=owner)
        append(tx, subject, CancelRequested())
        return TaskStatus.CANCELLING
    if status in (TaskStatus.QUEUED, TaskStatus.PAUSED):
        append(tx, subject, CancelRequested())
        before_end(tx, subject, Outcome.CANCELLED)
        finish(tx, subject, Conclusion(Outcome.CANCELLED))
        move_up(tx, [row])
        return TaskStatus.CANCELLED
    return status


def expire(tx: Tx, limit: int, before_end: BeforeEnd = nothing_before) -> int:
    """End tasks whose deadline passed while they waited; returns how many."""
    rows = tx.all("expired_tasks", now_us=tx.now_us, limit=limit)
    for row in rows:
        subject = Subject(row["id"], row["session_id"], row["owner"], row["run_count"])
        before_end(tx, subject, DEADLINE_PASSED.outcome)
        finish(tx, subject, DEADLINE_PASSED)
    move_up(tx, rows)
    return len(rows)


DEADLINE_PASSED = Conclusion(
    Outcome.DEADLINE, error=TaskError("deadline", "The task's deadline passed before it ended.")
)


def claim_of(row: Row) -> Claim:
    """A claim from a task's row."""
    return Claim(
        _subject_of(row),
        spec_of(row["spec"]),
        row["priority"],
        row["created_at_us"],
        row["deadline_at_us"],
        row["step_count"],
        row["lease_owner"],
    )


def _subject_of(row: Row) -> Subject:
    return Subject(row["id"], row["session_id"], row["owner"], row["run_count"])
