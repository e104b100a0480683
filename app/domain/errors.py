"""Every error the service raises on purpose.

BursarError
  + Unauthorized          no API key, where one is needed, or one that opens nothing
  + NotFound              no such task or session for this owner
  + TaskFinished          asked to change a task that has ended
  + TaskUnfinished        asked for what only a task that has ended allows
  + TaskNotFailed         asked to retry a task that has not failed
  + QueueFull             the queue's bound is reached
  + Stopping              the service takes no new work
  + SubmissionRefused     a submission that can never run (unknown model, unknown tool, …)
  + KeyReused             an idempotency key that stands for another request
  + BudgetExhausted       spent money leaves less than a minimal call
  + StaleLease            a write by a run that no longer holds its task
  + LeaseLost             a claim by a worker whose lease is gone or has expired
  + StoreError
      + StoreUnavailable  locked, unreachable or failing; may pass
          + StoreClosed   closed by ourselves: the process is ending
          + StoreSilent   no answer in time: what was asked may be kept, or not
      + StoreFull         no space left
      + StoreCorrupt      the file is not a healthy Bursar database
      + StoreInUse        another process holds the data directory
      + StoreTooNew       the schema is newer than this version of the program
"""


class BursarError(Exception):
    """Base of every error raised on purpose."""


class Unauthorized(BursarError):  # noqa: N818
    """No API key, where one is needed; or one that is unknown or revoked."""


class NotFound(BursarError):  # noqa: N818
    """No such task or session for this owner."""

    def __init__(self, what: str, identifier: str) -> None:
        super().__init__(f"There is no {what} {identifier!r}.")
        self.what = what


class TaskFinished(BursarError):  # noqa: N818
    """Asked to change a task that has ended."""

    def __init__(self, task_id: str, status: str, outcome: str) -> None:
        super().__init__(f"Task {task_id} has already ended: {status} ({outcome}).")
        self.task_id = task_id
        self.status = status
        self.outcome = outcome


class TaskUnfinished(BursarError):  # noqa: N818
    """Asked for what only a task that has ended allows."""

    def __init__(self, task_id: str, status: str) -> None:
        super().__init__(f"Task {task_id} has not ended: it is {status}. Cancel it first.")
        self.task_id = task_id
        self.status = status


class TaskNotFailed(BursarError):  # noqa: N818
    """Asked to retry a task that has not failed, or of which nothing is left."""

    def __init__(
        self, task_id: str, status: str, outcome: str | None, *, erased: bool = False
    ) -> None:
        how = "its content was erased" if erased else f"it is {status}"
        super().__init__(f"Only a failed task can be retried; of task {task_id}: {how}.")
        self.task_id = task_id
        self.status = status
        self.outcome = outcome
        self.erased = erased


class QueueFull(BursarError):  # noqa: N818
    """The queue's bound is reached."""

    def __init__(self, limit: int) -> None:
        super().__init__(f"The queue is full: {limit} tasks are waiting.")
        self.limit = limit


class Stopping(BursarError):  # noqa: N818
    """The service is stopping and takes no new work."""

    def __init__(self) -> None:
        super().__init__("The service is stopping and takes no new work.")


class SubmissionRefused(BursarError):  # noqa: N818
    """A submission that can never run. `field` names what to mend, `kind` the problem's type."""

    def __init__(self, field: str, message: str, kind: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.kind = kind or f"unknown-{field}"


class KeyReused(BursarError):  # noqa: N818
    """An idempotency key that stands for another request."""

    def __init__(self, key: str) -> None:
        super().__init__(f"The Idempotency-Key {key!r} was sent before, with another request.")
        self.key = key


class BudgetExhausted(BursarError):  # noqa: N818
    """Spent money on `scope` leaves less than the `needed_nano` of a minimal call."""

    def __init__(
        self,
        *,
        scope: str,
        scope_id: str,
        limit_nano: int,
        spent_nano: int,
        reserved_nano: int,
        needed_nano: int,
        resets_at_us: int | None = None,
        shown_id: str | None = None,
    ) -> None:
        what = scope.replace("_", "'s ")
        super().__init__(f"The budget of this {what} cannot pay for another model call.")
        self.scope = scope
        self.scope_id = scope_id
        self.shown_id = shown_id or scope_id
        """The scope's id as the API knows it."""
        self.limit_nano = limit_nano
        self.spent_nano = spent_nano
        self.reserved_nano = reserved_nano
        self.needed_nano = needed_nano
        self.resets_at_us = resets_at_us
        """When its window ends; None for a budget without windows."""


class StaleLease(BursarError):  # noqa: N818
    """A write by a run that no longer holds its task: refused, and the run must stop."""


class LeaseLost(BursarError):  # noqa: N818
    """A claim by a worker whose lease is gone or has expired: it must renew it, or take a new one."""


class StoreError(BursarError):
    """The store could not do what was asked."""


class StoreUnavailable(StoreError):  # noqa: N818
    """Locked, unreachable or failing; may pass."""


class StoreClosed(StoreUnavailable):
    """Closed by ourselves: the process is ending, and nothing will be written any more."""


class StoreSilent(StoreUnavailable):
    """No answer in time: what was asked may be kept, or not."""


class StoreFull(StoreError):  # noqa: N818
    """No space left for the store."""


class StoreCorrupt(StoreError):  # noqa: N818
    """The file is not a healthy Bursar database."""


class StoreInUse(StoreError):  # noqa: N818
    """Another process holds the data directory."""


class StoreTooNew(StoreError):  # noqa: N818
    """The schema is newer than this version of the program."""
