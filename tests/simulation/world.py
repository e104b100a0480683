"""One seed's world: clients, a service that dies and comes back, an upstream that bills; then the reckoning."""

import asyncio
import gc
import hashlib
import random
import sqlite3
import tempfile
from collections import Counter
from contextvars import Context
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app import settings
from app.doctor.examination import complaints, examine
from app.domain.ids import ENTROPY
from app.settings import Settings
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from app.store.sqlite_file import DATABASE_NAME
from tests.acceptance.books import read_books
from tests.simulation.clients import client, until_ended
from tests.simulation.loop import Deadlock, Fate, SeededLoop
from tests.simulation.now import WORLD, Nature, VirtualClock, pause
from tests.simulation.process import ConnectionLost, MakeStore, Process
from tests.simulation.reckoning import judge
from tests.simulation.store import SimulatedStore
from tests.simulation.upstream import URL

_END_S = 2 * 3_600
"""Virtual seconds in which everything must end once nothing goes wrong any more."""
_UP_S = 60.0
_SESSION_BUDGETS_USD = (0.006, 0.008, 0.012, 0.5)
"""The small ones pay for one or a few reservations at once: the others have to wait their turn."""
_MEMORY = Path("/dev/shm")  # noqa: S108  (a folder of our own is made in it)


@dataclass(frozen=True)
class Run:
    """What became of one seed."""

    seed: int
    violations: tuple[str, ...]
    reached: Counter[str]
    digest: str
    """Of everything the database and the bill say at the end."""
    steps: int
    virtual_s: float


def simulate(seed: int, make_store: MakeStore = SimulatedStore) -> Run:
    """Live through the seed's world and judge it. The same seed gives the same run, with the same code and Python."""
    state, collecting = random.getstate(), gc.isenabled()
    random.seed(seed)  # jitter of waits
    gc.disable()  # when it would come is no seed's, and what it finalizes takes steps of the loop
    try:
        with tempfile.TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as folder:
            return Context().run(_simulate, seed, Path(folder), make_store)
    finally:
        random.setstate(state)
        if collecting:
            gc.enable()


def _simulate(seed: int, folder: Path, make_store: MakeStore) -> Run:
    loop, nature = SeededLoop(seed), Nature(seed, random.Random(f"{seed}/nature"))  # noqa: S311
    WORLD.set(nature)
    ENTROPY.set(random.Random(f"{seed}/ids").randbytes)  # noqa: S311
    world = _World(nature, folder, make_store)
    with loop.running():
        try:
            loop.run_until_complete(world.live())
        except (Deadlock, AssertionError, ConnectionLost) as error:
            nature.violations.append(f"{type(error).__name__}: {error}")
        nature.violations.extend(f"unhandled: {error!r}" for error in loop.errors)
        virtual_s, steps = loop.time(), loop.steps
        nature.over = True
        loop.abandon(world.fates)
    path = folder / "data" / DATABASE_NAME
    bill = nature.simulator.bill.as_json(with_lines=True)
    if not nature.violations:
        nature.violations.extend(judge(read_books(path, bill), world.accepted, nature.reached))
        nature.violations.extend(complaints(examine(path.parent)))
    found = tuple(dict.fromkeys(nature.violations))
    return Run(seed, found, nature.reached, _digest(path, bill), steps, virtual_s)


def _digest(path: Path, bill: dict[str, Any]) -> str:
    digest = hashlib.sha256(orjson.dumps(bill, option=orjson.OPT_SORT_KEYS))
    connection = sqlite3.connect(path)
    try:
        for table in ("sessions", "tasks", "accounts", "ledger_lines", "events"):
            for row in connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2, 3"):  # noqa: S608
                digest.update(repr(row).encode())
    except sqlite3.Error as error:
        digest.update(repr(error).encode())
    finally:
        connection.close()
    return digest.hexdigest()


class _World:
    """The service's address, and the misfortunes of whatever process is behind it."""

    def __init__(self, nature: Nature, folder: Path, make_store: MakeStore) -> None:
        self._nature = nature
        self._draw = nature.draw
        self._make_store = make_store
        self._settings = self._chosen(folder)
        self._current: Process | None = None
        self._robbed: list[Process] = []
        self.fates: list[Fate] = []
        self.accepted: set[str] = set()

    async def live(self) -> None:
        """From the first start to the last stop."""
        self._nature.simulator = Simulator(VirtualClock(self._nature), seed=self._nature.seed)
        self._strike(self._draw.choice((0.0, 0.5, 1.0)))
        await self._start()
        clients = [
            asyncio.create_task(
                client(self, self._nature, self.accepted, random.Random(f"{self._nature.seed}/{n}"))  # noqa: S311
            )
            for n in range(self._draw.randint(1, 4))
        ]
        for _ in range(self._draw.randint(0, 5)):
            await pause(self._draw.choice((0.003, 0.02, 0.1, 0.5, 2, 6)))
            await self._misfortune()
        await asyncio.gather(*clients)
        await self._converge()

    async def request(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Ask whoever is behind the address now."""
        if self._current is None:
            raise ConnectionLost
        return await self._current.request(method, path, body, key)

    async def _converge(self) -> None:
        """Nothing goes wrong any more: everything must come to its end."""
        self._strike(0.0)
        self._nature.skew_s = 0.0
        for process in [*self._robbed, self._current]:
            if process is not None and not process.gone.is_set():
                process.crash()
                await process.gone.wait()
        await self._start()
        left = await until_ended(self, self.accepted, _END_S)
        if left:
            self._nature.violations.append(f"never ended: {left}")
        assert self._current is not None
        await self._current.stop()

    async def _start(self) -> None:
        """A new process; one that cannot start is a finding."""
        process = Process(self._nature, self._settings, self._make_store)
        self.fates.append(process)
        self._current = process
        coming = asyncio.ensure_future(process.up.wait())
        going = asyncio.ensure_future(process.gone.wait())
        await asyncio.wait((coming, going), timeout=_UP_S, return_when=asyncio.FIRST_COMPLETED)
        coming.cancel()
        going.cancel()
        if process.failure is not None:
            self._nature.violations.append(f"did not start: {process.failure!r}")

    async def _misfortune(self) -> None:
        match self._draw.randint(0, 6):
            case 0:
                await self._crash()
            case 1 | 2:
                await self._crash_in_commit()
            case 3:
                await self._stall()
            case 4:
                await self._rob()
            case 5:
                self._nature.reached["clock jump"] += 1
                self._nature.skew_s += self._draw.choice((-3_600, -60, -1, 0.5, 30, 3_600))
            case _:
                await self._restart()

    async def _crash(self) -> None:
        assert self._current is not None
        self._nature.reached["crash"] += 1
        self._current.crash()
        await self._again()

    async def _crash_in_commit(self) -> None:
        assert self._current is not None
        moment = self._draw.choice(("before", "after"))
        self._current.crash_at_commit(self._draw.randint(1, 12), moment)
        dying = asyncio.ensure_future(self._current.gone.wait())
        await asyncio.wait((dying,), timeout=5)
        dying.cancel()
        self._current.crash()
        await self._again()

    async def _again(self) -> None:
        assert self._current is not None
        await self._current.gone.wait()
        await pause(self._draw.choice((0, 0.5, 5)))
        await self._start()

    async def _stall(self) -> None:
        assert self._current is not None
        self._nature.reached["stall"] += 1
        self._current.freeze()
        await pause(self._draw.choice((0.1, 2, 30)))
        self._current.thaw()

    async def _rob(self) -> None:
        """A stalled process loses its directory to another one, wakes up, and does not know."""
        old = self._current
        assert old is not None
        self._nature.reached["lock lost"] += 1
        self._robbed.append(old)
        old.freeze()
        await pause(self._draw.choice((0, 1, 20)))
        old.lose_lock()
        await self._start()
        await pause(self._draw.choice((0, 0.01, 0.3, 2)))
        old.thaw()
        await pause(self._draw.choice((0.1, 1, 10)))
        old.crash()
        await old.gone.wait()

    async def _restart(self) -> None:
        assert self._current is not None
        self._nature.reached["restart"] += 1
        await self._current.stop()
        await self._start()

    def _strike(self, share: float) -> None:
        """Let the upstream and the network fail, `share` of the worst."""
        faults = [
            {"kind": kind, "probability": probability * share, **more}
            for kind, probability, more in _FAULTS
        ]
        latency = {"kind": "latency", "delay_s": [0, self._draw.choice((0.05, 0.5, 4))]}
        rules = [{**latency, "probability": 1}, *faults]
        load_rules(self._nature.simulator.faults, {"seed": self._nature.seed, "random": rules})
        self._nature.network_fails = 0.05 * share

    def _chosen(self, folder: Path) -> Settings:
        return settings.load(
            _env_file=None,
            data_dir=folder / "data",
            disk_floor_bytes=0,  # how full this machine's disk is must not decide
            anthropic_api_key="simulated",
            anthropic_base_url=URL,
            workers=self._draw.choice((1, 2, 4, 8)),
            grace_s=self._draw.choice((0.0, 0.2, 5.0)),
            call_timeout_s=20,
            park_after_s=self._draw.choice((0.1, 1, 5)),
            session_budget_usd=self._draw.choice(_SESSION_BUDGETS_USD),
            task_budget_usd=0.1,
            service_daily_budget_usd=5,
        )


_FAULTS: tuple[tuple[str, float, dict[str, Any]], ...] = (
    ("rate_limit", 0.05, {"retry_after": 0.2}),
    ("rate_limit", 0.03, {"retry_after": 30}),
    ("overloaded", 0.05, {}),
    ("server_error", 0.04, {}),
    ("html_page", 0.03, {"status": 504, "billed": True}),
    ("cut_before_headers", 0.05, {}),
    ("cut_mid_body", 0.05, {}),
    ("cut_mid_stream", 0.1, {}),
    ("stream_error", 0.05, {}),
    ("truncate_json", 0.03, {}),
    ("timeout", 0.05, {}),
    ("usage_missing", 0.02, {}),
)
