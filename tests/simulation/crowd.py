"""Many tasks at once against an upstream with limits, in virtual time: how often it is asked, how often it refuses."""

import asyncio
import random
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from app import settings
from app.domain.clock import US_PER_S
from app.domain.ids import ENTROPY
from app.domain.money import NANO_PER_USD
from app.llm.anthropic_line import REFERENCE_HEADER
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from app.simulator.limits import Limits
from tests.simulation.loop import SeededLoop
from tests.simulation.now import WORLD, Nature, VirtualClock, pause
from tests.simulation.process import Process
from tests.simulation.store import SimulatedStore
from tests.simulation.upstream import URL
from tests.support.clock import START_US

_ENDED = {"succeeded", "failed", "cancelled"}
_LONGEST_S = 7_200.0
_LOOK_AT_BOOKS_S = 5.0
_FAULTS = {
    "overloaded": {"kind": "overloaded", "probability": 1},
    "lost": {"kind": "cut_before_headers", "probability": 1},
}


@dataclass(frozen=True)
class Wave:
    """So many tasks that come together, `at_s` seconds after the start."""

    count: int
    session_id: str = "s"
    at_s: float = 0.0
    text: str = "Say hello."


@dataclass(frozen=True)
class Books:
    """What the service says of the session `s` at one moment, and what all was billed by then, in nano-dollars."""

    billed_nano: int
    spent_nano: int
    reserved_nano: int
    limit_nano: int

    @property
    def hold(self) -> bool:
        """Nothing is billed that is not accounted for, and no limit is passed."""
        return self.billed_nano <= self.spent_nano + self.reserved_nano <= self.limit_nano


@dataclass(frozen=True)
class Course:
    """What came of them."""

    statuses: Counter[str]
    """How the tasks ended."""
    sent: tuple[tuple[float, int, str], ...]
    """Each request: when it arrived, how it was answered, and for which session. The last thousand."""
    requeued: Counter[str]
    """Why tasks were given back."""
    cost_usd: float = 0.0
    """Of all tasks together, by what was billed and by what the service says."""
    billed_usd: float = 0.0
    books: tuple[Books, ...] = ()
    """Every five seconds."""

    @property
    def refused(self) -> int:
        """Requests that were answered with 429."""
        return sum(status == 429 for _, status, _ in self.sent)

    @property
    def lasted_s(self) -> float:
        """From the first request to the last."""
        return self.sent[-1][0] - self.sent[0][0]

    def most_within(self, window_s: float, after_s: float = 0.0) -> int:
        """Requests in the busiest stretch of `window_s` seconds after that moment."""
        times = [at_s for at_s, _, _ in self.sent if at_s >= after_s]
        return max(sum(t <= at_s < t + window_s for at_s in times) for t in times)


@dataclass(frozen=True)
class _Plan:
    waves: Sequence[Wave]
    down: tuple[float, float]
    fault: dict[str, Any] | None
    look_s: float


def crowd(
    seed: int,
    limits: Limits,
    waves: Sequence[Wave],
    *,
    down: tuple[float, float] = (0, 0),
    answer: Literal["overloaded", "lost"] | None = None,
    look_s: float = 5.0,
    **given: Any,
) -> Course:
    """Let the tasks come and end; every `look_s` seconds somebody looks whether they have.

    In the seconds `down` (from, to) no request finds a connection; or each is answered with 529, if `overloaded`; or
    its answer is `lost` after it has been billed.
    """
    state = random.getstate()
    random.seed(seed)  # jitter of waits
    try:
        with tempfile.TemporaryDirectory() as folder:
            chosen = settings.load(
                _env_file=None,
                data_dir=Path(folder) / "data",
                disk_floor_bytes=0,
                anthropic_api_key="simulated",
                anthropic_base_url=URL,
                **{"session_budget_usd": 100, **given},
            )
            plan = _Plan(waves, down, None if answer is None else _FAULTS[answer], look_s)
            return Context().run(_crowd, seed, limits, plan, chosen)
    finally:
        random.setstate(state)


def _crowd(seed: int, limits: Limits, plan: _Plan, chosen: settings.Settings) -> Course:
    loop, nature = SeededLoop(seed), Nature(seed, random.Random(f"{seed}/nature"))  # noqa: S311
    WORLD.set(nature)
    ENTROPY.set(random.Random(f"{seed}/ids").randbytes)  # noqa: S311
    with loop.running():
        nature.simulator = Simulator(VirtualClock(nature), seed=seed, limits=limits)
        begun = list[Process]()
        try:
            course = loop.run_until_complete(_live(nature, chosen, begun, plan))
        finally:
            nature.over = True
            loop.abandon([*begun])
    assert not nature.violations, nature.violations
    return course


async def _live(
    nature: Nature, chosen: settings.Settings, begun: list[Process], plan: _Plan
) -> Course:
    process = Process(nature, chosen, SimulatedStore)
    begun.append(process)
    await process.up.wait()
    outage = asyncio.create_task(_outage(nature, plan))
    books, looking = list[Books](), asyncio.Event()
    looks = asyncio.create_task(_look(nature, process, books, looking))
    accepted = await asyncio.gather(*(_submitted(process, wave) for wave in plan.waves))
    sessions = dict(pair for pairs in accepted for pair in pairs)
    tasks = await _ended(process, list(sessions), plan.look_s)
    await outage
    looking.set()
    await looks
    requeued = Counter[str]()
    for task_id in sessions:
        _, page = await process.request("GET", f"/tasks/{task_id}/events?limit=1000")
        given_back = [e for e in page["events"] if e["type"] == "task_requeued"]
        requeued.update(e["data"]["reason"] for e in given_back)
    await process.stop()
    return Course(
        Counter(task["status"] for task in tasks),
        _sent(nature, sessions),
        requeued,
        cost_usd=sum(task["cost_usd"] for task in tasks),
        billed_usd=nature.simulator.bill.total.nano / 1e9,
        books=tuple(books),
    )


async def _look(
    nature: Nature, process: Process, books: list[Books], enough: asyncio.Event
) -> None:
    """Take the books down again and again; what was billed first, so that it is the older figure."""
    while not enough.is_set():
        billed_nano = nature.simulator.bill.total.nano
        status, shown = await process.request("GET", "/sessions/s")
        if status == 200:  # nobody is there before the first task
            said = (
                round(shown[f"{name}_usd"] * NANO_PER_USD)
                for name in ("spent", "reserved", "budget")
            )
            books.append(Books(billed_nano, *said))
        await pause(_LOOK_AT_BOOKS_S)


async def _outage(nature: Nature, plan: _Plan) -> None:
    from_s, to_s = plan.down
    if to_s <= from_s:
        return
    await pause(from_s)
    if plan.fault is None:
        nature.network_fails = 1.0
    else:
        load_rules(nature.simulator.faults, {"random": [plan.fault]})
    await pause(to_s - from_s)
    nature.network_fails = 0.0
    load_rules(nature.simulator.faults, {})


async def _submitted(process: Process, wave: Wave) -> list[tuple[str, str]]:
    await pause(wave.at_s)
    found = []
    body = {"task": wave.text, "session_id": wave.session_id, "complexity": "simple"}
    for _ in range(wave.count):
        status, task = await process.request("POST", "/tasks", body)
        if status == 402:  # the session's money is gone: nothing more is taken
            break
        assert status == 202, task
        found.append((task["id"], wave.session_id))
    return found


async def _ended(process: Process, task_ids: list[str], look_s: float) -> list[dict[str, Any]]:
    ended, left = list[dict[str, Any]](), task_ids
    for _ in range(int(_LONGEST_S / look_s)):
        shown = [(await process.request("GET", f"/tasks/{task_id}"))[1] for task_id in left]
        ended += [task for task in shown if task["status"] in _ENDED]
        left = [task["id"] for task in shown if task["status"] not in _ENDED]
        if not left:
            return ended
        await pause(look_s)
    raise AssertionError(f"{len(left)} tasks never ended")


def _sent(nature: Nature, sessions: dict[str, str]) -> tuple[tuple[float, int, str], ...]:
    return tuple(
        (
            (seen.at_us - START_US) / US_PER_S,
            seen.status,
            sessions[seen.headers[REFERENCE_HEADER].partition("/")[0]],
        )
        for seen in nature.simulator.log.seen
    )
