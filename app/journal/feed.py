"""Committed events go three ways from here: to the views (log, metrics), and to whoever follows a task."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from app.domain.task import Subject
from app.journal.events import TaskFinished
from app.journal.journal import Recorded, read
from app.store.port import Store

View = Callable[[Recorded], None]
_log = logging.getLogger(__name__)


class Feed:
    """Give `publish` to the store as its commit listener."""

    def __init__(self, *views: View) -> None:
        self._views = list(views)
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._stopping = False

    def add_view(self, view: View) -> None:
        """Show every committed event to `view`, in commit order. Views must be quick."""
        self._views.append(view)

    def publish(self, facts: list[Recorded]) -> None:
        """Show one commit's entries to the views and wake the followers of their subjects."""
        for entry in facts:
            for view in self._views:
                try:
                    view(entry)
                except Exception:  # noqa: BLE001  (a view is not worth a task: say so and go on)
                    _log.exception("view_failed")
            for follower in self._followers.get(entry.subject.task_id, ()):
                follower.set()

    def stop(self) -> None:
        """End every `follow`: the service is stopping and must not wait for its watchers."""
        self._stopping = True
        for followers in self._followers.values():
            for follower in followers:
                follower.set()

    async def follow(
        self, store: Store, subject: Subject, *, after: int = 0, idle_s: float = 15.0
    ) -> AsyncIterator[list[Recorded]]:
        """Pages of entries after number `after`, as they come, until the task has ended or `stop`.

        An empty page says that nothing happened for `idle_s` seconds.
        """
        with self.watch(subject.task_id) as woken:
            while not self._stopping:
                woken.clear()
                page = await read(store, subject, after=after)
                if page:
                    after = page[-1].seq
                    yield page
                    if isinstance(page[-1].event, TaskFinished):
                        return
                    continue
                if not await self.woken(woken, idle_s):
                    yield []

    async def woken(self, woken: asyncio.Event, timeout_s: float) -> bool:
        """Wait for the event of `watch`; False when `timeout_s` passed first."""
        try:
            await asyncio.wait_for(woken.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    @contextmanager
    def watch(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set when something happens to the task (or the service stops)."""
        woken = asyncio.Event()
        followers = self._followers.setdefault(task_id, set())
        followers.add(woken)
        try:
            yield woken
        finally:
            followers.discard(woken)
            if not followers:
                self._followers.pop(task_id, None)
