"""Backup and restore of the embedded database: whole, or not at all."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.domain.clock import SystemClock
from app.domain.errors import (
    StoreCorrupt,
    StoreFull,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
)
from app.store.queries import load_migrations
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME, connect, lock_directory, statements_of
from app.upkeep.backup import CopyRefused, back_up, restore
from tests.support.disk import owned
from tests.support.process import ROOT
from tests.support.seeding import accepted, claimed, scopes_of
from tests.unit.store.test_interrupted_migrations import old_database

CLOCK = SystemClock()


@pytest.fixture
async def data(tmp_path: Path) -> Path:
    """A data directory with a task in flight that spent 130 nano-dollars and holds 70."""
    folder = tmp_path / "data"
    store = SqliteStore(folder, CLOCK)
    claim = await claimed(store)
    scopes = scopes_of(claim.subject)
    first, second = (Attempt(claim.subject, step, 1, "m", "p") for step in (1, 2))
    await store.write(lambda tx: reserve(tx, first, scopes, 200))
    await store.write(lambda tx: settle(tx, first.id, Kind.CONFIRMED, 130))
    await store.write(lambda tx: reserve(tx, second, scopes, 70))
    await store.close()
    return folder


async def _add(folder: Path, task_id: str) -> None:
    store = SqliteStore(folder, CLOCK)
    await accepted(store, task_id)
    await store.close()


def _tasks(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return [row[0] for row in connection.execute("SELECT id FROM tasks ORDER BY id")]


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "bursar.lock"}


def test_a_copy_is_one_file_of_its_own(data: Path, tmp_path: Path) -> None:
    """It has everything, needs no log beside it, and what is printed is true."""
    target = tmp_path / "copy.db"
    copy = back_up(data, target, CLOCK)
    assert (copy.tasks, copy.unfinished, copy.drifts) == (1, 1, 0)
    assert copy.size_bytes == target.stat().st_size
    assert _tasks(target) == ["t"]
    assert {path.name for path in tmp_path.iterdir()} == {"data", "copy.db"}
    assert target.stat().st_mode & 0o077 == 0


async def test_nothing_is_overwritten_unasked(data: Path, tmp_path: Path) -> None:
    """With force, it is."""
    target = tmp_path / "copy.db"
    target.write_text("precious")
    with pytest.raises(CopyRefused, match="--force"):
        back_up(data, target, CLOCK)
    assert target.read_text() == "precious"
    back_up(data, target, CLOCK, force=True)
    assert _tasks(target) == ["t"]


@pytest.mark.parametrize("name", ["bursar.db", "bursar.db-wal", "bursar.lock", "../data/bursar.db"])
def test_the_database_is_no_target(data: Path, name: str) -> None:
    """Not even with force."""
    with pytest.raises(CopyRefused, match="in use"):
        back_up(data, data / name, CLOCK, force=True)
    assert _tasks(data / DATABASE_NAME) == ["t"]


def test_no_place_for_a_copy(data: Path, tmp_path: Path) -> None:
    """A folder, a folder that is not there, no database: one sentence each, nothing made."""
    with pytest.raises(CopyRefused, match="is a folder"):
        back_up(data, tmp_path, CLOCK)
    with pytest.raises(CopyRefused, match="cannot be written"):
        back_up(data, tmp_path / "none" / "copy.db", CLOCK)
    with pytest.raises(StoreUnavailable, match="no database"):
        back_up(tmp_path, tmp_path / "copy.db", CLOCK)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def _damage(path: Path) -> None:
    """Overwrite the pages after the first ones: the file still opens."""
    with path.open("r+b") as file:
        file.seek(2 * 4_096)
        file.write(b"\xa5" * (path.stat().st_size - 2 * 4_096))


def test_a_damaged_database_is_not_copied(data: Path, tmp_path: Path) -> None:
    """What cannot be read whole leaves no file that looks like a backup."""
    _damage(data / DATABASE_NAME)
    with pytest.raises(StoreCorrupt):
        back_up(data, tmp_path / "copy.db", CLOCK)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_books_that_do_not_agree_are_copied_and_told(data: Path, tmp_path: Path) -> None:
    """A copy that was refused would help nobody."""
    with closing(sqlite3.connect(data / DATABASE_NAME)) as connection:
        connection.execute("UPDATE accounts SET spent_nano = spent_nano + 1 WHERE scope = 'task'")
        connection.commit()
    assert back_up(data, tmp_path / "copy.db", CLOCK).drifts == 1
    assert restore(data, tmp_path / "copy.db", CLOCK).copy.drifts == 1


async def test_the_way_back(data: Path, tmp_path: Path) -> None:
    """What is restored is the backup; what was there is kept, and what only it knows is told."""
    copy = tmp_path / "copy.db"
    back_up(data, copy, CLOCK)
    store = SqliteStore(data, CLOCK)
    await store.write(lambda tx: settle(tx, "t/2/1", Kind.CONFIRMED, 60))
    await accepted(store, "later")
    await store.close()
    restored = restore(data, copy, CLOCK)
    assert _tasks(data / DATABASE_NAME) == ["t"]
    assert restored.forgotten is not None
    assert (restored.forgotten.tasks, restored.forgotten.lines) == (1, 1)
    assert restored.forgotten.spent_nano == 60
    assert restored.aside is not None
    assert _tasks(restored.aside) == ["later", "t"]
    assert (restored.copy.tasks, restored.copy.unfinished) == (1, 1)
    await _add(data, "new")  # it is a database to go on with
    assert _tasks(data / DATABASE_NAME) == ["new", "t"]


async def test_a_second_restore_keeps_both(data: Path, tmp_path: Path) -> None:
    """Each replaced database has a name of its own, and can be put back."""
    copy = tmp_path / "copy.db"
    back_up(data, copy, CLOCK)
    await _add(data, "later")
    asides = [restore(data, copy, CLOCK).aside for _ in range(3)]
    assert len(set(asides)) == 3
    assert asides[0] is not None
    restore(data, asides[0], CLOCK)
    assert _tasks(data / DATABASE_NAME) == ["later", "t"]


async def test_the_log_of_a_crash_goes_with_its_database(data: Path, tmp_path: Path) -> None:
    """A write-ahead log that a dead process left is never read into the restored database."""
    copy = tmp_path / "copy.db"
    back_up(data, copy, CLOCK)
    crashed = tmp_path / "crashed"
    store = SqliteStore(data, CLOCK)
    for number in range(20):
        await accepted(store, f"later-{number}")
    shutil.copytree(data, crashed)  # as the disk is at this instant
    await store.close()
    assert (crashed / f"{DATABASE_NAME}-wal").stat().st_size > 0
    restored = restore(crashed, copy, CLOCK)
    assert _tasks(crashed / DATABASE_NAME) == ["t"]
    assert not (crashed / f"{DATABASE_NAME}-wal").exists()
    assert restored.aside is not None
    assert len(_tasks(restored.aside)) == 21
    with closing(connect(crashed / DATABASE_NAME)) as connection:
        assert connection.execute("SELECT COUNT(*) FROM tasks").fetchone()[0] == 1


async def test_a_damaged_database_is_replaced_and_kept(data: Path, tmp_path: Path) -> None:
    """That is what a backup is for; its log is kept beside it, for whoever may mend it."""
    copy = tmp_path / "copy.db"
    back_up(data, copy, CLOCK)
    crashed = tmp_path / "crashed"
    store = SqliteStore(data, CLOCK)
    await accepted(store, "later")
    shutil.copytree(data, crashed)
    await store.close()
    log = (crashed / f"{DATABASE_NAME}-wal").read_bytes()
    (crashed / DATABASE_NAME).write_bytes(b"no database any more")
    restored = restore(crashed, copy, CLOCK)
    assert restored.forgotten is None
    assert restored.aside is not None
    assert restored.aside.read_bytes() == b"no database any more"
    assert _files(crashed)[f"{restored.aside.name}-wal"] == log
    assert not (crashed / f"{DATABASE_NAME}-wal").exists()
    await _add(crashed, "new")
    assert _tasks(crashed / DATABASE_NAME) == ["new", "t"]


def test_whose_it_is(data: Path, tmp_path: Path) -> None:
    """The restored database can be opened by whoever could open the one before, whoever restores."""
    back_up(data, tmp_path / "copy.db", CLOCK)
    path = data / DATABASE_NAME
    path.chmod(0o640)
    before = path.stat()
    restore(data, tmp_path / "copy.db", CLOCK)
    after = path.stat()
    assert (after.st_mode, after.st_uid) == (before.st_mode, before.st_uid)
    assert after.st_ino != before.st_ino


def test_a_place_without_a_database(data: Path, tmp_path: Path) -> None:
    """A new machine: the folder is made, nothing is kept aside."""
    back_up(data, tmp_path / "copy.db", CLOCK)
    restored = restore(tmp_path / "new" / "data", tmp_path / "copy.db", CLOCK)
    assert (restored.aside, restored.forgotten) == (None, None)
    assert _tasks(tmp_path / "new" / "data" / DATABASE_NAME) == ["t"]


async def test_not_under_a_service(data: Path, tmp_path: Path) -> None:
    """Whoever holds the data directory keeps it; nothing has changed."""
    back_up(data, tmp_path / "copy.db", CLOCK)
    await _add(data, "later")
    before = _files(data)
    with lock_directory(data), pytest.raises(StoreInUse):
        restore(data, tmp_path / "copy.db", CLOCK)
    assert _files(data) == before


async def test_not_under_another_program(data: Path, tmp_path: Path) -> None:
    """A database that something has open without the directory's lock is not pulled from under it."""
    back_up(data, tmp_path / "copy.db", CLOCK)
    beside = SqliteStore(data, CLOCK, alone=False)
    await accepted(beside, "later")
    with pytest.raises(StoreInUse, match="open"):
        restore(data, tmp_path / "copy.db", CLOCK)
    await beside.close()
    assert _tasks(data / DATABASE_NAME) == ["later", "t"]
    assert not [name for name in _files(data) if "part" in name]


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (9999, 'x', 0)")
        connection.commit()


def _foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE tasks (id TEXT)")
        connection.commit()


def _cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (_newer, StoreTooNew),
        (_foreign, StoreCorrupt),
        (_damage, StoreCorrupt),
        (_cut, StoreCorrupt),
        (lambda path: path.write_bytes(b""), StoreCorrupt),
        (lambda path: path.write_text("not a database"), StoreCorrupt),
        (lambda path: path.unlink(), StoreUnavailable),
    ],
    ids=["newer", "foreign", "damaged", "cut", "empty", "text", "none"],
)
async def test_what_is_no_backup(
    data: Path, tmp_path: Path, spoil: Callable[[Path], object], error: type[Exception]
) -> None:
    """It is refused, named, and nothing has changed."""
    copy = tmp_path / "copy.db"
    back_up(data, copy, CLOCK)
    spoil(copy)
    await _add(data, "later")
    before = _files(data)
    with pytest.raises(error, match=r"copy\.db"):
        restore(data, copy, CLOCK)
    assert _files(data) == before


def test_a_backup_of_an_older_version(data: Path, tmp_path: Path) -> None:
    """It is brought up to date on the way in; the backup itself stays as it is."""
    copy = tmp_path / "old.db"
    version, name, script = load_migrations()[0]
    with closing(sqlite3.connect(copy)) as connection:
        for statement in statements_of(script):
            connection.execute(statement)
        connection.execute(
            "CREATE TABLE schema_migrations (version INTEGER PRIMARY KEY, name TEXT NOT NULL,"
            " applied_at_us BIGINT NOT NULL)"
        )
        connection.execute("INSERT INTO schema_migrations VALUES (?, ?, 0)", (version, name))
        connection.commit()
    before = copy.read_bytes()
    assert restore(data, copy, CLOCK).copy.drifts == 0
    assert _tasks(data / DATABASE_NAME) == []
    assert copy.read_bytes() == before


def test_a_backup_beside_an_older_service(tmp_path: Path) -> None:
    """A schema that this version would migrate is copied as it is; its books are not judged."""
    path = old_database(tmp_path / "old", 2)
    copy = back_up(path.parent, tmp_path / "copy.db", CLOCK)
    assert (copy.tasks, copy.unfinished, copy.drifts) == (5, 4, None)
    with closing(sqlite3.connect(tmp_path / "copy.db")) as connection:
        assert connection.execute("SELECT MAX(version) FROM schema_migrations").fetchone() == (2,)
    restored = restore(tmp_path / "new", tmp_path / "copy.db", CLOCK)
    assert (restored.copy.tasks, restored.copy.drifts) == (5, 0)


@pytest.mark.parametrize("room", [0, 4_096, 40_000])
def test_no_space_for_a_copy(data: Path, tmp_path: Path, room: int) -> None:
    """A full disk is told by its folder; nothing half is left, nothing that was there has changed."""
    before = _files(data)
    copies = tmp_path / "copies"
    copies.mkdir()
    with owned(copies) as disk:
        disk.room = room
        with pytest.raises(StoreFull, match=r"No space left in .*copies"):
            back_up(data, copies / "copy.db", CLOCK)
        assert disk.refused
        assert not list(copies.iterdir())
        disk.room = None
        back_up(data, copies / "copy.db", CLOCK)
    with owned(data) as disk:
        disk.room = room
        with pytest.raises(StoreFull, match=r"No space left in .*data"):
            restore(data, copies / "copy.db", CLOCK)
        assert disk.refused
        assert _files(data) == before
        disk.room = None
        restore(data, copies / "copy.db", CLOCK)
    assert _tasks(data / DATABASE_NAME) == ["t"]


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("job", "ends"), [("restore", (["t"], ["t"])), ("backup", (["later", "t"], ["later", "t"]))]
)
async def test_killed_at_every_step(
    data: Path, tmp_path: Path, job: str, ends: tuple[list[str], list[str]]
) -> None:
    """The database is the old one or the new one, whole, with the log of a crash beside it; so is the copy."""
    origin = tmp_path / "origin"
    origin.mkdir()
    back_up(data, origin / "copy.db", CLOCK)
    store = SqliteStore(data, CLOCK)
    await accepted(store, "later")
    shutil.copytree(data, origin / "data")  # a process that was killed leaves its log
    await store.close()
    ran = subprocess.run(  # noqa: ASYNC221, S603
        [sys.executable, "-m", "tests.support.dying", job, origin],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert ran.returncode == 0, ran.stderr
    *deaths, lived = [json.loads(line) for line in ran.stdout.splitlines()]
    assert len(deaths) > 10
    assert lived == [0, *ends, 0]
    for code, tasks, copied, again in deaths:
        assert (code, again) == (137, 0)
        assert tasks in (["later", "t"], ends[0])
        assert copied in (["t"], ends[1])
