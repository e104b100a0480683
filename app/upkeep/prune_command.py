"""python -m app prune: take away tasks that ended long ago, also beside a running service."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

from app.domain.clock import SystemClock
from app.domain.period import DAY_US
from app.queue.retention import sweep
from app.store.port import Store

PAUSE_S = 0.005
"""Between two writes: a service that works on the same store goes on meanwhile."""
OpenStore = Callable[[], tuple[Store, int | None]]
"""Opens the store in force, and says how many days tasks are kept. Called inside an event loop."""


def add_parser(commands: Any, open_store: OpenStore) -> None:
    """Add the command to those of the program."""
    prune = commands.add_parser("prune", help="delete tasks that ended long ago; their money stays")
    prune.add_argument(
        "--days", type=_days, help="delete those that ended more days ago (BURSAR_RETENTION_DAYS)"
    )
    prune.add_argument("--json", action="store_true", help="for programs")
    prune.set_defaults(run=_prune, open_store=open_store)


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= 36_500:
        message = "must be between 1 and 36500"
        raise argparse.ArgumentTypeError(message)
    return days


def _prune(chosen: argparse.Namespace) -> int:
    return asyncio.run(_pruned(chosen))


async def _pruned(chosen: argparse.Namespace) -> int:
    clock = SystemClock()
    began_s = clock.monotonic_s()
    store, days = chosen.open_store()
    try:
        days = chosen.days or days
        if days is None:
            sys.stderr.write("bursar: Say how old: --days N, or set BURSAR_RETENTION_DAYS.\n")
            return 2
        count = 0
        # A task that had sub-tasks is due once they are gone.
        while found := await sweep(store, clock, clock.now_us() - days * DAY_US, PAUSE_S):
            count += found
    finally:
        await store.close()
    seconds = round(clock.monotonic_s() - began_s, 3)
    if chosen.json:
        sys.stdout.write(json.dumps({"tasks": count, "days": days, "seconds": seconds}) + "\n")
    else:
        sys.stdout.write(f"{count} tasks that ended more than {days} days ago, {seconds:.1f} s\n")
    return 0
