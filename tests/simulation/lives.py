"""The service's address, and the misfortunes of whatever process is behind it."""

import asyncio
import random
import sqlite3
from pathlib import Path
from typing import Any

from app import settings
from app.settings import Settings
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from tests.simulation.clients import client, until_ended
from tests.simulation.loop import Fate
from tests.simulation.now import Nature, VirtualClock, pause
from tests.simulation.process import ConnectionLost, MakeStore, Process
from tests.simulation.upstream import URL

END_S = 900
"""Virtual seconds in which everything must end once nothing goes wrong any more."""
_UP_S = 60.0
_TROUBLES = (("full disk", sqlite3.SQLITE_FULL), ("locked database", sqlite3.SQLITE_BUSY))
_SESSION_BUDGETS_USD = (0.006, 0.008, 0.012, 0.5)
"""The small ones pay for one or a few reservations at once: the others have to wait their turn."""


class World:
    """One process at a time, alone with its database."""

    latencies_s: tuple[float, ...] = (0.05, 0.5, 4)
    """How slow the upstream may be, at its worst."""

    def __init__(self, nature: Nature, folder: Path, make_store: MakeStore) -> None:
        self._nature = nature
        self._draw = nature.draw
        self._disk_draw = random.Random(f"{nature.seed}/disk")  # noqa: S311
        self._make_store = make_store
        self.settings = self._chosen(folder)
        self._current: Process | None = None
        self._robbed: list[Process] = []
        self.fates: list[Fate] = []
        self.accepted: set[str] = set()

    async def live(self) -> None:
        """From the first start to the last stop."""
        self._nature.simulator = Simulator(VirtualClock(self._nature), seed=self._nature.seed)
        self._nature.simulator.batches.delay_s = 5.0
        turn = self._nature.seed % len(_CREATES)
        self._nature.simulator.batches.creates.extend((*_CREATES[turn:], *_CREATES[:turn]))
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
            await self._trouble_the_disk()
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
        left = await until_ended(self, self.accepted, END_S)
        if left:
            self._nature.violations.append(f"never ended: {left}")
        assert self._current is not None
        await self._current.stop()

    async def _start(self) -> None:
        """A new process."""
        process = Process(self._nature, self.settings, self._make_store)
        self._current = process
        await self._come_up(process)

    async def _come_up(self, process: Process) -> None:
        """One that cannot start is a finding."""
        self.fates.append(process)
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
                self._jump()
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

    async def _trouble_the_disk(self) -> None:
        """Now and then nothing can be written for a while. By dice of its own: worlds without it stay as they are."""
        if self._disk_draw.random() < 0.1:
            name, code = self._disk_draw.choice(_TROUBLES)
            self._nature.reached[name] += 1
            self._nature.store_error = code
            await pause(self._disk_draw.choice((0.1, 2, 8, 40)))
            self._nature.store_error = 0
            self._nature.healed_s = asyncio.get_running_loop().time()

    def _jump(self) -> None:
        """Somebody sets all clocks."""
        self._nature.reached["clock jump"] += 1
        self._nature.skew_s += self._draw.choice((-3_600, -60, -1, 0.5, 30, 3_600))

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
        latency = {"kind": "latency", "delay_s": [0, self._draw.choice(self.latencies_s)]}
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
            batch_linger_s=1,
            batch_poll_s=3,
            run_limit=self._draw.choice((1, 2, 3, 5, 5)),
            **(_CHAIN if self._nature.seed % 4 == 0 else {}),
        )


_CHAIN: dict[str, Any] = {
    "fallback_models": ("claude-sonnet-5-5", "claude-opus-5-5"),
    "fallback_after_s": 1,
    "retry_attempts": 1,
}
"""In every fourth world other models go on, soon, where one cannot be had."""
_CREATES = ("made", "lost", "made", "busy", "failed")
"""What becomes of the first batches, from a place on that is the seed's."""
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
