"""What the doctor found: a sentence each, and what to do about it."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from app.domain.record import record

SHOWN_LIMIT = 100
"""Findings of one kind that are kept, at most; the others are counted."""

ADVICE = {
    "drift": "The books are wrong: stop, keep a backup, and report it.",
    "amount-broken": "The books are wrong: stop, keep a backup, and report it.",
    "journal-missing": "Restore a backup, or cancel and erase the task.",
    "journal-gap": "Restore a backup: part of what happened is lost.",
    "journal-status": "Restart the service; if it stays, report it.",
    "journal-steps": "Report it: an answer and the count of answers are written together.",
    "journal-orphan": "Restore a backup if the task is wanted; nothing uses these entries.",
    "ledger-orphan": "Restore a backup if the task is wanted; its money counts all the same.",
    "answer-orphan": "Restore a backup if the task is wanted; the key is forgotten after its time.",
    "account-missing": "Restore a backup: nothing can be reserved for it.",
    "session-missing": "Restore a backup: nothing can be reserved for it.",
    "journal-runs": "Report it: a run and its entry are written together.",
    "parent-missing": "Restore a backup, or cancel the sub-task.",
    "reservation-left": "Report it; the money counts as held until it is settled.",
    "reservation-stale": "Start (or restart) the service: it books the lost call and goes on.",
    "worker-missing": "Start (or restart) the service: it takes the task over.",
    "worker-left": "Restart the service: it removes the row; look into its log for `reaping_failed`.",
    "lease-owner": "Report it: the lease and its entry are written together.",
    "cancel-unheard": "Restart the service: the task ends as cancelled; report it.",
    "pause-without-account": "Cancel the task: nothing can resume it.",
    "pause-over": "Start (or restart) the service: it resumes the task within a second.",
    "queue-overdue": "Restart the service; if it stays, report it.",
    "queue-stuck": "Restart the service; if it stays, report it.",
    "queue-unclaimed": "Look into the log for `disk_low`, `claims_postponed` or `dispatch_failed`; restart the service.",
    "ticket-missing": "Restart the service: it hands tickets in; look into its log for `tickets_postponed` or `caretaker_failed`.",
    "ticket-stuck": "Restart the service: it puts tickets back; look into its log for `tickets_postponed` or `caretaker_failed`.",
    "ticket-stranded": "Delete its row of `dbos.workflow_status`: the service hands another in within half a minute.",
    "ticket-left": "Restart the service: it deletes them; if they stay, delete them: nothing uses them.",
    "tickets-unreadable": "Restart the service: it makes or migrates the dispatcher's tables; if it stays, report it.",
    "pruned-alive": "Restore a backup; report it.",
    "erasure-incomplete": "Restore a backup and erase the task again.",
}
"""What to do, by the check's name."""


@record(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be."""

    check: str
    sentence: str
    about: str = ""
    """Whose it is, where it may be over a moment later: see `app.doctor.line`."""

    @property
    def advice(self) -> str:
        """What to do about it."""
        return ADVICE[self.check]


@dataclass(slots=True)
class Findings:
    """All of them, in bounded memory."""

    shown: list[Finding] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, found: Iterable[Finding]) -> None:
        """Keep the first of each kind, count all."""
        for finding in found:
            self.counts[finding.check] += 1
            if self.counts[finding.check] <= SHOWN_LIMIT:
                self.shown.append(finding)

    @property
    def left_out(self) -> dict[str, int]:
        """Check → how many are not shown."""
        return {
            check: count - SHOWN_LIMIT
            for check, count in self.counts.items()
            if count > SHOWN_LIMIT
        }
