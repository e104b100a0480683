"""A second process at work on a running service's database: no lock, but never another schema."""

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from app.domain.errors import StoreCorrupt, StoreInUse, StoreTooNew
from app.store.port import Operation, Tx
from app.store.queries import load_migrations
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME, lock_directory
from tests.support.clock import FakeClock

COUNT = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
print(connection.execute("SELECT COUNT(*) FROM sessions").fetchone()[0])
connection.close()
"""


def _session(name: str) -> Operation[int]:
    def op(tx: Tx) -> int:
        return tx.run("open_session", owner="local", id=name, now_us=tx.now_us)

    return op


def _version(folder: Path, version: int) -> None:
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version > ?", (version,))
        connection.execute("INSERT OR IGNORE INTO schema_migrations VALUES (?, 'x', 0)", (version,))
        connection.commit()


def _is_free(folder: Path) -> bool:
    try:
        lock_directory(folder).close()
    except StoreInUse:
        return False
    return True


async def test_both_write(store: SqliteStore, folder: Path) -> None:
    """What one of them commits the other one sees; the first keeps the lock all along."""
    beside = SqliteStore(folder, FakeClock(), alone=False)
    try:
        for number in range(10):
            assert await store.write(_session(f"first-{number}")) == 1
            assert await beside.write(_session(f"second-{number}")) == 1
            assert await store.write(_session(f"second-{number}")) == 0
            assert await beside.write(_session(f"first-{number}")) == 0
        assert not _is_free(folder)
    finally:
        await beside.close()
    assert not _is_free(folder)
    assert await store.write(_session("after")) == 1


async def test_who_leaves_keeps_the_log(store: SqliteStore, folder: Path) -> None:
    """Another process that opens and closes the file does not take itself for the last one.

    It would delete the write-ahead log in use: what is committed from then on would be in no file.
    """
    assert await store.write(_session("before")) == 1
    assert await store.read(lambda tx: tx.one("ping")) is not None
    for number in range(3):
        assert await store.write(_session(f"s-{number}")) == 1
        assert _counted_elsewhere(folder) == number + 2


def _counted_elsewhere(folder: Path) -> int:
    left = subprocess.run(  # noqa: S603
        [sys.executable, "-c", COUNT, folder / DATABASE_NAME], check=True, capture_output=True
    )
    return int(left.stdout)


async def test_a_new_database(folder: Path) -> None:
    """Where there is none it is made; the folder is free for a service at once."""
    beside = SqliteStore(folder, FakeClock(), alone=False)
    assert _is_free(folder)
    service = SqliteStore(folder, FakeClock())
    assert await beside.write(_session("s")) == 1
    assert await service.write(_session("s")) == 0
    await beside.close()
    await service.close()


async def test_an_older_schema_in_use(store: SqliteStore, folder: Path) -> None:
    """A service of an older version keeps its schema: the second process is refused, nothing changes."""
    _version(folder, len(load_migrations()) - 1)
    with pytest.raises(StoreInUse, match="in use by another process"):
        SqliteStore(folder, FakeClock(), alone=False)
    with closing(sqlite3.connect(folder / DATABASE_NAME)) as connection:
        (version,) = connection.execute("SELECT MAX(version) FROM schema_migrations").fetchone()
    assert version == len(load_migrations()) - 1


async def test_a_newer_schema(store: SqliteStore, folder: Path) -> None:
    """It is refused, whoever uses it."""
    _version(folder, 9_999)
    with pytest.raises(StoreInUse):
        SqliteStore(folder, FakeClock(), alone=False)
    await store.close()
    with pytest.raises(StoreTooNew):
        SqliteStore(folder, FakeClock(), alone=False)
    assert _is_free(folder)


@pytest.mark.parametrize("content", [b"not a database", b"SQLite format 3\x00" + b"\xa5" * 4_096])
def test_a_damaged_file(folder: Path, content: bytes) -> None:
    """It is refused as by a service, and left alone."""
    folder.mkdir()
    path = folder / DATABASE_NAME
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        SqliteStore(folder, FakeClock(), alone=False)
    assert path.read_bytes() == content
