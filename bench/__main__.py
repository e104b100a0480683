"""python -m bench [--quick] [--json PATH]: measure everything in one run."""

import argparse
import asyncio
import json
import resource
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import cpu, crowd, later_calls, ledger, posts, start
from bench.noise import fsync_ms
from bench.process import child, line
from bench.report import Results, table


def main() -> int:
    """Run the bench and show its results."""
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="The figures of the README."
    )
    parser.add_argument("--quick", action="store_true", help="rough figures in a minute and a half")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there, too")
    chosen = parser.parse_args()
    allow_many_files()
    results = asyncio.run(_measure(quick=chosen.quick))
    sys.stdout.write(table(results))
    if chosen.json is not None:
        chosen.json.write_text(json.dumps(results.as_json(), indent=2) + "\n", encoding="utf-8")
    return 0


async def _measure(*, quick: bool) -> Results:
    began_s = time.monotonic()
    plan = (
        cpu.Plan(2, {"w1": 400, "w2": 100}, 100)
        if quick
        else cpu.Plan(5, {"w1": 1_000, "w2": 250}, 150)
    )
    with TemporaryDirectory(prefix="bursar-bench-") as name:
        folder = Path(name)
        async with child("-m", "bench.upstream", folder=folder) as upstream:
            url = f"http://127.0.0.1:{int(await line(upstream))}"
            samples = await cpu.measure(plan, url, upstream, folder, _say)
            crowded = await crowd.measure(1 if quick else 3, url, folder, _say)
            _say("POST /tasks")
            posted = await posts.measure(url, 1_000 if quick else 4_000, 1 if quick else 3)
            _say("ledger")
            booked = await ledger.measure(2_000 if quick else 5_000, 2 if quick else 5, folder)
            _say("a long conversation")
            later = await later_calls.measure(later_calls.TURNS, 3 if quick else 5, folder)
            _say("start-up")
            started = await start.startups(url, 1 if quick else 3, 2 if quick else 5)
            _say("memory")
            crowds = (300,) if quick else (1_000, 10_000)
            footprint = await start.footprint(url, crowds, 2 if quick else 10)
    took_s = time.monotonic() - began_s
    return Results(samples, crowded, later, posted, booked, started, footprint, fsync_ms(), took_s)


def _say(what: str) -> None:
    sys.stderr.write(what + "\n")
    sys.stderr.flush()


def allow_many_files() -> None:
    """1,000 calls in flight are 1,000 connections, on both sides; children inherit the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


if __name__ == "__main__":
    sys.exit(main())
