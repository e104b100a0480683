"""Threads for plain functions: few, apart from the default pool, and never waited for.

A hung function keeps its thread: Python cannot stop it. So the number is bounded, a call that waits
for a thread gives up at its deadline without ever running, and when every thread is past its
deadline new calls are refused at once. The threads are daemons: a hung one does not hold up the
exit of the process, as those of `concurrent.futures` would.
"""

import asyncio
import math
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field

from app.tools.errors import NoFreeThreadError
from app.tools.port import ToolResult

THREAD_LIMIT = 16


def given_up() -> bool:
    """For a plain function that takes long: whether nobody waits for its result any more.

    Its task was cancelled, or its time is over. What it still does has no use; only it can stop itself.
    """
    call = _CALL.get()
    return call is not None and call.given_up


@dataclass(eq=False, slots=True)
class ThreadCall:
    """One call, waiting for a thread or running in one."""

    function: Callable[[], ToolResult]
    deadline_s: float
    """Reading of the caller's monotonic clock at which nobody waits for it any more."""
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[ToolResult]
    context: Context = field(default_factory=copy_context)
    given_up: bool = False

    def execute(self) -> None:
        """In the thread: run, then hand the result to the loop, if there still is one."""
        self.context.run(_CALL.set, self)
        result = self.context.run(self.function)
        with suppress(RuntimeError):  # the loop was closed meanwhile
            self.loop.call_soon_threadsafe(self._settle, result)

    def _settle(self, result: ToolResult) -> None:
        if not self.future.done():
            self.future.set_result(result)


_CALL: ContextVar[ThreadCall | None] = ContextVar("_CALL", default=None)


class ToolThreads:
    """At most `thread_limit` threads, started when needed, kept until `close`. Safe to share."""

    def __init__(self, thread_limit: int = THREAD_LIMIT) -> None:
        if thread_limit < 1:
            message = "thread_limit must be at least 1"
            raise ValueError(message)
        self.thread_limit = thread_limit
        self._ready = threading.Condition()
        self._waiting: deque[ThreadCall] = deque()
        self._running: set[ThreadCall] = set()
        self._thread_count = 0
        self._idle_count = 0
        self._closed = False

    def submit(
        self, function: Callable[[], ToolResult], *, now_s: float, deadline_s: float
    ) -> ThreadCall:
        """Start `function`, which must not raise, or line it up until a thread is free.

        Raises:
            NoFreeThreadError: every thread runs a call past its deadline, or `close` was called;
                the message says which.
        """
        loop = asyncio.get_running_loop()
        call = ThreadCall(function, deadline_s, loop, loop.create_future())
        with self._ready:
            if self._closed:
                message = "the service is stopping"
                raise NoFreeThreadError(message)
            if self._all_stuck(now_s):
                message = f"all {self.thread_limit} threads for tools hang in earlier calls"
                raise NoFreeThreadError(message)
            self._waiting.append(call)
            if len(self._waiting) > self._idle_count and self._thread_count < self.thread_limit:
                self._start_thread()
            else:
                self._ready.notify()
        return call

    def abandon(self, call: ThreadCall, *, overdue: bool) -> bool:
        """Nobody waits for `call` any more; whether it had started. If not, it never will.

        `overdue`: its deadline has passed, as opposed to a caller that lost interest.
        """
        with self._ready:
            call.given_up = True
            if overdue:
                call.deadline_s = -math.inf
            if call in self._waiting:
                self._waiting.remove(call)
                return False
            return True

    def close(self) -> None:
        """Let the threads end when there is nothing left to run; nothing waits for them."""
        with self._ready:
            self._closed = True
            self._ready.notify_all()

    def _all_stuck(self, now_s: float) -> bool:
        return len(self._running) >= self.thread_limit and all(
            call.deadline_s <= now_s for call in self._running
        )

    def _start_thread(self) -> None:
        self._thread_count += 1
        name = f"tool-{self._thread_count}"
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def _work(self) -> None:
        while (call := self._next()) is not None:
            try:
                call.execute()
            finally:
                with self._ready:
                    self._running.discard(call)
            del call  # an idle thread must not keep the last arguments alive

    def _next(self) -> ThreadCall | None:
        with self._ready:
            while not self._waiting:
                if self._closed:
                    self._thread_count -= 1
                    return None
                self._idle_count += 1
                self._ready.wait()
                self._idle_count -= 1
            call = self._waiting.popleft()
            self._running.add(call)
            return call
