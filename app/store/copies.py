"""A whole database as one file: copied out beside a running service, examined, put in another's place.

Only for processes of their own: nothing here may run where a service has the file open (see `connect_again`).
"""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from app.domain.errors import (
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
)
from app.domain.record import record
from app.store.queries import load_migrations
from app.store.sqlite_file import (
    BUSY_TIMEOUT_S,
    DATABASE_NAME,
    MAGIC,
    connect,
    migrate,
    store_error,
)
from app.store.sqlite_tx import SqliteTx

_OWN_FILES = {"bursar.lock", *(DATABASE_NAME + end for end in ("", "-wal", "-shm", "-journal"))}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
_TOLD_APART = """
SELECT COUNT(*) AS lines, COALESCE(SUM(gone.amount_nano + gone.surplus_nano), 0) AS spent_nano,
    (SELECT COUNT(*) FROM replaced.tasks AS t
     WHERE NOT EXISTS (SELECT 1 FROM main.tasks AS k WHERE k.id = t.id)) AS tasks
FROM replaced.ledger_lines AS gone
WHERE gone.entry = 'settlement' AND NOT EXISTS (
    SELECT 1 FROM main.ledger_lines AS kept WHERE kept.task_id = gone.task_id AND kept.step = gone.step
        AND kept.attempt = gone.attempt AND kept.ended = gone.ended)
"""


@record(frozen=True, slots=True)
class Forgotten:
    """What a replaced database knew and the restored one does not."""

    tasks: int
    lines: int
    """Settlements."""
    spent_nano: int


def copy_out(path: Path, part: Path) -> None:
    """Write the database's present state to `part`, which must be empty; it is on disk when this returns.

    It is one instant, whoever writes meanwhile, and without the pages that deleted rows left.

    Raises:
        StoreError: there is none, it cannot be read, or the copy cannot be written.
    """
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    with _told(path, part), closing(connect(path)) as connection:
        check_schema(connection, path)
        connection.execute("VACUUM INTO ?", (str(part),))
    sync(part)


@contextmanager
def examined(path: Path, *, named: Path | None = None) -> Iterator[SqliteTx]:
    """Read a database that nobody uses, after a check of its pages; errors speak of it as `named`.

    Raises:
        StoreCorrupt, StoreTooNew: it is damaged, of something else, or of a newer version.
    """
    shown = named or path
    with _told(shown), closing(_read_only(path)) as connection:
        check_schema(connection, shown)
        verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if verdict != "ok":
            raise StoreCorrupt(f"{shown} is damaged ({verdict}).")
        connection.execute("BEGIN")
        yield SqliteTx(connection.cursor(), 0)


def check_schema(connection: sqlite3.Connection, path: Path) -> int:
    """The schema's version.

    Raises:
        StoreCorrupt: the file is no database of Bursar's.
        StoreTooNew: a newer version wrote it.
    """
    named = "SELECT COUNT(*) FROM sqlite_master WHERE name IN ('schema_migrations', 'tasks')"
    if connection.execute(named).fetchone()[0] != 2:
        raise StoreCorrupt(f"{path} is not a database of Bursar.")
    row = connection.execute("SELECT MAX(version) FROM schema_migrations").fetchone()
    version = int(row[0] or 0)
    if version > len(load_migrations()):
        message = f"{path} has schema version {version}; this version of Bursar knows {len(load_migrations())}."
        raise StoreTooNew(message)
    return version


def copy_in(source: Path, part: Path, now_us: int) -> None:
    """Write what `source` has to `part`, with this version's schema; it is on disk when this returns.

    Raises:
        StoreError: the source is damaged, of something else or newer, or the copy cannot be written.
    """
    if not source.is_file():
        raise StoreUnavailable(f"There is no file {source}.")
    with _told(source, part), closing(_read_only(source)) as connection:
        check_schema(connection, source)
        connection.execute("VACUUM INTO ?", (str(part),))
    with _told(source, part), closing(connect(part)) as connection:
        migrate(connection, source, now_us)
        connection.execute("PRAGMA journal_mode=DELETE")
    sync(part)


def forgotten(path: Path, replaced: Path) -> Forgotten | None:
    """What the database at `replaced` knows beyond the one at `path`; None when it cannot be read."""
    try:
        with closing(_read_only(path)) as connection:
            connection.execute("ATTACH ? AS replaced", (_uri(replaced),))
            row = connection.execute(_TOLD_APART).fetchone()
    except sqlite3.Error:
        return None
    return Forgotten(row["tasks"], row["lines"], row["spent_nano"])


def fold(path: Path) -> bool:
    """Bring a database's write-ahead log into its file, so that the file is all there is of it.

    Returns:
        False when that cannot be done: the database is damaged. One without its head is not touched.

    Raises:
        StoreInUse: somebody has it open.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return False
    try:
        with closing(sqlite3.connect(path, timeout=1, isolation_level=None)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
            connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in _BUSY:
            raise StoreInUse(f"Another program has {path} open.") from error
        return False
    return not _log_of(path).exists()


def put_in_place(part: Path, path: Path, aside: Path | None) -> None:
    """Make `part` the database at `path`, at once or not at all; what was there goes on as `aside`.

    A log that the old database still has is its own: it goes with it, never into the new one.
    """
    _belongs_like(part, path if aside is not None else path.parent)
    if aside is not None:
        _keep(path, aside)
        for leftover in (_log_of(path), path.with_name(path.name + "-shm")):
            if leftover.exists():
                leftover.replace(
                    leftover.with_name(leftover.name.replace(path.name, aside.name, 1))
                )
        sync_folder(path.parent)
    part.replace(path)
    sync_folder(path.parent)


def _belongs_like(part: Path, other: Path) -> None:
    """The service must be able to open what an administrator restores."""
    was = other.stat()
    if other.is_file():
        part.chmod(stat.S_IMODE(was.st_mode))
    with suppress(PermissionError):  # only root may give a file away
        os.chown(part, was.st_uid, was.st_gid)


def _keep(path: Path, aside: Path) -> None:
    """A second name first, so that there is a database at `path` at every instant."""
    try:
        os.link(path, aside)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        shutil.copyfile(path, aside)
        sync(aside)


def publish(part: Path, target: Path, *, replacing: bool) -> None:
    """Give the finished file its name, at once or not at all.

    Raises:
        FileExistsError: there is something of that name, and it is not to be replaced.
    """
    if replacing:
        part.replace(target)
    else:
        try:
            os.link(part, target)
        except FileExistsError:
            raise
        except OSError:  # a file system without links
            if target.exists():
                raise FileExistsError(target) from None
            part.replace(target)
    sync_folder(target.parent)


def sync(path: Path) -> None:
    """Wait until the file's content is on disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the folder's names are on disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_database_of(folder: Path, target: Path) -> bool:
    """Whether `target` is, or would be, a file that the data directory's own database uses."""
    found = target.resolve()
    return found.parent == folder.resolve() and found.name in _OWN_FILES


def _log_of(path: Path) -> Path:
    return path.with_name(path.name + "-wal")


def _uri(path: Path) -> str:
    return f"file:{quote(str(path.resolve()))}?mode=ro"


def _read_only(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(_uri(path), uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)
    connection.row_factory = sqlite3.Row
    return connection


def _no_space(written: Path) -> StoreFull:
    return StoreFull(f"No space left in {written.parent}.")


@contextmanager
def _told(path: Path, written: Path | None = None) -> Iterator[None]:
    """SQLite's errors in the service's words: of the database that is read, and of the file that is written."""
    try:
        yield
    except sqlite3.Error as error:
        found: StoreError = store_error(error, path)
        if isinstance(found, StoreFull) and written is not None:
            found = _no_space(written)
        raise found from error
    except StoreFull as error:
        raise (error if written is None else _no_space(written)) from error
    except OSError as error:
        raise StoreUnavailable(f"{path} cannot be used: {error.strerror or error}.") from error
