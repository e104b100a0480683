"""A claimed task, ready to be worked on, and how it is ended."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from app.agent.transcript import Transcript
from app.budget.scopes import Payer
from app.domain.record import record
from app.domain.task import Claim, Conclusion, Outcome, TaskError
from app.journal.journal import Recorded
from app.llm.caller import OVERCHARGED
from app.store.port import Tx

Conclude = Callable[[Tx, Conclusion], None]
"""Ends the task, in the caller's transaction."""


@dataclass(slots=True)
class History:
    """How long the task's journal has become: no task may fill the disk or the memory by itself."""

    events: int = 0
    size_bytes: int = 0
    """Of the answers and tool results."""

    def grew(self, entry: Recorded) -> None:
        """Count one more entry."""
        self.events = entry.seq
        self.size_bytes += len(entry.body or b"")


@record(frozen=True, slots=True)
class HistoryLimits:
    """How long a task's journal may become before the task is ended."""

    events: int = 5_000
    size_bytes: int = 20_971_520

    def reached(self, history: History) -> bool:
        """Whether no further step may begin."""
        return history.events >= self.events or history.size_bytes >= self.size_bytes


@record(frozen=True, slots=True)
class Job:
    """One run's work."""

    claim: Claim
    transcript: Transcript
    payer: Payer
    conclude: Conclude
    deadline_s: float = math.inf
    """Reading of the monotonic clock at which the task is given up: a clock that is set changes nothing of it."""
    history: History = field(default_factory=History)


OVERCHARGED_END = Conclusion(
    Outcome.UPSTREAM_FAILED, error=TaskError(OVERCHARGED.error_type, OVERCHARGED.message)
)
"""The end of a task whose upstream reported more than can have been."""


def with_partial(job: Job, outcome: Outcome, error: TaskError) -> Conclusion:
    """A failed end that keeps the latest text, marked as partial."""
    text = job.transcript.last_text or None
    return Conclusion(outcome, text, partial=text is not None, error=error)
