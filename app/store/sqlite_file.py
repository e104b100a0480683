"""The embedded database's file: its directory's lock, its connections, its schema, its errors."""

import fcntl
import os
import sqlite3
from pathlib import Path
from typing import IO

from app.domain.errors import (
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
)
from app.store.queries import load_migrations

DATABASE_NAME = "bursar.db"
BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for somebody else's lock (a backup tool, say)."""
_CACHED_STATEMENTS = 256
EXAMINED_LIMIT_BYTES = 256 * 2**20
"""A larger file is not examined as a whole at the start: that takes a second for each few hundred megabytes, and
minutes from a cold disk, while its tasks wait. Damage shows when it is met, and `doctor` looks for it."""
MAGIC = b"SQLite format 3\x00"
_NOT_HEALTHY = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def open_locked(folder: Path, now_us: int) -> tuple[sqlite3.Connection, IO[str]]:
    """A connection to the database in `folder`, made or migrated where needed, and the folder's lock.

    Raises:
        StoreError: the folder is in use or unwritable, the file damaged or newer than this version.
    """
    lock, path = lock_directory(folder), folder / DATABASE_NAME
    try:
        connection = connect(path)
        migrate(connection, path, now_us)
    except BaseException:
        lock.close()
        raise
    return connection, lock


def open_beside(folder: Path, now_us: int) -> sqlite3.Connection:
    """The same beside whoever has the folder's lock: it is taken only while the schema is made or migrated.

    Raises:
        StoreError: as above; StoreInUse only where the schema is not this version's.
    """
    path = folder / DATABASE_NAME
    if path.is_file():
        connection = connect(path)
        if _is_current(connection, path):
            return connection
        connection.close()
    connection, lock = open_locked(folder, now_us)
    lock.close()
    return connection


def _is_current(connection: sqlite3.Connection, path: Path) -> bool:
    named = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'schema_migrations'"
    try:
        if connection.execute(named).fetchone() is None:
            return False
        row = connection.execute("SELECT MAX(version) AS version FROM schema_migrations").fetchone()
    except sqlite3.Error as error:
        connection.close()
        raise store_error(error, path) from error
    return bool(row["version"] == len(load_migrations()))


def lock_directory(folder: Path) -> IO[str]:
    """Hold `folder` for this process until the returned file is closed (a crash closes it too).

    Raises:
        StoreInUse: another process holds it.
        StoreUnavailable: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / "bursar.lock").open("a+", encoding="ascii")
    except OSError as error:
        message = f"The data directory {folder} cannot be used: {error.strerror or error}."
        raise StoreUnavailable(message) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        holder = lock.read(20).strip() or "unknown"
        lock.close()
        message = f"The data directory {folder} is in use by another process (pid {holder})."
        raise StoreInUse(message) from error
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """This process's first connection: in WAL mode, where a commit returns after the data is on disk.

    Raises:
        StoreError: the file cannot be opened or is not a database.
    """
    _refuse_foreign(path)
    return connect_again(path, read_only=read_only)


def connect_again(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """A connection of a process that has one already, where nothing may open the file beside SQLite.

    Closing such a file would drop every lock that this process has on it (POSIX has one set a process), and
    the next process to leave would take itself for the last one and delete the WAL in use.

    Raises:
        StoreError: the file cannot be opened or is not a database.
    """
    try:
        connection = sqlite3.connect(
            path,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=_CACHED_STATEMENTS,
        )
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        connection.execute("PRAGMA secure_delete=ON")  # what is deleted is overwritten, too
        if read_only:
            connection.execute("PRAGMA query_only=ON")
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    return connection


def _refuse_foreign(path: Path) -> None:
    """A short file of something else would count as an empty database, and be overwritten."""
    try:
        with path.open("rb") as file:
            head = file.read(len(MAGIC))
    except FileNotFoundError:
        return
    except OSError as error:
        message = f"{path} cannot be read: {error.strerror or error}."
        raise StoreUnavailable(message) from error
    if head and head != MAGIC:
        message = f"{path} is not a database. Restore a backup, or move it away to start anew."
        raise StoreCorrupt(message)


def migrate(
    connection: sqlite3.Connection,
    path: Path,
    now_us: int,
    *,
    examined_limit_bytes: int = EXAMINED_LIMIT_BYTES,
) -> None:
    """Bring the schema up to this version: each migration in a transaction of its own.

    Raises:
        StoreTooNew: the file was written by a newer version.
        StoreError: the file is damaged or cannot be written.
    """
    try:
        _check(connection, path, examined_limit_bytes)
        connection.execute(
            "CREATE TABLE IF NOT EXISTS schema_migrations ("
            "version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at_us BIGINT NOT NULL)"
        )
        row = connection.execute("SELECT MAX(version) AS version FROM schema_migrations").fetchone()
        current = row["version"] or 0
        migrations = load_migrations()
        if current > len(migrations):
            message = (
                f"{path} has schema version {current}; this version of Bursar knows {len(migrations)}."
                " Start a newer version, or restore an older backup."
            )
            raise StoreTooNew(message)
        for version, name, script in migrations[current:]:
            connection.execute("BEGIN IMMEDIATE")
            for statement in statements_of(script):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO schema_migrations (version, name, applied_at_us) VALUES (?, ?, ?)",
                (version, name, now_us),
            )
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise store_error(error, path) from error


def _check(connection: sqlite3.Connection, path: Path, limit_bytes: int) -> None:
    """Refuse a damaged file at the start rather than in the middle of somebody's task."""
    connection.execute("PRAGMA schema_version").fetchone()  # whatever its size: it is a database
    if path.stat().st_size <= limit_bytes:
        examine(connection, path)


def examine(connection: sqlite3.Connection, path: Path) -> None:
    """Look at every page of the file.

    Raises:
        StoreCorrupt: it is damaged.
    """
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        message = f"{path} is damaged ({verdict}). Restore a backup, or move it away to start anew."
        raise StoreCorrupt(message)


def statements_of(script: str) -> list[str]:
    """A script's statements one by one (`executescript` would commit between them)."""
    found, current = [], ""
    for line in script.splitlines():
        current += line + "\n"
        if sqlite3.complete_statement(current):
            found.append(current.strip())
            current = ""
    return found


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """SQLite's errors in the service's words."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code == sqlite3.SQLITE_FULL:
        return StoreFull(f"No space left for {path}.")
    if code in _NOT_HEALTHY:
        message = f"{path} is not a healthy database ({error})."
        return StoreCorrupt(f"{message} Restore a backup, or move it away to start anew.")
    return StoreUnavailable(f"{path} cannot be used right now ({error}).")
