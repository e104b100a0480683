"""One seed's world: clients, a service that dies and comes back, an upstream that bills; then the reckoning."""

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

from app.doctor.examination import complaints, examine
from app.domain.ids import ENTROPY
from app.store.sqlite_file import DATABASE_NAME
from tests.acceptance.books import read_books
from tests.simulation.lives import World
from tests.simulation.loop import Deadlock, SeededLoop
from tests.simulation.now import WORLD, Nature
from tests.simulation.process import ConnectionLost, MakeStore
from tests.simulation.reckoning import judge
from tests.simulation.shared import Shared
from tests.simulation.store import SimulatedStore
from tests.simulation.upstream import adapter

_SHARED = 0.4
"""How many of the worlds have several processes on one database."""
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
    adapter()
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
    kind = Shared if nature.draw.random() < _SHARED else World
    world = kind(nature, folder, make_store)
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
        nature.violations.extend(
            judge(read_books(path, bill), world.accepted, nature, world.settings.run_limit)
        )
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
