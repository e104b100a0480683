"""What the rows say of tasks that something is kept for here, and that another process may have gone on with."""

from collections.abc import Iterable
from itertools import islice

from app.budget.turns import Turns
from app.domain.task import Conclusion, Outcome, Subject, TaskStatus
from app.journal.journal import is_called_off
from app.llm.governor.governor import Governor
from app.store.port import Row, Tx

LOOK_LIMIT = 500
"""So many of those whose calls wait here are looked for at once; the others, when their turns come."""

REST_LIMIT = 50
"""So many of the tasks are looked for that wait for nothing here."""


def kept_for(turns: Turns, governor: Governor, wanted: Iterable[str] | None) -> set[str]:
    """The tasks, of these or of all, that stand in a line here."""
    if wanted is None:
        waiting = turns.standing() | set(islice(governor.kept(), LOOK_LIMIT))
        return waiting | turns.some_known(REST_LIMIT)
    known = turns.known()
    return {t for t in wanted if t in known or governor.run_of(t) is not None}


def latest_run(turns: Turns, governor: Governor, task_id: str) -> int | None:
    """The task's run that asked last of those for which it stands in a line here."""
    runs = turns.run_of(task_id), governor.run_of(task_id)
    return max((run for run in runs if run is not None), default=None)


def is_gone(place: Row | None, run: int | None, me: str) -> bool:
    """It has ended, or has gone on in another process since its `run` here; it may wait in that one's line by now."""
    if place is None or TaskStatus(place["status"]).terminal:
        return True
    return run is not None and place["run_count"] > run and place["lease_owner"] != me


def is_cancelling(tx: Tx, task_id: str) -> bool:
    """Somebody asked to cancel it."""
    row = tx.one("task_place", id=task_id)
    return row is not None and row["status"] == TaskStatus.CANCELLING


def as_asked(tx: Tx, subject: Subject, conclusion: Conclusion) -> Conclusion:
    """How a run ends that may have been asked to stop, heard of or not: whoever asked was told that it would be cancelled."""
    failed = conclusion.outcome.status is TaskStatus.FAILED
    return Conclusion(Outcome.CANCELLED) if failed and is_called_off(tx, subject) else conclusion
