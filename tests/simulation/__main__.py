"""Run seeds of the simulation.

python -m tests.simulation --seed 7             one seed, told in full: a failing one replays exactly
python -m tests.simulation --seeds 5000         many, on all cores; fails when something is wrong
python -m tests.simulation --ablations          the service without each safeguard, until that is caught
"""

import argparse
import logging
import multiprocessing
import os
import platform
import re
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

from tests.simulation.ablations import ABLATION_SEEDS, ABLATIONS, first_caught
from tests.simulation.reckoning import RARELY, SOMETIMES
from tests.simulation.world import Run, simulate

ENOUGH = 100
"""So many seeds must have reached everything in `SOMETIMES`, ten times as many what comes `RARELY`."""
_SHOWN = 5
_CHUNKS_PER_CHILD = 40
"""A world leaves memory behind; so a process makes way for a fresh one in time."""


def main(arguments: list[str]) -> int:
    """The exit code: 0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="run this one and tell all of it")
    what.add_argument("--seeds", type=int, help="run so many")
    what.add_argument("--ablations", action="store_true", help="see that each safeguard is needed")
    parser.add_argument("--first", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--write", type=Path, help="where the table of the ablations goes")
    given = parser.parse_args(arguments)
    logging.disable(logging.CRITICAL)
    if given.seed is not None:
        return _one(given.seed)
    if given.seeds is not None:
        return _many(given.first, given.seeds)
    return _ablations(given.write)


def _one(seed: int) -> int:
    run = simulate(seed)
    _say(f"seed {seed} at {_commit()}: {run.steps} steps, {run.virtual_s:.3f} virtual seconds")
    _say(f"digest {run.digest}")
    _say(_listed(run.reached))
    for violation in run.violations:
        _say(f"VIOLATION {violation}")
    return 1 if run.violations else 0


def _many(first: int, count: int) -> int:
    began_s, reached, failed = time.perf_counter(), Counter[str](), list[Run]()
    with _pool() as pool:
        for run in pool.imap(simulate, range(first, first + count), chunksize=5):
            reached.update(run.reached)
            if run.violations:
                failed.append(run)
                _tell(run)
    took_s = time.perf_counter() - began_s
    _say(f"{count} seeds in {took_s:.0f} s ({count / took_s:.1f} a second), {len(failed)} failed")
    _say(_listed(reached))
    wanted = (SOMETIMES if count >= ENOUGH else ()) + (RARELY if count >= 10 * ENOUGH else ())
    missing = [name for name in wanted if not reached[name]]
    for name in missing:
        _say(f"NEVER REACHED {name}: these seeds have proved little")
    return 1 if failed or missing else 0


def _tell(run: Run) -> None:
    _say(f"seed {run.seed} at {_commit()}, Python {platform.python_version()}:")
    for violation in run.violations[:_SHOWN]:
        _say(f"  VIOLATION {violation}")
    _say(f"  replay: python -m tests.simulation --seed {run.seed}")


def _ablations(target: Path | None) -> int:
    rows, survived = [], 0
    with _pool() as pool:
        for name, caught in zip(ABLATIONS, pool.imap(first_caught, ABLATIONS), strict=True):
            survived += caught is None
            rows.append(_row(name, caught))
            _say(rows[-1])
    if target is not None:
        target.write_text(_PAGE.format(rows="\n".join(rows)), encoding="utf-8")
    return 1 if survived else 0


def _row(name: str, caught: tuple[int, str] | None) -> str:
    if caught is None:
        return f"| {name} | **not within {ABLATION_SEEDS} seeds** | |"
    said = re.sub(r"task_[0-9a-f]{32}", "a task", caught[1].split("(AssertionError")[0])
    return f"| {name} | {caught[0] + 1} | `{' '.join(said.split())}` |"


_PAGE = """\
# What happens without each safeguard

Written by `make ablations`. A seed of the simulation is a whole service under virtual time, with crashes,
stalls, lost locks, clock jumps and an upstream that bills; each safeguard in turn is undone on its way to the
database (`tests/simulation/ablations.py`; the service itself has no such switch). With all of them in place
the same seeds find nothing.

| without | seeds until it is caught | what the first of them says |
|---|---|---|
{rows}
"""


def _pool() -> Pool:
    """Processes side by side. (Those of `concurrent.futures` can stand still when one makes way for another: CPython 115634.)"""
    context = multiprocessing.get_context("spawn")
    workers = len(os.sched_getaffinity(0))
    silence = partial(logging.disable, logging.CRITICAL)
    return context.Pool(workers, silence, maxtasksperchild=_CHUNKS_PER_CHILD)


def _listed(reached: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(reached.items()) if count)


def _commit() -> str:
    asked = ("git", "describe", "--always", "--dirty", "--abbrev=12")
    try:
        told = subprocess.run(asked, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError:
        return "an unknown commit"
    return told.stdout.strip() or "an unknown commit"


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
