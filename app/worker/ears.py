"""What brings the other processes' hints, and what attends to them."""

from collections.abc import Callable
from typing import Protocol

from app.budget.turns import Turns
from app.domain.clock import Clock
from app.journal.feed import Feed
from app.journal.hints import UpstreamHint, hint_texts
from app.journal.journal import Recorded
from app.llm.governor.governor import Governor
from app.store.port import Store
from app.worker.gossip import Gossip
from app.worker.hearing import Hearing
from app.worker.pool import WorkerPool


class Listening(Protocol):
    """Brings what others say."""

    def start(self) -> None:
        """Listen from now on."""
        ...

    async def stop(self) -> None:
        """Listen no more."""
        ...


Listen = Callable[[Callable[[str | None], None]], Listening]
"""Makes what gives each text to the given function, and None when some may have been missed."""


class Ears:
    """One process's; `me` is the name under which its own hints go out. Not open yet."""

    def __init__(
        self,
        me: str,
        listen: Listen,
        *,
        store: Store,
        feed: Feed,
        pool: WorkerPool,
        turns: Turns,
        governor: Governor,
        clock: Clock,
        poll_s: float,
    ) -> None:
        self._gossip = Gossip(store, governor, clock)
        self._hearing = Hearing(
            me, feed, pool, turns, clock, poll_s=poll_s, on_upstream=self._gossip.hear
        )
        self._listening = listen(self._hearing.heard)

    def start(self) -> None:
        """Listen from now on."""
        self._hearing.start()
        self._listening.start()

    async def stop(self) -> None:
        """Listen no more."""
        await self._listening.stop()
        await self._hearing.stop()
        await self._gossip.stop()


def announced(origin: str, facts: list[object]) -> list[str]:
    """What others are told of a commit of `origin` that these facts are about."""
    tasks = (entry.subject.task_id for entry in facts if isinstance(entry, Recorded))
    return hint_texts(origin, tasks, (met for met in facts if isinstance(met, UpstreamHint)))
