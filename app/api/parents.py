"""Sub-tasks: they draw on their parent's budget, and there is an end to how many and how deep."""

from app.budget.keys import Principal
from app.domain.errors import SubmissionRefused
from app.domain.record import record
from app.domain.task import TaskStatus
from app.queue.spec import spec_of
from app.store.port import Operation, Tx

SUBTASK_DEPTH_LIMIT = 4
"""Generations under a task that has no parent."""
SUBTASKS_LIMIT = 100
"""Sub-tasks of one task, in all."""


@record(frozen=True, slots=True)
class Parent:
    """What a sub-task takes over: its ancestors, nearest first, and their session."""

    ancestors: tuple[str, ...] = ()
    session_id: str | None = None


NO_PARENT = Parent()


def parent_of(who: Principal, parent_id: str, session_id: str | None) -> Operation[Parent]:
    """Read the parent of a new task.

    Raises (when run):
        SubmissionRefused: no such task of this owner, it has ended, is of another session, or is itself too
            far down.
    """

    def op(tx: Tx) -> Parent:
        row = tx.one("read_task", id=parent_id, owner=who.owner)
        if row is None:
            raise _refused(f"There is no task {parent_id!r}.")
        if TaskStatus(row["status"]).terminal:
            raise _refused(f"Task {parent_id} has ended: nothing can be done for it any more.")
        if session_id not in (None, row["session_id"]):
            raise _refused(f"A sub-task is of its parent's session, {row['session_id']}.")
        ancestors = (parent_id, *spec_of(row["spec"]).ancestors)
        if len(ancestors) > SUBTASK_DEPTH_LIMIT:
            raise _refused(f"Sub-tasks go {SUBTASK_DEPTH_LIMIT} levels deep, at most.")
        return Parent(ancestors, row["session_id"])

    return op


def check_parent(tx: Tx, owner: str, parent_id: str) -> None:
    """Look again, in the transaction that accepts the sub-task, so that none slips by.

    Raises:
        SubmissionRefused: the parent has ended meanwhile, or has as many as it may.
    """
    row = tx.one("read_task", id=parent_id, owner=owner)
    if row is None or TaskStatus(row["status"]).terminal:
        raise _refused(f"Task {parent_id} has ended: nothing can be done for it any more.")
    found = tx.one("count_subtasks", parent_id=parent_id, owner=owner)
    if found is not None and found["subtask_count"] >= SUBTASKS_LIMIT:
        raise _refused(f"Task {parent_id} has {SUBTASKS_LIMIT} sub-tasks, the most there can be.")


def _refused(message: str) -> SubmissionRefused:
    return SubmissionRefused("parent_id", message, "parent-refused")
