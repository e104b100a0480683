"""Committed events go three ways from here: to the views (log, metrics), and to whoever follows a task."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

from app.domain.task import Subject
from app.journal.events import TaskFinished
from app.journal.journal import PAGE_LIMIT, Recorded, read
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
        self, store: Store, subject: Subject, *, after: int = 0
    ) -> AsyncIterator[list[Recorded]]:
        """Pages of entries after number `after`, as they come, until the task has ended or `stop`."""
        woken = asyncio.Event()
        followers = self._followers.setdefault(subject.task_id, set())
        followers.add(woken)
        try:
            while not self._stopping:
                woken.clear()
                page = await read(store, subject, after=after)
                if page:
                    after = page[-1].seq
                    yield page
                    if isinstance(page[-1].event, TaskFinished):
                        return
                if len(page) < PAGE_LIMIT:
                    await woken.wait()
        finally:
            followers.discard(woken)
            if not followers:
                self._followers.pop(subject.task_id, None)

    async def wait_for_change(self, task_id: str, *, timeout_s: float) -> None:
        """Return at the task's next event, at `stop`, or after `timeout_s`."""
        woken = asyncio.Event()
        followers = self._followers.setdefault(task_id, set())
        followers.add(woken)
        try:
            if not self._stopping:
                with suppress(TimeoutError):
                    await asyncio.wait_for(woken.wait(), timeout_s)
        finally:
            followers.discard(woken)
            if not followers:
                self._followers.pop(task_id, None)
