"""A world with several processes on one database: leases are all that keeps them from each other's tasks."""

import asyncio
from pathlib import Path
from typing import Any

from tests.simulation.clients import until_ended
from tests.simulation.hints import Hints
from tests.simulation.lives import END_S, World
from tests.simulation.now import Nature, pause
from tests.simulation.process import ConnectionLost, MakeStore, Process

_SKEWS_S = (0.0, 0.0, 0.0, -1.0, 20.0, -3_600.0, 3_600.0)
"""How wrong the processes' clocks are."""
_LIMIT = 3


class Shared(World):
    """Two or three processes at a time, none of them alone; each stamps with a clock of its own."""

    latencies_s = (0.5, 4, 18)

    def __init__(self, nature: Nature, folder: Path, make_store: MakeStore) -> None:
        super().__init__(nature, folder, make_store)
        nature.hints = Hints(nature)

    async def request(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Ask one of those that live."""
        living = self._living()
        if not living:
            raise ConnectionLost
        return await self._draw.choice(living).request(method, path, body, key)

    def _living(self) -> list[Process]:
        return [fate for fate in self.fates if isinstance(fate, Process) and not fate.gone.is_set()]

    async def _start(self) -> None:
        """As many as are missing."""
        for _ in range(self._draw.randint(2, _LIMIT) - len(self._living())):
            await self._one_more(self._draw.choice(_SKEWS_S))

    async def _one_more(self, skew_s: float) -> None:
        process = Process(self._nature, self.settings, self._make_store, alone=False, skew_s=skew_s)
        await self._come_up(process)

    async def _converge(self) -> None:
        """Nothing goes wrong any more, and one process is left: it has to find what the others held."""
        self._strike(0.0)
        self._nature.skew_s = 0.0
        for process in self._living():
            process.crash()
            await process.gone.wait()
        await self._one_more(0.0)
        left = await until_ended(self, self.accepted, END_S)
        if left:
            self._nature.violations.append(f"never ended: {left}")
        for process in self._living():
            await process.stop()

    async def _misfortune(self) -> None:
        one = self._draw.choice(self._living())
        match self._draw.randint(0, 7):
            case 0:
                self._nature.reached["crash"] += 1
                one.crash()
                await self._gone(one)
            case 1 | 2:
                one.crash_at_commit(
                    self._draw.randint(1, 12), self._draw.choice(("before", "after"))
                )
                dying = asyncio.ensure_future(one.gone.wait())
                await asyncio.wait((dying,), timeout=5)
                dying.cancel()
                one.crash()
                await self._gone(one)
            case 3 | 4 | 5:
                self._nature.reached["stall"] += 1
                one.freeze()
                await pause(self._draw.choice((0.1, 2, 14, 20, 20, 40)))
                one.thaw()
            case 6:
                self._jump()
            case _:
                self._nature.reached["restart"] += 1
                await one.stop()
                await self._start()

    async def _trouble_the_disk(self) -> None:
        """Who cannot write loses a lease that the others would have to be told apart from a wrong loss."""

    async def _gone(self, process: Process) -> None:
        await process.gone.wait()
        await pause(self._draw.choice((0, 0.5, 5, 30)))
        await self._start()
