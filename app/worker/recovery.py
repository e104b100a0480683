"""What a crash or an interruption left behind: calls in flight, tasks nobody runs. Inside a transaction."""

from app.budget.ledger import Kind, open_attempts, settle
from app.domain.task import Conclusion, Outcome, Subject, TaskStatus
from app.journal.events import AttemptPresumed
from app.journal.journal import append
from app.llm.booking import tell
from app.queue import verbs
from app.store.port import Store, Tx


def presume_open(tx: Tx, subject: Subject, reason: str) -> int:
    """Book every reservation of the task that nothing has ended as spent: its answer is lost.

    Returns:
        How many there were.
    """
    lost = open_attempts(tx, subject)
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
    return len(lost)


async def take_over(store: Store, worker: str) -> int:
    """Put back into the queue what a dead process was running; end what it was cancelling.

    The data directory's lock says that no other process can hold a task. Call before the first claim.

    Returns:
        How many tasks were left behind.
    """

    def op(tx: Tx) -> int:
        rows = tx.all("held_tasks", worker=worker)
        for row in rows:
            subject = Subject(row["id"], row["session_id"], row["owner"], row["run_count"])
            presume_open(tx, subject, "restart")
            if row["status"] == TaskStatus.CANCELLING:
                verbs.finish(tx, subject, Conclusion(Outcome.CANCELLED))
            else:
                verbs.give_back(tx, subject, "restart", tx.now_us)
        return len(rows)

    return await store.write(op)
