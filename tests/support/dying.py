"""Processes that die at every step of a job: `python -m tests.support.dying JOB FOLDER`, one line for each death.

A step is what Python tells an audit hook of: a file opened, renamed, linked or removed, a database opened. Each death is a
fork that exits at its n-th step without cleaning up, as `kill -9` ends it; the last one lives.
"""

import os
import shutil
import sys
from collections.abc import Callable
from contextlib import closing
from itertools import count
from pathlib import Path

import orjson

from app.domain.clock import SystemClock
from app.store.sqlite_file import DATABASE_NAME, connect
from app.upkeep.backup import back_up, restore

STEPS = ("open", "os.", "sqlite3.connect", "tempfile.", "shutil.", "fcntl.")
KILLED = 137
_CLOCK = SystemClock()
Job = Callable[[Path], object]
"""Works on a folder with `data/` (a database with a log beside it) and `copy.db`."""


def _restore(folder: Path) -> object:
    return restore(folder / "data", folder / "copy.db", _CLOCK)


def _back_up(folder: Path) -> object:
    return back_up(folder / "data", folder / "copy.db", _CLOCK, force=True)


JOBS: dict[str, Job] = {"restore": _restore, "backup": _back_up}


def _die_at(step: int, job: Job, folder: Path) -> int:
    pid = os.fork()
    if pid == 0:
        left = step

        def hook(event: str, _args: tuple[object, ...]) -> None:
            nonlocal left
            if event.startswith(STEPS):
                left -= 1
                if left < 0:
                    os._exit(KILLED)

        sys.addaudithook(hook)
        try:
            job(folder)
        except BaseException:  # noqa: BLE001  (nothing of the parent's may run in the child)
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _tasks(path: Path) -> list[str] | None:
    if not path.exists():
        return None
    with closing(connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        return [row["id"] for row in connection.execute("SELECT id FROM tasks ORDER BY id")]


def main() -> None:
    """Print a line for each death: what a process finds afterwards, as `[code, tasks, tasks of the copy]`."""
    job, origin = JOBS[sys.argv[1]], Path(sys.argv[2])
    for step in count():
        folder = origin.with_name("dying")
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(origin, folder)
        code = _die_at(step, job, folder)
        found = [_tasks(folder / name) for name in (f"data/{DATABASE_NAME}", "copy.db")]
        again = _die_at(1 << 30, job, folder)  # whoever does it once more is not in its own way
        sys.stdout.write(orjson.dumps([code, *found, again]).decode() + "\n")
        if code == 0:
            return
        if code != KILLED:
            sys.exit(code)


if __name__ == "__main__":
    main()
