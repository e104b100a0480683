"""The queue's port. Workers see claimed tasks and never know which adapter brought them."""

from contextlib import AbstractContextManager
from typing import Protocol

from app.domain.task import Claim
from app.journal.journal import Recorded


class Queue(Protocol):
    """Tasks waiting, and the way to a worker's hand."""

    def place(self) -> AbstractContextManager[None]:
        """Hold a place while a task is being accepted.

        Raises:
            QueueFull: the queue's bound is reached.
            Stopping: the service takes no new work.
            StoreFull: the disk is nearly full; what is left is for what has begun.
        """
        ...

    @property
    def may_pause(self) -> bool:
        """Whether one more task may be paused; they are bounded, too."""
        ...

    def on_event(self, entry: Recorded) -> None:
        """Hear of what this process commits; it is a view of the feed."""
        ...

    def wake(self, task_id: str | None = None) -> None:
        """Something may be claimable now; this task, if one is named."""
        ...

    async def next(self) -> Claim | None:
        """The next claimed task, for a worker that is free; None when the queue is stopping."""
        ...

    def ended(self, claim: Claim) -> None:
        """This run is over, however it ended: what it took of the queue is free."""
        ...

    async def start(self) -> None:
        """Begin to hand out tasks."""
        ...

    async def stop(self) -> None:
        """Hand out nothing more; free workers get None."""
        ...

    async def close(self) -> None:
        """Let go of everything; call it once the runs have ended, too."""
        ...
