"""One task with all that is written of it, and what can be wrong with that. Pure: rows in, findings out."""

from collections.abc import Callable, Iterator

from app.doctor.findings import Finding
from app.domain.clock import US_PER_S
from app.domain.record import record
from app.domain.task import TaskStatus
from app.store.port import Row

PATIENCE_US = 30 * US_PER_S
"""What a running service puts right by itself within this time is no finding."""
_HEARD_US = 300 * US_PER_S
"""A run has heard of a cancel, and booked what it broke off, long before."""
_TURNS = (
    "nothing",
    "task_accepted",
    "task_claimed",
    "task_requeued",
    "task_paused",
    "task_resumed",
    "cancel_requested",
    "task_finished",
    "task_retried",
)
"""What moves a task, as the query `checkup_journals` numbers it."""
_FOLLOWS = {
    TaskStatus.QUEUED: {"task_accepted", "task_requeued", "task_resumed", "task_retried"},
    TaskStatus.RUNNING: {"task_claimed"},
    TaskStatus.PAUSED: {"task_paused"},
    TaskStatus.CANCELLING: {"cancel_requested"},
    TaskStatus.SUCCEEDED: {"task_finished"},
    TaskStatus.FAILED: {"task_finished"},
    TaskStatus.CANCELLED: {"task_finished"},
}
"""The status that a journal's last move leaves a task in."""


@record(frozen=True, slots=True)
class Case:
    """A task's row, its journal in sums, and its open reservations."""

    row: Row
    journal: Row | None
    open: Row | None
    now_us: int
    claimed_by: str | None = None
    """Whose claim of the present run the journal tells of, while a worker is at it."""

    @property
    def status(self) -> TaskStatus:
        """How the row says it stands."""
        return TaskStatus(self.row["status"])

    @property
    def held(self) -> bool:
        """A worker is at it."""
        return self.status in (TaskStatus.RUNNING, TaskStatus.CANCELLING)


def examine_case(case: Case) -> Iterator[Finding]:
    """Everything that is wrong with one task."""
    for check, look in CHECKS.items():
        wrong = look(case)
        if wrong is not None:
            yield Finding(check, f"Task {case.row['id']} ({case.status}) {wrong}.")


def gap_in(journal: Row) -> str | None:
    """A journal is numbered 1, 2, 3, … to its last entry."""
    count, first, last = (journal[name] for name in ("event_count", "first_seq", "last_seq"))
    if (first, last) == (1, count):
        return None
    return f"has {count} journal entries, numbered {first} to {last}"


def _journal_missing(case: Case) -> str | None:
    return "has no journal" if case.journal is None else None


def _journal_gap(case: Case) -> str | None:
    return None if case.journal is None else gap_in(case.journal)


def _journal_status(case: Case) -> str | None:
    if case.journal is None:
        return None
    turn = _TURNS[case.journal["turn"] % 16]
    return None if turn in _FOLLOWS[case.status] else f"has a journal whose last move is {turn}"


def _journal_steps(case: Case) -> str | None:
    answers = 0 if case.journal is None else case.journal["answer_count"]
    steps = case.row["step_count"]
    return None if answers == steps else f"counts {steps} steps, its journal {answers} answers"


def _journal_runs(case: Case) -> str | None:
    if case.journal is None:
        return None
    runs, known = case.row["run_count"], case.journal["last_run"]
    return None if runs == known else f"counts {runs} runs, its journal {known}"


def _lease_owner(case: Case) -> str | None:
    owner = case.row["lease_owner"]
    if case.claimed_by in (None, owner):
        return None
    return f"is held by the worker {owner}, and was claimed by {case.claimed_by}"


def _account_missing(case: Case) -> str | None:
    return None if case.row["has_account"] else "has no account"


def _session_missing(case: Case) -> str | None:
    if case.row["has_session"]:
        return None
    return f"is of the session {case.row['session_id']}, which is missing, or its account is"


def _parent_missing(case: Case) -> str | None:
    return None if case.row["has_parent"] else f"has no parent {case.row['parent_id']}"


def _reservation_left(case: Case) -> str | None:
    if case.open is None or not case.status.terminal:
        return None
    return f"has ended with {case.open['open_count']} reservations open"


def _reservation_stale(case: Case) -> str | None:
    if case.open is None or case.held or case.status.terminal:
        return None
    if case.open["open_count"] == case.open["batched_count"]:  # a batch may take a day
        return None
    age_us = case.now_us - case.open["oldest_at_us"]
    if age_us <= PATIENCE_US:
        return None
    return f"holds money for a call, for {age_us // US_PER_S} s, and no worker is at it"


def _worker_missing(case: Case) -> str | None:
    row, journal = case.row, case.journal
    long_ago_us = case.now_us - PATIENCE_US
    if not case.held or journal is None or journal["last_at_us"] > long_ago_us:
        return None
    if row["worker"] is not None and row["worker_expires_at_us"] > long_ago_us:
        return None
    return f"is held by the worker {row['lease_owner']}, which does not live"


def _cancel_unheard(case: Case) -> str | None:
    """By a worker that lives: what another one held is taken over, and ends."""
    row, journal = case.row, case.journal
    if case.status is not TaskStatus.CANCELLING or journal is None or row["worker"] is None:
        return None
    silent_us = case.now_us - journal["last_at_us"]
    if silent_us <= _HEARD_US or row["worker_expires_at_us"] <= case.now_us:
        return None
    return f"is to stop, and {row['lease_owner']} has said nothing for {silent_us // US_PER_S} s"


def _pause_without_account(case: Case) -> str | None:
    if case.status is not TaskStatus.PAUSED or case.row["blocked_free_nano"] is not None:
        return None
    return (
        f"waits for the {case.row['blocked_scope']} {case.row['blocked_id']}, which does not exist"
    )


def _pause_over(case: Case) -> str | None:
    row = case.row
    free = row["blocked_free_nano"]
    if case.status is not TaskStatus.PAUSED or free is None:
        return None
    if case.now_us - row["paused_at_us"] <= PATIENCE_US:
        return None
    if row["available_at_us"] <= case.now_us - PATIENCE_US:
        return "waits for a window that is over"
    if row["blocked_needed_nano"] <= free:
        return f"waits for the {row['blocked_scope']} {row['blocked_id']}, which can pay"
    return None


def _queue_stuck(case: Case) -> str | None:
    if not case.row["stuck"] or case.row["available_at_us"] > case.now_us - PATIENCE_US:
        return None
    return f"waits for other tasks of its {case.row['held_by']}, and none of them runs"


def _queue_overdue(case: Case) -> str | None:
    """Only while a worker lives: where nobody works, everything waits."""
    row, long_ago_us = case.row, case.now_us - PATIENCE_US
    if case.status is not TaskStatus.QUEUED or (row["workers_until_us"] or 0) <= case.now_us:
        return None
    if row["deadline_at_us"] <= long_ago_us:
        return "waits, and its deadline has passed"
    if row["held_by"] == "time" and row["available_at_us"] <= long_ago_us:
        return "is due, and has not been let into the line"
    return None


def _erasure_incomplete(case: Case) -> str | None:
    if case.row["erased_at_us"] is None:
        return None
    bodies, told = 0, 0
    if case.journal is not None:
        bodies, told = case.journal["body_count"], case.journal["erased_count"]
    if not bodies and not case.row["has_result"] and told == 1:
        return None
    left = f"{bodies} bodies and {case.row['has_result']} results are left"
    return f"is erased, but {left}, and its journal tells of it {told} times"


def _pruned_alive(case: Case) -> str | None:
    return "was taken away by retention, and is there" if case.row["pruned"] else None


CHECKS: dict[str, Callable[[Case], str | None]] = {
    "journal-missing": _journal_missing,
    "journal-gap": _journal_gap,
    "journal-status": _journal_status,
    "journal-steps": _journal_steps,
    "journal-runs": _journal_runs,
    "lease-owner": _lease_owner,
    "account-missing": _account_missing,
    "session-missing": _session_missing,
    "parent-missing": _parent_missing,
    "reservation-left": _reservation_left,
    "reservation-stale": _reservation_stale,
    "worker-missing": _worker_missing,
    "cancel-unheard": _cancel_unheard,
    "pause-without-account": _pause_without_account,
    "pause-over": _pause_over,
    "queue-stuck": _queue_stuck,
    "queue-overdue": _queue_overdue,
    "pruned-alive": _pruned_alive,
    "erasure-incomplete": _erasure_incomplete,
}
"""What is asked of each task, by the finding's name."""
