"""What the store's work for one task costs: enqueue, claim, reserve + settle, finish; in this process and in the database.

    python -m bench.verbs [--tasks 5000]

The verbs are the service's own, on both databases in turn, 100 of them waiting at a time as in a busy service.
CPU in the database is that of the server's processes for this store's connections.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from app.budget.ledger import Attempt, Kind, Meters, reserve, settle
from app.budget.scopes import session_scope, task_scope
from app.domain.clock import US_PER_S, SystemClock
from app.domain.ids import new_id
from app.domain.task import Claim, Conclusion, Outcome
from app.queue import verbs
from app.store.port import Store, Tx
from bench.sides import SERVER_OPTIONS, Embedded, Place, Shared
from bench.workload import CONCURRENCY, MODEL
from tests.support.postgres import server
from tests.support.seeding import accept, spec

T = TypeVar("T")
WORKER = "worker_bench"
SESSIONS = 50
_CLOCK = SystemClock()
_HELD_NANO, _COST_NANO = 1_100_000, 70_000
_METERS = Meters(input_tokens=18, output_tokens=131)
_ENDED = Conclusion(Outcome.ANSWERED, "An answer of the usual length. " * 20)


async def begin(store: Store) -> None:
    """Be a worker, for long."""
    await store.write(
        lambda tx: tx.run(
            "add_worker",
            id=WORKER,
            slots=CONCURRENCY,
            now_us=tx.now_us,
            expires_at_us=tx.now_us + 86_400 * US_PER_S,
        )
    )


async def enqueue(store: Store, number: int) -> None:
    """What POST /tasks writes."""
    task_id, session_id = new_id("task", _CLOCK.now_us()), f"bench-{number % SESSIONS}"
    await store.write(
        lambda tx: accept(tx, task_id, spec(), session_id=session_id, session_nano=10**15)
    )


async def claim(store: Store, limit: int) -> list[Claim]:
    """Take up to so many."""
    return await store.write(lambda tx: verbs.claim(tx, WORKER, limit))


async def call(store: Store, claimed: Claim) -> None:
    """What one model call writes in the ledger: two transactions."""
    subject = claimed.subject
    attempt = Attempt(subject, 1, 1, MODEL, "bench")
    scopes = (task_scope(subject.task_id), session_scope(subject.owner, subject.session_id))
    await store.write(lambda tx: reserve(tx, attempt, scopes, _HELD_NANO))
    await store.write(lambda tx: settle(tx, attempt.id, Kind.CONFIRMED, _COST_NANO, _METERS))


async def finish(store: Store, claimed: Claim) -> None:
    """End it."""

    def op(tx: Tx) -> None:
        verbs.finish(tx, claimed.subject, _ENDED)

    await store.write(op)


async def costs(store: Store, place: Place, count: int) -> dict[str, tuple[float, float]]:
    """CPU microseconds a task, of this process and of the database, by verb."""
    claims: list[Claim] = []

    async def claim_all() -> None:
        while found := await claim(store, CONCURRENCY):
            claims.extend(found)

    found: dict[str, tuple[float, float]] = {}

    async def measure(name: str, work: Callable[[], Awaitable[None]]) -> None:
        database_s, own_s = place.database_cpu_s(), time.process_time()
        await work()
        own_s = time.process_time() - own_s
        database_s = place.database_cpu_s() - database_s
        found[name] = own_s / count * 1e6, database_s / count * 1e6

    await measure("enqueue", lambda: _at_once(lambda n: enqueue(store, n), range(count)))
    await measure("claim", claim_all)
    await measure("reserve + settle", lambda: _at_once(lambda c: call(store, c), claims))
    await measure("finish", lambda: _at_once(lambda c: finish(store, c), claims))
    if len(claims) != count:
        message = f"{len(claims)} of {count} tasks were claimed"
        raise ValueError(message)
    return found


async def _at_once(work: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    waiting = iter(items)

    async def one_after_the_other() -> None:
        for item in waiting:
            await work(item)

    await asyncio.gather(*(one_after_the_other() for _ in range(CONCURRENCY)))


@contextmanager
def _places(folder: Path) -> Iterator[dict[str, Place]]:
    with server(options=SERVER_OPTIONS) as running:
        url = running.create()
        yield {"SQLite": Embedded(folder), "PostgreSQL": Shared(running, url)}


async def _measure(count: int, rounds: int) -> None:
    with TemporaryDirectory(prefix="bursar-bench-") as name, _places(Path(name)) as places:
        for what, place in places.items():
            store = place.open()
            await begin(store)
            await costs(store, place, count // 5)  # the warm-up
            seen = [await costs(store, place, count) for _ in range(rounds)]
            await store.close()
            _show(what, seen)


def _show(what: str, seen: list[dict[str, tuple[float, float]]]) -> None:
    sys.stdout.write(f"{what:24}{'app, us CPU':>14}{'database':>14}\n")
    total = 0.0, 0.0
    for verb in seen[0]:
        own, database = (sorted(one[verb][side] for one in seen)[len(seen) // 2] for side in (0, 1))
        total = total[0] + own, total[1] + database
        sys.stdout.write(f"  {verb:22}{own:14.0f}{database:14.0f}\n")
    sys.stdout.write(f"  {'a one-call task':22}{total[0]:14.0f}{total[1]:14.0f}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m bench.verbs", description=__doc__)
    parser.add_argument("--tasks", type=int, default=5_000)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    asyncio.run(_measure(chosen.tasks, chosen.rounds))
