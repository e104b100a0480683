"""python -m app backup TARGET | restore SOURCE: the embedded database, as one file."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.domain.clock import SystemClock
from app.domain.money import format_usd
from app.upkeep.backup import Copy, CopyRefused, Restored, back_up, restore

DataDir = Callable[[], Path]
"""The data directory in force."""
_MB = 1_000_000
_UNKNOWN_MONEY = (
    "Model calls made after the backup are unknown to these books: they were paid for, no budget counts them, "
    "and their steps are bought again. Compare with the provider's bill."
)
_UNDONE = (
    "What was done after the backup is undone: keys revoked since then open again, tasks erased since then are "
    "back, tasks accepted since then are gone."
)


def add_parsers(commands: Any, data_dir: DataDir) -> None:
    """Add the commands to those of the program."""
    backup = commands.add_parser("backup", help="copy the database, also while the service runs")
    backup.add_argument("target", type=Path, help="the file to write")
    backup.add_argument("--force", action="store_true", help="replace a file that is there")
    backup.set_defaults(run=_backup)
    restoring = commands.add_parser("restore", help="put a backup in place; stop the service first")
    restoring.add_argument("source", type=Path, help="a file that `backup` wrote")
    restoring.set_defaults(run=_restore)
    for command in (backup, restoring):
        command.add_argument("--json", action="store_true", help="for programs")
        command.set_defaults(data_dir=data_dir)


def _backup(chosen: argparse.Namespace) -> int:
    try:
        copy = back_up(chosen.data_dir(), chosen.target, SystemClock(), force=chosen.force)
    except CopyRefused as error:
        return _complain(str(error))
    if chosen.json:
        _print(json.dumps(_shown(copy), indent=2))
    else:
        _print(f"{chosen.target}: {_described(copy)}")
    if copy.drifts is None:
        _complain(
            "The books of the copy were not checked: a service of an older version made them."
        )
    elif copy.drifts:
        return _complain(
            f"The copy is complete, but its books have {copy.drifts} drifts: see `doctor`."
        )
    return 0


def _restore(chosen: argparse.Namespace) -> int:
    try:
        restored = restore(chosen.data_dir(), chosen.source, SystemClock())
    except CopyRefused as error:
        return _complain(str(error))
    if chosen.json:
        forgotten = restored.forgotten
        _print(
            json.dumps(
                {
                    **_shown(restored.copy),
                    "replaced": None if restored.aside is None else str(restored.aside),
                    "forgotten": None
                    if forgotten is None
                    else {
                        "tasks": forgotten.tasks,
                        "settlements": forgotten.lines,
                        "spent_usd": format_usd(forgotten.spent_nano),
                    },
                },
                indent=2,
            )
        )
    else:
        _print(f"Restored {chosen.source}: {_described(restored.copy)}")
    for sentence in _warnings(restored):
        _complain(sentence)
    return 0


def _warnings(restored: Restored) -> list[str]:
    """What a restore means; to people, whatever the format of the data."""
    said = [
        f"{restored.copy.unfinished} tasks were not finished at the backup: they go on at the next start.",
        _UNKNOWN_MONEY,
        _UNDONE,
    ]
    if restored.forgotten is not None:
        gone = restored.forgotten
        said.append(
            f"The replaced database has {gone.tasks} tasks and {gone.lines} settlements of "
            f"{format_usd(gone.spent_nano)} USD that are not in this one."
        )
    if restored.aside is not None:
        said.append(f"The replaced database is kept as {restored.aside}.")
    if restored.copy.drifts:
        said.append(f"The books have {restored.copy.drifts} drifts: see `doctor`.")
    return said


def _shown(copy: Copy) -> dict[str, Any]:
    return {
        "size_bytes": copy.size_bytes,
        "tasks": copy.tasks,
        "unfinished_tasks": copy.unfinished,
        "drifts": copy.drifts,
        "seconds": round(copy.seconds, 3),
    }


def _described(copy: Copy) -> str:
    return (
        f"{copy.size_bytes / _MB:.1f} MB, {copy.tasks} tasks ({copy.unfinished} unfinished), "
        f"{copy.seconds:.1f} s"
    )


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")


def _complain(sentence: str) -> int:
    sys.stderr.write(f"bursar: {sentence}\n")
    return 1
