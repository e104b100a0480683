"""One model call: what is asked on whose account, and the ways it can end without an answer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from app.budget.ledger import Settled
from app.budget.scopes import Payer
from app.domain.errors import BudgetExhausted, BursarError
from app.domain.record import record
from app.domain.task import Bound, Conclusion, Outcome, Subject
from app.llm.bound import ClosingTurn
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest
from app.store.port import Tx


@dataclass(slots=True)
class Tries:
    """The attempts of one question so far, by this run and by earlier ones. Counted on as they are made."""

    made: int = 0
    """Whatever became of them: their numbers are never used twice."""
    failures: int = 0
    """Those of them that the upstream failed: what the retry limits count."""
    failing_since_us: int | None = None
    """When the first of an earlier run's began."""
    failing_since_s: float | None = None
    """When the first of all began, by the monotonic clock; None as long as this run has met none."""
    paid: int = 0
    """Failures that may have been billed: these are never forgiven."""
    retry_of: str | None = None
    """How the attempt failed (its `error_type`) that the next one is a retry of."""

    def forgive(self) -> None:
        """What has failed at no cost counts no more."""
        self.failures, self.failing_since_us, self.failing_since_s = self.paid, None, None


@record(frozen=True, slots=True)
class Call:
    """One logical question to a model; several attempts may be made for it."""

    subject: Subject
    step: int
    request: ModelRequest
    """Its `max_tokens` is the wish; each attempt asks for what the budget can pay of it."""
    payer: Payer
    """Whose money it is."""
    prompt_tokens: int
    """Upper bound of the prompt."""
    min_tokens: int
    """Floor of the output: below it no call is made."""
    deadline_s: float
    """Reading of the monotonic clock at which the task is given up."""
    tries: Tries = field(default_factory=Tries)
    closing: ClosingTurn | None = None
    """A later call that must stay affordable."""
    bound: Bound = Bound.PROVED
    """How `prompt_tokens` was found."""
    agent: str | None = None
    economy: bool = False
    """It is asked in a batch, at half price."""
    live: bool = False
    """Its text is the task's own: whoever watches the task may see it come."""


class Move(Protocol):
    """What an answer leads to, decided before it is recorded and written with it."""

    @property
    def name(self) -> str:
        """`finish`, `run_tools`, `continue`, `nudge`, `enlarge`, `escalate` or `classify`."""
        ...

    def write(self, tx: Tx, settled: Settled) -> None:
        """Write what follows from the answer, in the transaction that records and pays it."""
        ...


M = TypeVar("M", bound=Move)
Decide = Callable[[ModelAnswer, int], M]
"""From an answer and the `max_tokens` it was asked with."""


@dataclass(slots=True)
class Drain:
    """The service is stopping: nothing new may start. One object a process, shared by who starts things."""

    begun: bool = False


class CallFailed(BursarError):  # noqa: N818
    """The call brought no answer and will not: the task ends with `outcome`."""

    def __init__(self, outcome: Outcome, failure: ModelFailure) -> None:
        super().__init__(failure.message)
        self.outcome = outcome
        self.failure = failure


class Parked(BursarError):  # noqa: N818
    """The call has to wait longer than a worker's slot may be held: give the task back until then."""

    def __init__(self, reason: str, available_at_us: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.available_at_us = available_at_us


class Paused(BursarError):  # noqa: N818
    """Spent money blocks the call, and the task is to wait for more."""

    def __init__(self, cause: BudgetExhausted, otherwise: Conclusion) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.otherwise = otherwise
        """How it ends when no more tasks may be paused."""
