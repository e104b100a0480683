"""A claimed task, ready to be worked on, and how it is ended."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from app.agent.transcript import Transcript
from app.budget.scopes import Payer
from app.domain.task import Claim, Conclusion, Outcome, TaskError
from app.store.port import Tx

Conclude = Callable[[Tx, Conclusion], None]
"""Ends the task, in the caller's transaction."""


@dataclass(frozen=True, slots=True)
class Job:
    """One run's work."""

    claim: Claim
    transcript: Transcript
    payer: Payer
    conclude: Conclude
    deadline_s: float = math.inf
    """Reading of the monotonic clock at which the task is given up: a clock that is set changes nothing of it."""


def with_partial(job: Job, outcome: Outcome, error: TaskError) -> Conclusion:
    """A failed end that keeps the latest text, marked as partial."""
    text = job.transcript.last_text or None
    return Conclusion(outcome, text, partial=text is not None, error=error)
