"""What a crash or an interruption left behind: calls in flight, tasks nobody runs. Inside a transaction."""

import logging

from app.budget.ledger import Kind, open_attempts, settle
from app.domain.task import Claim, Conclusion, Outcome, Subject, TaskError, TaskStatus
from app.journal.call_events import AttemptPresumed
from app.journal.journal import append
from app.llm.batching.economy import PARKED
from app.llm.batching.items import give_up, has_returned, held_back
from app.llm.booking import tell
from app.queue import verbs
from app.store.port import Store, Tx

_log = logging.getLogger(__name__)
RESCUE_LIMIT = 32
"""Tasks put back in one transaction, at most: nobody's write waits long behind it."""


def presume_open(tx: Tx, subject: Subject, reason: str, *, ending: bool = False) -> int:
    """Book every reservation of the task that nothing has ended as spent: its answer is lost.

    Not those whose batch is still to be had, unless the task is `ending`: then they are given up.

    Returns:
        How many ended.
    """
    lost = open_attempts(tx, subject)
    if not lost:
        return 0
    given_up = give_up(tx, subject, reason) if ending else 0
    kept = held_back(tx, subject.task_id)
    lost = [attempt for attempt in lost if (attempt.step, attempt.attempt) not in kept]
    if given_up:
        still_open = {attempt.id for attempt in open_attempts(tx, subject)}
        lost = [attempt for attempt in lost if attempt.id in still_open]
    for attempt in lost:
        settled = settle(tx, attempt.id, Kind.PRESUMED)
        assert settled is not None  # noqa: S101  (it was open a moment ago, in this transaction)
        tell(tx, attempt, settled)
        append(
            tx,
            subject,
            AttemptPresumed(
                step=attempt.step,
                attempt=attempt.attempt,
                model=attempt.model,
                charged_nano=settled.charged_nano,
                task_spent_nano=settled.task_spent_nano,
                reason=reason,
            ),
        )
    return given_up + len(lost)


def park(tx: Tx, claim: Claim) -> bool:
    """Let the task wait for its batch, unless what that brought is here already; False as of `verbs.give_back`."""
    if has_returned(tx, claim.subject.task_id):
        return verbs.give_back(tx, claim.subject, PARKED, tx.now_us)
    return verbs.park_in_batch(tx, claim.subject, claim.deadline_at_us)


def rescue(tx: Tx, reason: str, run_limit: int) -> int:
    """Put back into the queue what belongs to nobody any more; end what was being cancelled, or crashes for ever.

    Returns:
        How many tasks it was, `RESCUE_LIMIT` at most: call again until there are none.
    """
    rows = tx.all("orphaned_tasks", limit=RESCUE_LIMIT)
    for row in rows:
        subject = Subject(row["id"], row["session_id"], row["owner"], row["run_count"])
        crashes = row["crash_count"] + 1
        ending = row["status"] == TaskStatus.CANCELLING or crashes >= run_limit
        presume_open(tx, subject, reason, ending=ending)
        if row["status"] == TaskStatus.CANCELLING:
            verbs.finish(tx, subject, Conclusion(Outcome.CANCELLED))
        elif ending:
            verbs.finish(tx, subject, _crashed(crashes))
        else:
            verbs.give_back(tx, subject, reason, tx.now_us, crashed=True)
    return len(rows)


async def rescue_all(store: Store, reason: str, run_limit: int) -> int:
    """Rescue every orphan, a bounded number at a time; returns how many there were.

    Any number of processes may do this at once: each task is rescued by one of them.
    """
    count = 0
    while found := await store.write(lambda tx: rescue(tx, reason, run_limit)):
        count += found
    if count:
        _log.warning("tasks_rescued", extra={"count": count, "reason": reason})
    return count


async def take_over(store: Store, run_limit: int) -> int:
    """Rescue all that dead processes were running. Call before the first claim.

    Only where nobody else can hold a task: the data directory's lock says so.

    Returns:
        How many tasks were left behind.
    """
    await store.write(lambda tx: tx.run("remove_workers"))
    return await rescue_all(store, "restart", run_limit)


def _crashed(times: int) -> Conclusion:
    message = (
        f"{times} runs in a row ended without a finished step: the process that ran the task crashed or "
        "lost its lease each time."
    )
    error = TaskError("crashed_repeatedly", message)
    return Conclusion(Outcome.CRASHED_REPEATEDLY, error=error)
