"""One reserve + settle pair on the real store: 100 tasks at once, each pair two durable transactions.

python -m bench.ledger PAIRS ROUNDS       prints JSON: microseconds of CPU per pair, by scopes

A pair is what a call does with its budgets: look at all of them, hold on each, later book on each.
"""

import asyncio
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from app.budget.accounts import ServiceLimits, balances, open_account
from app.budget.keys import create_key
from app.budget.ledger import Attempt, Kind, Meters, Settled, reserve, settle
from app.budget.scopes import Payer, session_scope, task_scope
from app.domain.clock import SystemClock
from app.domain.money import NANO_PER_USD
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import Operation, Tx
from app.store.sqlite import SqliteStore
from bench.noise import Spread
from bench.process import child, line
from bench.workload import CONCURRENCY, MODEL

_LIMIT_NANO = 1_000_000 * NANO_PER_USD
_HELD_NANO, _COST_NANO = 1_100_000, 70_000
_METERS = Meters(input_tokens=18, output_tokens=131)
_SESSIONS = 10
TASK_AND_SESSION = "task + session"
ALL_SIX = "all six scopes"
"""Task, session, key day, key month, service day, service month."""
EMPTY = "two empty transactions"
_SCOPE_COUNTS = {TASK_AND_SESSION: 2, ALL_SIX: 6}


@dataclass(frozen=True, slots=True)
class _Budgets:
    """What all tasks share: a key's windows and the service's, or nothing."""

    key_id: str | None = None
    service: ServiceLimits = field(default_factory=ServiceLimits)


def _subjects() -> list[Subject]:
    return [
        Subject(f"task_{number:026d}", f"session-{number % _SESSIONS}")
        for number in range(CONCURRENCY)
    ]


def _open(tx: Tx, subjects: list[Subject]) -> dict[str, _Budgets]:
    """Make the accounts; returns the budgets of each kind of pair."""
    for subject in subjects:
        open_account(tx, task_scope(subject.task_id), LOCAL_OWNER, _LIMIT_NANO)
        open_account(tx, session_scope(LOCAL_OWNER, subject.session_id), LOCAL_OWNER, _LIMIT_NANO)
    key_id, _ = create_key(
        tx, LOCAL_OWNER, "bench", day_limit_nano=_LIMIT_NANO, month_limit_nano=_LIMIT_NANO
    )
    service = ServiceLimits(day_nano=_LIMIT_NANO, month_nano=_LIMIT_NANO)
    return {TASK_AND_SESSION: _Budgets(), ALL_SIX: _Budgets(key_id, service)}


def _reserving(attempt: Attempt, payer: Payer, budgets: _Budgets) -> Operation[int]:
    """Hold on every budget of the payer; returns on how many."""

    def op(tx: Tx) -> int:
        stands = balances(tx, payer, budgets.service)
        short = reserve(tx, attempt, [one.scope for one in stands], _HELD_NANO)
        if short is not None:
            message = f"{attempt.id} does not fit {short}"
            raise ValueError(message)
        return len(stands)

    return op


def _settling(attempt_id: str) -> Operation[Settled | None]:
    return lambda tx: settle(tx, attempt_id, Kind.CONFIRMED, _COST_NANO, _METERS)


async def _pairs(
    store: SqliteStore, name: str, subject: Subject, budgets: _Budgets, steps: range
) -> None:
    payer = Payer(subject.task_id, subject.session_id, LOCAL_OWNER, (), budgets.key_id)
    for step in steps:
        attempt = Attempt(subject, step, 1, MODEL, "bench", budgets.key_id or "")
        held = await store.write(_reserving(attempt, payer, budgets))
        booked = await store.write(_settling(attempt.id))
        if held != _SCOPE_COUNTS[name] or booked is None:
            message = f"{attempt.id} was held on {held} scopes and booked as {booked}"
            raise ValueError(message)


async def _empties(store: SqliteStore, steps: range) -> None:
    for _ in steps:
        await store.write(lambda tx: tx.now_us)
        await store.write(lambda tx: tx.now_us)


async def _round(
    store: SqliteStore,
    name: str,
    subjects: list[Subject],
    shared: dict[str, _Budgets],
    steps: range,
) -> float:
    """CPU microseconds per pair of a round in which every task makes `steps` pairs."""
    used_s = time.process_time()
    if name == EMPTY:
        await asyncio.gather(*(_empties(store, steps) for _ in subjects))
    else:
        await asyncio.gather(
            *(_pairs(store, name, subject, shared[name], steps) for subject in subjects)
        )
    return (time.process_time() - used_s) * 1e6 / (len(steps) * len(subjects))


async def _measure(pairs: int, rounds: int) -> dict[str, list[float]]:
    subjects, found = _subjects(), dict[str, list[float]]()
    each, first = pairs // CONCURRENCY, 0
    with TemporaryDirectory(prefix="bursar-bench-") as folder:
        store = SqliteStore(Path(folder), SystemClock())
        shared = await store.write(lambda tx: _open(tx, subjects))
        for number in range(rounds + 1):
            for name in (*shared, EMPTY):
                steps = range(first, first + each)
                used_us = await _round(store, name, subjects, shared, steps)
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
