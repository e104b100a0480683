"""Committed events go two ways from here: to the views (log, metrics), and to whoever follows a task.

What other processes commit comes as hints (see `app.journal.hints`): followers look at the journal again.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from app.domain.task import Subject
from app.journal.events import TaskErased, TaskFinished, TaskRetried
from app.journal.hints import Hint
from app.journal.journal import PAGE_LIMIT, Recorded, read
from app.store.port import Store

View = Callable[[Recorded], None]
_log = logging.getLogger(__name__)


class Feed:
    """Give `publish` to the store as its commit listener."""

    def __init__(
        self, *views: View, together: Callable[[], AbstractContextManager[None]] = nullcontext
    ) -> None:
        """`together` surrounds what the views do with one commit."""
        self._views = list(views)
        self._together = together
        self._followers: dict[str, set[asyncio.Event]] = {}
        self._reads: dict[str, dict[int, asyncio.Task[list[Recorded]]]] = {}
        """Reads under way, by task and position: those who ask for the same share one."""
        self._stopping = False

    def add_view(self, view: View) -> None:
        """Show every committed event to `view`, in commit order. Views must be quick."""
        self._views.append(view)

    def publish(self, facts: list[Any]) -> None:
        """Show one commit's entries to the views and wake the followers of their subjects."""
        with self._together():
            self._show(facts)

    def _show(self, facts: list[Any]) -> None:
        for entry in facts:
            if not isinstance(entry, Recorded):  # for other processes only
                continue
            for view in self._views:
                try:
                    view(entry)
                except Exception:  # noqa: BLE001  (a view is not worth a task: say so and go on)
                    _log.exception("view_failed")
            self._wake(entry.subject.task_id)

    def hear(self, hint: Hint) -> None:
        """Wake the followers of what another process may have committed."""
        for task_id in list(self._followers) if hint.task_ids is None else hint.task_ids:
            self._wake(task_id)

    def stop(self) -> None:
        """End every `follow`: the service is stopping and must not wait for its watchers."""
        self._stopping = True
        for task_id in list(self._followers):
            self._wake(task_id)

    async def follow(
        self,
        store: Store,
        subject: Subject,
        *,
        after: int = 0,
        idle_s: float = 15.0,
        ended: bool = False,
    ) -> AsyncIterator[list[Recorded]]:
        """Pages of entries after number `after`, as they come, until `stop`, or the end of the task.

        A task that failed may have been retried: the end is the one after which nothing comes.

        An empty page says that nothing happened for `idle_s` seconds.
        """
        with self.watch(subject.task_id) as woken:
            idle_at_s = _now_s() + idle_s
            while not self._stopping:
                woken.clear()
                page = await self._page(store, subject, after)
                if page:
                    after = page[-1].seq
                    yield page
                    ended = _has_ended(page, ended=ended)
                    if ended and len(page) < PAGE_LIMIT:  # else a retry may follow it
                        return
                elif ended:
                    return
                elif await self.woken(woken, max(idle_at_s - _now_s(), 0)):
                    continue
                else:
                    yield []
                idle_at_s = _now_s() + idle_s

    async def _page(self, store: Store, subject: Subject, after: int) -> list[Recorded]:
        """The next entries. Whoever waits at the same place shares the read, unless something came since it began."""
        task_id = subject.task_id
        reading = self._reads.get(task_id, {}).get(after)
        if reading is None:
            reading = asyncio.create_task(read(store, subject, after=after), name="feed-read")
            self._reads.setdefault(task_id, {})[after] = reading
            reading.add_done_callback(lambda done: self._forget(task_id, after, done))
        return await asyncio.shield(reading)

    def _forget(self, task_id: str, after: int, reading: "asyncio.Task[list[Recorded]]") -> None:
        if not reading.cancelled():
            reading.exception()  # who asked has it; all of them may have gone away
        reads = self._reads.get(task_id, {})
        if reads.get(after) is reading:
            del reads[after]
            if not reads:
                del self._reads[task_id]

    def _wake(self, task_id: str) -> None:
        self._reads.pop(task_id, None)  # what is being read may lack what has just come
        for follower in self._followers.get(task_id, ()):
            follower.set()

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


def _has_ended(page: list[Recorded], *, ended: bool) -> bool:
    """Whether the task has, after these: only a retry follows its end; a budget may be set later, too."""
    for entry in page:
        match entry.event:
            case TaskFinished() | TaskErased():
                ended = True
            case TaskRetried():
                ended = False
            case _:
                pass
    return ended


def _now_s() -> float:
    return asyncio.get_running_loop().time()
