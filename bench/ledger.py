"""One reserve + settle pair on the real store: 100 tasks at once, each pair two durable transactions.

python -m bench.ledger PAIRS ROUNDS       prints JSON: microseconds of CPU per pair, by scopes
"""

import asyncio
import json
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from app.budget.accounts import open_account
from app.budget.ledger import Attempt, Kind, Meters, reserve, settle
from app.budget.scopes import SERVICE, Scope, session_scope, task_scope
from app.domain.clock import SystemClock
from app.domain.money import NANO_PER_USD
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from bench.noise import Spread
from bench.process import child, line
from bench.upstream import MODEL
from bench.workload import CONCURRENCY

_LIMIT_NANO = 1_000_000 * NANO_PER_USD
_HELD_NANO, _COST_NANO = 1_100_000, 70_000
_METERS = Meters(input_tokens=18, output_tokens=131)
_SESSIONS = 10
SHARED: dict[str, tuple[Scope, ...]] = {
    "task + session": (),
    "task + session + service": (SERVICE,),
}
"""The scopes of a pair, and those among them that all tasks share."""
EMPTY = "two empty transactions"


def _subjects() -> list[Subject]:
    return [
        Subject(f"task_{number:026d}", f"session-{number % _SESSIONS}")
        for number in range(CONCURRENCY)
    ]


def _open(tx: Tx, subjects: list[Subject]) -> None:
    open_account(tx, SERVICE, LOCAL_OWNER, _LIMIT_NANO)
    for subject in subjects:
        open_account(tx, task_scope(subject.task_id), LOCAL_OWNER, _LIMIT_NANO)
        open_account(tx, session_scope(LOCAL_OWNER, subject.session_id), LOCAL_OWNER, _LIMIT_NANO)


async def _pairs(
    store: SqliteStore, subject: Subject, scopes: tuple[Scope, ...], steps: range
) -> None:
    for step in steps:
        attempt = Attempt(subject, step, 1, MODEL, "bench")
        short = await store.write(lambda tx, a=attempt: reserve(tx, a, scopes, _HELD_NANO))
        booked = await store.write(
            lambda tx, a=attempt: settle(tx, a.id, Kind.CONFIRMED, _COST_NANO, _METERS)
        )
        if short is not None or booked is None:
            message = f"{attempt.id} was not booked"
            raise ValueError(message)


async def _empties(store: SqliteStore, steps: range) -> None:
    for _ in steps:
        await store.write(lambda tx: tx.now_us)
        await store.write(lambda tx: tx.now_us)


async def _round(store: SqliteStore, name: str, subjects: list[Subject], steps: range) -> float:
    """CPU microseconds per pair of a round in which every task makes `steps` pairs."""
    used_s = time.process_time()
    await asyncio.gather(*(_work(store, name, subject, steps) for subject in subjects))
    return (time.process_time() - used_s) * 1e6 / (len(steps) * len(subjects))


async def _work(store: SqliteStore, name: str, subject: Subject, steps: range) -> None:
    if name == EMPTY:
        await _empties(store, steps)
        return
    session = session_scope(LOCAL_OWNER, subject.session_id)
    await _pairs(store, subject, (task_scope(subject.task_id), session, *SHARED[name]), steps)


async def _measure(pairs: int, rounds: int) -> dict[str, list[float]]:
    subjects, found = _subjects(), dict[str, list[float]]()
    each, first = pairs // CONCURRENCY, 0
    with TemporaryDirectory(prefix="bursar-bench-") as folder:
        store = SqliteStore(Path(folder), SystemClock())
        await store.write(lambda tx: _open(tx, subjects))
        for number in range(rounds + 1):
            for name in (*SHARED, EMPTY):
                used_us = await _round(store, name, subjects, range(first, first + each))
                first += each
                if number > 0:  # the first round is the warm-up
                    found.setdefault(name, []).append(used_us)
        await store.close()
    return found


async def measure(pairs: int, rounds: int, folder: Path) -> dict[str, Spread]:
    """CPU microseconds per pair in a process of its own, by scopes."""
    async with child("-m", "bench.ledger", str(pairs), str(rounds), folder=folder) as process:
        found: dict[str, list[float]] = json.loads(await line(process))
    return {name: Spread.of(values) for name, values in found.items()}


if __name__ == "__main__":
    result = asyncio.run(_measure(int(sys.argv[1]), int(sys.argv[2])))
    sys.stdout.write(json.dumps(result) + "\n")
