"""A failed task begins another run, from its last good step. Inside a transaction.

The journal goes on where it stopped: what was answered and paid for is not asked again.
"""

import dataclasses

import orjson

from app.domain.clock import US_PER_S
from app.domain.errors import NotFound, SubmissionRefused, TaskNotFailed
from app.domain.record import record
from app.domain.task import Outcome, Subject, TaskSpec, TaskStatus
from app.journal.events import TaskRetried
from app.journal.journal import append
from app.queue.spec import spec_of
from app.queue.verbs import AGEING_US
from app.store.port import Row, Tx


@record(frozen=True, slots=True)
class Changes:
    """What the next run may that the last one might not; None leaves it as it was."""

    max_steps: int | None = None
    deadline_s: float | None = None

    def of(self, spec: TaskSpec) -> TaskSpec:
        """The submission as the next run sees it."""
        return dataclasses.replace(
            spec,
            max_steps=spec.max_steps if self.max_steps is None else self.max_steps,
            deadline_s=spec.deadline_s if self.deadline_s is None else self.deadline_s,
            run_at_us=None,
        )


def failed_task(tx: Tx, owner: str, task_id: str) -> Row:
    """The row of a task that can be retried.

    Raises:
        NotFound: no such task of this owner.
        TaskNotFailed: it stands otherwise, or its content was erased.
    """
    row = tx.one("read_task", id=task_id, owner=owner)
    if row is None:
        raise NotFound("task", task_id)
    if row["status"] != TaskStatus.FAILED:
        raise TaskNotFailed(task_id, row["status"], row["outcome"])
    if row["erased_at_us"] is not None:
        raise TaskNotFailed(task_id, row["status"], row["outcome"], erased=True)
    return row


def retry(
    tx: Tx, owner: str, task_id: str, changes: Changes, *, ageing_us: int = AGEING_US
) -> TaskSpec:
    """Put a failed task back into the queue. Its deadline starts anew, and so do the counts that ended it.

    Of several retries at once one does it; the others find a task that has not failed.

    Raises:
        NotFound, TaskNotFailed: see `failed_task`.
        SubmissionRefused: its steps are used up, and no more are allowed.
    """
    row = failed_task(tx, owner, task_id)
    spec = changes.of(spec_of(row["spec"]))
    used = used_steps(Outcome(row["outcome"]), spec_of(row["spec"]), row["step_count"])
    if spec.max_steps <= used:
        message = f"The task has used {used} steps: a retry needs a higher max_steps."
        raise SubmissionRefused("max_steps", message, "retry-needs-more")
    deadline_at_us = tx.now_us + int(spec.deadline_s * US_PER_S)
    tx.run(
        "retry_task",
        id=task_id,
        owner=owner,
        spec=orjson.dumps(spec).decode(),
        now_us=tx.now_us,
        rank_us=tx.now_us + row["priority"] * ageing_us,
        deadline_at_us=deadline_at_us,
    )
    append(
        tx,
        Subject(task_id, row["session_id"], owner, row["run_count"]),
        TaskRetried(
            outcome=row["outcome"],
            steps=row["step_count"],
            max_steps=spec.max_steps,
            deadline_at_us=deadline_at_us,
        ),
    )
    return spec


def used_steps(outcome: Outcome, spec: TaskSpec, answers: int) -> int:
    """How many of its steps a task has used: all of its answers but the classifier's, which is none of them."""
    if outcome is Outcome.MAX_STEPS:
        return min(answers, spec.max_steps)
    return max(answers - 1, 0) if spec.classify else answers


def needs(outcome: Outcome, steps: int, max_steps: int) -> tuple[list[str], str]:
    """What a retry needs to get further than the run that failed: names of fields, and the same in words."""
    needed, advice = [], _ADVICE.get(outcome, _AGAIN)
    if steps >= max_steps:
        needed.append("max_steps")
        if outcome is not Outcome.MAX_STEPS:
            advice += f" All of its {max_steps} steps are used."
    if outcome is Outcome.BUDGET_EXHAUSTED:
        needed.append("budget")
    return needed, advice


_AGAIN = "It goes on from its last good step."
_ADVICE = {
    Outcome.MAX_STEPS: "Give it a higher max_steps.",
    Outcome.BUDGET_EXHAUSTED: "Raise the budget that is spent: the task's own with budget_usd, another by itself.",
    Outcome.DEADLINE: "Its deadline starts anew; a longer one is deadline_s.",
    Outcome.REFUSED: "The same question is asked again, and may be refused again.",
    Outcome.TRUNCATED: "The same question is asked again, with as much room as before.",
    Outcome.EMPTY_ANSWER: "The same question is asked again.",
    Outcome.UPSTREAM_FAILED: "The model's side may be well again.",
    Outcome.UPSTREAM_REJECTED: "The same request may be rejected again: see the error.",
    Outcome.UPSTREAM_SPEND_CAP: "The account at the provider has a cap of its own: raise it first.",
    Outcome.HISTORY_LIMIT: "Its journal is as long as the service's settings allow: submit it anew.",
    Outcome.CRASHED_REPEATEDLY: "Its crashes are counted anew.",
    Outcome.INTERNAL_ERROR: "The service's log has the details.",
}
