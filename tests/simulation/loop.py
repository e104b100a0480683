"""An event loop with virtual time whose every choice is drawn from a seed.

Nothing waits: when no callback is ready, the clock jumps to the next timer. Which of the ready callbacks
runs next is drawn, and so is how long work on an executor takes. A callback belongs to the `Process` in
whose context it was made: those of a dead process never run, those of a frozen one wait until it thaws.
"""

import asyncio
import heapq
import math
import threading
from asyncio import base_events
from collections.abc import Callable, Generator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from enum import Enum
from random import Random
from typing import Any

_EXECUTOR_DELAYS_S = (0.0, 0.0, 0.0005, 0.002, 0.01)
_STALL_CHANCE = 0.005
_STALL_S = 2.0
_DRAIN_STEPS = 200_000
STEP_LIMIT = 3_000_000
"""A run that takes more goes round in circles."""


class State(Enum):
    """What becomes of a process's callbacks."""

    ALIVE = "they run"
    FROZEN = "they wait"
    DEAD = "they never run again"


class Fate:
    """The part of a process that the loop knows."""

    def __init__(self) -> None:
        self._state = State.ALIVE
        self._since: list[tuple[float, State]] = [(_now_s(), State.ALIVE)]
        self.parked: list[asyncio.Handle] = []

    @property
    def state(self) -> State:
        """How it stands."""
        return self._state

    @state.setter
    def state(self, state: State) -> None:
        if self._state is not State.DEAD:  # what is thawed after that is only cleared away
            self._since.append((_now_s(), state))
        self._state = state

    @property
    def undisturbed(self) -> bool:
        """It lives, and always did."""
        return len(self._since) == 1

    def lived_s(self, since_s: float, until_s: float = math.inf) -> float:
        """For how long it was alive after that moment, and before the other."""
        ends = [at_s for at_s, _ in self._since[1:]] + [math.inf]
        return sum(
            max(min(end_s, until_s) - max(at_s, since_s), 0.0)
            for (at_s, state), end_s in zip(self._since, ends, strict=True)
            if state is State.ALIVE
        )


PROCESS: ContextVar[Fate | None] = ContextVar("PROCESS", default=None)


class Deadlock(Exception):  # noqa: N818  (a finding, not an error of the harness)
    """Something is awaited that nothing will ever bring, or that never comes to an end."""


class SeededLoop(base_events.BaseEventLoop):
    """Runs in one thread, touches no socket and no real clock."""

    _ready: Any
    _scheduled: list[asyncio.TimerHandle]
    _stopping: bool

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._draw = Random(f"{seed}/loop")  # noqa: S311  (repeatable, not secret)
        self._virtual_s = 0.0
        self._tasks: list[asyncio.Task[Any]] = []
        self._home = threading.get_ident()
        self.steps = 0
        self.errors: list[BaseException] = []
        """What nobody awaited and no handler took."""
        self.set_exception_handler(self._note)

    def time(self) -> float:
        return self._virtual_s

    def thaw(self, fate: Fate) -> None:
        """Let a frozen process go on: what was due meanwhile is due now."""
        fate.state = State.ALIVE
        self._ready.extend(fate.parked)
        fate.parked.clear()

    def create_task(self, coro: Any, **given: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = super().create_task(coro, **given)
        # A dead process's tasks must not be collected in mid-run: closing them would run their handlers.
        self._tasks.append(task)
        if len(self._tasks) > 4_096:
            self._tasks = [kept for kept in self._tasks if not kept.done()]
        return task

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Run `func` in one step, some time from now; its result comes some time after that."""
        future: asyncio.Future[Any] = self.create_future()

        def work() -> None:
            try:
                outcome, error = func(*args), None
            except BaseException as raised:  # noqa: BLE001  (it belongs to whoever awaits)
                outcome, error = None, raised
            self.call_later(self._delay_s(), settle, outcome, error)

        def settle(outcome: object, error: BaseException | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(outcome)
            else:
                future.set_exception(error)

        self.call_later(self._delay_s(), work)
        return future

    def abandon(self, fates: list[Fate]) -> None:
        """End every task that is left, once the run is judged: their cleaning up meets closed doors."""
        self.steps = 0
        for fate in fates:
            self.thaw(fate)
        self.set_exception_handler(lambda _loop, _context: None)
        steps = 0
        while (left := [task for task in self._tasks if not task.done()]) and steps < _DRAIN_STEPS:
            for task in left:
                task.cancel()
            steps += 1_000
            self.run_until_complete(_some_steps(100))
        for task in self._tasks:
            if task.done() and not task.cancelled():
                task.exception()
        self.run_until_complete(self.shutdown_asyncgens())
        self.close()

    @contextmanager
    def running(self) -> Generator[None]:
        """Make this the thread's loop for as long as the block lasts."""
        asyncio.set_event_loop(self)
        try:
            yield
        finally:
            asyncio.set_event_loop(None)

    def _delay_s(self) -> float:
        if self._draw.random() < _STALL_CHANCE:
            return self._draw.uniform(0, _STALL_S)
        return self._draw.choice(_EXECUTOR_DELAYS_S)

    def _note(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if isinstance(error, BaseException):
            self.errors.append(error)

    def _run_once(self) -> None:
        self._take_due()
        if not self._ready:
            if not self._scheduled:
                raise Deadlock("nothing is left to run")
            self._virtual_s = max(self._virtual_s, self._scheduled[0].when())
            self._take_due()
        index = self._draw.randrange(len(self._ready)) if len(self._ready) > 1 else 0
        handle = self._ready[index]
        del self._ready[index]
        self.steps += 1
        if self.steps > STEP_LIMIT:
            raise Deadlock(f"still busy after {STEP_LIMIT:,} steps")
        fate = _owner(handle)
        if handle.cancelled():
            return
        if fate is not None and fate.state is not State.ALIVE:
            fate.parked.append(handle)
        else:
            handle._run()

    def _take_due(self) -> None:
        while self._scheduled and (
            self._scheduled[0].cancelled() or self._scheduled[0].when() <= self._virtual_s
        ):
            handle = heapq.heappop(self._scheduled)
            handle._scheduled = False  # type: ignore[attr-defined]
            if not handle.cancelled():
                self._ready.append(handle)

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are dropped when they come up."""

    def _process_events(self, event_list: object) -> None:
        raise NotImplementedError

    def _write_to_self(self) -> None:
        if threading.get_ident() != self._home:
            raise RuntimeError("another thread spoke to the seeded loop: its timing is no seed's")


def _owner(handle: asyncio.Handle) -> Fate | None:
    context: Context = handle._context  # type: ignore[attr-defined]
    return context.get(PROCESS)


def _now_s() -> float:
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:  # before the world begins, or after its end
        return 0.0


async def _some_steps(count: int) -> None:
    loop = asyncio.get_running_loop()
    for _ in range(count):
        step = loop.create_future()
        loop.call_soon(_settled(step))
        await step


def _settled(future: asyncio.Future[None]) -> Callable[[], None]:
    return lambda: None if future.done() else future.set_result(None)
