"""Backup beside a running service, and the way back: both at once or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from app.budget.audit import audit
from app.domain.clock import US_PER_S, Clock
from app.domain.errors import BursarError
from app.domain.record import record
from app.store import copies
from app.store.port import Tx
from app.store.queries import load_migrations
from app.store.sqlite_file import DATABASE_NAME, lock_directory


class CopyRefused(BursarError):  # noqa: N818
    """A copy that cannot be made where it was asked for."""


@record(frozen=True, slots=True)
class Copy:
    """What a copy has in it. `drifts` is None when its schema is too old for this version to audit."""

    size_bytes: int
    tasks: int
    unfinished: int
    drifts: int | None
    seconds: float


@record(frozen=True, slots=True)
class Restored:
    """What was put in place, and what of before."""

    copy: Copy
    aside: Path | None
    """The replaced database; None when there was none."""
    forgotten: copies.Forgotten | None
    """What only the replaced one knows; None when it cannot be read, or there was none."""


def back_up(folder: Path, target: Path, clock: Clock, *, force: bool = False) -> Copy:
    """Copy the database in `folder` to `target`, also while a service uses it.

    Raises:
        CopyRefused: there is something at `target`, and no `force`; or `target` is the database itself.
        StoreError: the database cannot be read or is damaged, or the copy cannot be written. Nothing is left.
    """
    began_s = clock.monotonic_s()
    if copies.is_database_of(folder, target):
        raise CopyRefused(f"{target} is the database in use; name another file.")
    if target.is_dir():
        raise CopyRefused(f"{target} is a folder; name a file in it.")
    if target.exists() and not force:
        raise CopyRefused(f"{target} exists already; --force replaces it.")
    with _part_of(target) as part:
        path = folder / DATABASE_NAME
        copies.copy_out(path, part)
        found = _look(part, path, clock, began_s)
        try:
            copies.publish(part, target, replacing=force)
        except FileExistsError as error:
            raise CopyRefused(f"{target} exists by now; --force replaces it.") from error
    return found


def restore(folder: Path, source: Path, clock: Clock) -> Restored:
    """Put the backup `source` in the place of the database in `folder`, which no service may use.

    The source is only read. What was there is kept beside the new database, with its log.

    Raises:
        StoreInUse: a service holds the data directory, or another program has the database open.
        StoreError: the source is damaged, of something else, or newer. Nothing has changed.
    """
    began_s = clock.monotonic_s()
    path = folder / DATABASE_NAME
    with lock_directory(folder), _part_of(path) as part:
        if copies.is_database_of(folder, source):
            raise CopyRefused(f"{source} is the database in use, not a backup.")
        copies.copy_in(source, part, clock.now_us())
        found = _look(part, source, clock, began_s)
        aside, forgotten = None, None
        if path.exists():
            aside = _free_name(path, clock)
            forgotten = copies.forgotten(part, path) if copies.fold(path) else None
        copies.put_in_place(part, path, aside)
    return Restored(found, aside, forgotten)


def _look(part: Path, named: Path, clock: Clock, began_s: float) -> Copy:
    with copies.examined(part, named=named) as tx:
        counts = tx.one("count_tasks")
        assert counts is not None  # noqa: S101  (a count returns)
        books = audit(tx) if _is_current(tx) else None
        drifts = None if books is None else len(books.drifts) + len(books.broken)
        return Copy(
            part.stat().st_size,
            counts["task_count"],
            counts["unfinished_count"],
            drifts,
            clock.monotonic_s() - began_s,
        )


def _is_current(tx: Tx) -> bool:
    found = tx.one("schema_version")
    return found is not None and found["version"] == len(load_migrations())


@contextmanager
def _part_of(target: Path) -> Iterator[Path]:
    """An empty file beside `target`, for its owner's eyes only, that is gone after the block."""
    try:
        handle, name = tempfile.mkstemp(prefix=f"{target.name}.", suffix=".part", dir=target.parent)
    except OSError as error:
        raise CopyRefused(f"{target.parent} cannot be written: {error.strerror}.") from error
    os.close(handle)
    part = Path(name)
    try:
        yield part
    finally:
        for leftover in (part, *(Path(f"{part}{end}") for end in ("-wal", "-shm", "-journal"))):
            leftover.unlink(missing_ok=True)


def _free_name(path: Path, clock: Clock) -> Path:
    stamp = datetime.fromtimestamp(clock.now_us() // US_PER_S, UTC).strftime("%Y%m%dT%H%M%SZ")
    number, found = 1, path.with_name(f"{path.name}.replaced-{stamp}")
    while found.exists():
        number += 1
        found = path.with_name(f"{path.name}.replaced-{stamp}-{number}")
    return found
