"""The embedded store's file: full, damaged, in use, too new, and what a commit means."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from app.domain.errors import (
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreInUse,
    StoreTooNew,
    StoreUnavailable,
)
from app.store.port import Tx
from app.store.queries import load_migrations
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import (
    DATABASE_NAME,
    connect,
    connect_again,
    migrate,
    statements_of,
    store_error,
)
from tests.support.clock import FakeClock

OPENS_IT = """
import sys
from pathlib import Path
from app.domain.clock import SystemClock
from app.store.sqlite import SqliteStore
SqliteStore(Path(sys.argv[1]), SystemClock())
"""


def append(tx: Tx, subject: str, body: bytes | None = None) -> None:
    """Write an event."""
    tx.one("append_event", subject=subject, type="x", at_us=1, run=0, data="{}", body=body)


async def count(store: SqliteStore, subject: str) -> int:
    """How many events a subject has."""
    rows = await store.read(lambda tx: tx.all("read_events", subject=subject, after=0, limit=999))
    return len(rows)


def limit_pages(store: SqliteStore, more: int) -> None:
    """Let the file grow by `more` pages at most."""
    pages = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count={pages + more}")


async def test_full_disk_fails_the_whole_batch_and_later_writes_work(store):
    """No space: every operation of the batch fails, nothing of it is kept; with space, writes work."""
    facts: list[object] = []
    store.listener = facts.extend
    await store.write(lambda tx: append(tx, "before"))
    limit_pages(store, 4)

    def op_of(subject: str, size: int) -> Any:
        def op(tx: Tx) -> None:
            append(tx, subject, b"x" * size)
            tx.after_commit(subject)

        return op

    results = await asyncio.gather(
        store.write(op_of("small", 1)),
        store.write(op_of("large", 500_000)),
        store.write(op_of("later", 1)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [StoreFull] * 3
    assert facts == []
    kept = [await count(store, name) for name in ("before", "small", "large", "later")]
    assert kept == [1, 0, 0, 0]
    await store.write(op_of("small", 1))
    limit_pages(store, 10_000)
    await store.write(op_of("large", 500_000))
    assert facts == ["small", "large"]
    assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


async def test_file_is_whole_after_many_full_disks(store):
    """Running out of space again and again leaves a healthy file with exactly what was acknowledged."""
    kept = 0
    for round_number in range(20):
        limit_pages(store, round_number % 5)
        results = await asyncio.gather(
            *(store.write(lambda tx: append(tx, "s", b"y" * 3_000)) for _ in range(5)),
            return_exceptions=True,
        )
        for result in results:
            assert result is None or isinstance(result, StoreFull)
        kept += results.count(None)
    assert await count(store, "s") == kept
    assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


async def test_commits_are_written_through(store):
    """Every connection is in WAL mode with synchronous=FULL: an answered write is on the disk."""
    row = store._connection.execute("PRAGMA synchronous").fetchone()
    mode = store._connection.execute("PRAGMA journal_mode").fetchone()
    assert (row[0], mode[0]) == (2, "wal")


async def test_a_closed_store_lets_go_of_its_files(tmp_path):
    """Also when its last statement was half read as the disk was full: the last one out takes the log with it."""
    store = SqliteStore(tmp_path, FakeClock())
    log = tmp_path / f"{DATABASE_NAME}-wal"
    store._cursor.execute("SELECT 1 UNION SELECT 2").fetchone()
    assert log.exists()
    await store.close()
    assert not log.exists()


async def test_second_store_in_one_process_is_refused(store, folder):
    """The folder has one owner; it is free again once the store is closed."""
    with pytest.raises(StoreInUse, match="in use by another process"):
        SqliteStore(folder, FakeClock())
    await store.close()
    again = SqliteStore(folder, FakeClock())
    await again.close()


async def test_second_process_is_refused(store, folder):
    """Another process hears who holds the folder, and the store works on."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", OPENS_IT, str(folder)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert done.returncode != 0
    assert "StoreInUse" in done.stderr
    assert "(pid " in done.stderr
    await store.write(lambda tx: append(tx, "s"))


async def test_two_thousand_operations_are_more_than_one_batch(store):
    """A batch is bounded; what does not fit in it follows in the next."""
    commits: list[int] = []
    store.listener = lambda facts: commits.append(len(facts))
    await asyncio.gather(*(store.write(lambda tx: tx.after_commit(1)) for _ in range(2_000)))
    assert sum(commits) == 2_000
    assert max(commits) == 512


class RefusedError(Exception):
    """What an operation says that is not carried out."""


@pytest.mark.parametrize(("writes", "runs"), [(False, 1), (True, 2)])
async def test_a_refusal_makes_its_commit_start_over_only_after_a_write(store, writes, runs):
    """What came before it in the commit is kept once, what it wrote is undone, and each is told of once."""
    told: list[object] = []
    ran: list[str] = []
    store.listener = told.extend

    def kept(name: str) -> Any:
        def op(tx: Tx) -> str:
            ran.append(name)
            append(tx, name)
            tx.after_commit(name)
            return name

        return op

    def refused(tx: Tx) -> None:
        ran.append("refused")
        if writes:
            append(tx, "refused")
        tx.after_commit("refused")
        raise RefusedError

    blocker = store.write(lambda _tx: None)  # while it is written, the others gather
    results = await asyncio.gather(
        blocker,
        store.write(kept("before")),
        store.write(refused),
        store.write(kept("after")),
        return_exceptions=True,
    )
    assert results[1] == "before"
    assert isinstance(results[2], RefusedError)
    assert results[3] == "after"
    assert told == ["before", "after"]
    assert ran.count("before") == runs
    assert [await count(store, name) for name in ("before", "refused", "after")] == [1, 0, 1]


async def test_rows_of_a_statement_that_was_not_read_to_its_end_are_undone(store):
    """SQLite counts what a statement changed only at its end: an operation that raises before leaves nothing."""

    def unread(tx: Any) -> None:
        append(tx, "other")
        append(tx, "other")

    await store.write(unread)

    def refused(tx: Any) -> None:
        changed = tx._cursor.execute("UPDATE events SET type = 'y' RETURNING seq")
        assert changed.fetchone() is not None
        raise RefusedError

    with pytest.raises(RefusedError):
        await store.write(refused)
    rows = await store.read(lambda tx: tx.all("read_events", subject="other", after=0, limit=9))
    assert [row["type"] for row in rows] == ["x", "x"]


async def test_a_hung_default_pool_stops_no_commit(store):
    """The store has threads of its own: tools or name look-ups that hang elsewhere are no matter."""
    loop, gate = asyncio.get_running_loop(), threading.Event()
    hung = [loop.run_in_executor(None, gate.wait, 30) for _ in range(64)]
    try:
        async with asyncio.timeout(10):
            await store.write(lambda tx: append(tx, "s"))
            assert await count(store, "s") == 1
    finally:
        gate.set()
        await asyncio.gather(*hung)


@pytest.mark.parametrize(
    "damage", [b"this is not a database, it is a letter" * 200, b"x" * 600, b"a note\n"]
)
def test_file_that_is_no_database_is_refused(folder, damage):
    """Foreign bytes where the database should be: refused at the start, the folder is free again."""
    folder.mkdir()
    (folder / DATABASE_NAME).write_bytes(damage)
    for _ in range(2):
        with pytest.raises(StoreCorrupt, match="is not a database"):
            SqliteStore(folder, FakeClock())
    assert (folder / DATABASE_NAME).read_bytes() == damage


async def test_damaged_database_is_refused_at_the_start(folder):
    """A page full of noise in an existing database is found when it is opened."""
    store = SqliteStore(folder, FakeClock())
    for _ in range(50):
        await store.write(lambda tx: append(tx, "s", b"z" * 2_000))
    await store.close()
    path = folder / DATABASE_NAME
    data = bytearray(path.read_bytes())
    data[4_096 * 4 : 4_096 * 12] = b"\xa5" * (4_096 * 8)
    path.write_bytes(data)
    with pytest.raises(StoreCorrupt):
        SqliteStore(folder, FakeClock())


async def test_a_large_database_is_not_examined_at_the_start(folder):
    """Its damage does not show until the page is needed: a restart must not take minutes."""
    store = SqliteStore(folder, FakeClock())
    for number in range(50):
        await store.write(partial(append, subject=f"s{number}", body=b"z" * 6_000))
    await store.close()
    path = folder / DATABASE_NAME
    data = bytearray(path.read_bytes())
    data[-4_096 * 2 :] = b"\xa5" * (4_096 * 2)
    path.write_bytes(data)
    connection = connect(path)
    with pytest.raises(StoreCorrupt):
        migrate(connection, path, 0)
    migrate(connection, path, 0, examined_limit_bytes=len(data) - 1)
    connection.close()


async def test_newer_schema_is_refused_untouched(folder):
    """A file of a newer version is neither used nor changed."""
    await SqliteStore(folder, FakeClock()).close()
    newer = len(load_migrations()) + 1
    with sqlite3.connect(folder / DATABASE_NAME) as connection:
        connection.execute("INSERT INTO schema_migrations VALUES (?, 'later', 0)", (newer,))
    connection.close()
    with pytest.raises(StoreTooNew, match=f"schema version {newer}"):
        SqliteStore(folder, FakeClock())


async def test_migrations_apply_once(folder):
    """An empty file gets the whole schema; opening it again changes nothing."""
    schemas = []
    for _ in range(3):
        store = SqliteStore(folder, FakeClock())
        rows = store._connection.execute(
            "SELECT type, name, sql FROM sqlite_schema ORDER BY type, name"
        )
        schemas.append([tuple(row) for row in rows])
        applied = store._connection.execute(
            "SELECT version, name, applied_at_us FROM schema_migrations"
        ).fetchall()
        assert [tuple(row) for row in applied] == [
            (version, name, FakeClock().now_us()) for version, name, _ in load_migrations()
        ]
        await store.close()
    assert schemas[0] == schemas[1] == schemas[2]
    assert {"tasks", "accounts", "events", "ledger_lines", "sessions"} <= {
        name for kind, name, _ in schemas[0] if kind == "table"
    }


def test_every_statement_of_a_migration_is_run():
    """Cutting a script into statements loses none, and leaves none unfinished."""
    for _, name, script in load_migrations():
        statements = statements_of(script)
        assert all(sqlite3.complete_statement(statement) for statement in statements)
        assert "".join("".join(statements).split()) == "".join(script.split()), name


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir])
def test_unusable_data_directory_is_one_clear_error(tmp_path, make):
    """A file where the folder should be, or a folder where the database should be: StoreError."""
    folder = tmp_path / "data"
    if make is Path.mkdir:
        (folder / DATABASE_NAME).mkdir(parents=True)
    else:
        make(folder)
    with pytest.raises(StoreUnavailable, match=str(folder)):
        SqliteStore(folder, FakeClock())


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (sqlite3.SQLITE_FULL, StoreFull),
        (sqlite3.SQLITE_CORRUPT, StoreCorrupt),
        (sqlite3.SQLITE_CORRUPT_INDEX, StoreCorrupt),
        (sqlite3.SQLITE_NOTADB, StoreCorrupt),
        (sqlite3.SQLITE_BUSY, StoreUnavailable),
        (sqlite3.SQLITE_IOERR_FSYNC, StoreUnavailable),
        (sqlite3.SQLITE_READONLY, StoreUnavailable),
        (None, StoreUnavailable),
    ],
)
def test_errors_of_sqlite_in_our_words(tmp_path, code, kind):
    """Each code becomes its own error; what is not known may pass."""
    error = sqlite3.OperationalError("boom")
    if code is not None:
        error.sqlite_errorcode = code
    found = store_error(error, tmp_path)
    assert type(found) is kind
    assert isinstance(found, StoreError)
    assert str(tmp_path) in str(found)


async def test_someone_elses_lock_is_an_error_that_passes(store, folder):
    """While another program holds the write lock the write fails as a whole, and works afterwards."""
    store._connection.execute("PRAGMA busy_timeout=1")
    other = connect(folder / DATABASE_NAME)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreUnavailable):
        await store.write(lambda tx: append(tx, "s"))
    other.execute("ROLLBACK")
    other.close()
    await store.write(lambda tx: append(tx, "s"))
    assert await count(store, "s") == 1


async def test_killed_process_leaves_what_was_acknowledged(folder):
    """After a kill in the middle of writing, every acknowledged write is there and the file is whole."""
    script = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from app.domain.clock import SystemClock\n"
        "from app.store.sqlite import SqliteStore\n"
        "async def main():\n"
        "    store = SqliteStore(Path(sys.argv[1]), SystemClock())\n"
        "    for n in range(10**6):\n"
        "        await store.write(lambda tx: tx.one('append_event', subject='s', type='x', at_us=1,"
        " run=0, data='{}', body=None))\n"
        "        print(n + 1, flush=True)\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        script,
        str(folder),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert process.stdout is not None
    for _ in range(50):
        await process.stdout.readline()
    process.kill()
    printed = (await process.stdout.read()).splitlines()
    await process.wait()
    acknowledged = 50 + sum(1 for line in printed if line.strip().isdigit())
    store = SqliteStore(folder, FakeClock())
    try:
        assert acknowledged <= await count(store, "s") <= acknowledged + 1
        assert store._connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    finally:
        await store.close()


async def test_the_log_is_emptied_unless_somebody_reads(store: SqliteStore, folder: Path) -> None:
    """Nobody is waited for: a reader of an earlier state makes it fail at once, and then it works."""
    log = folder / f"{DATABASE_NAME}-wal"
    await store.write(lambda tx: tx.run("open_session", owner="o", id="one", now_us=1))
    reader = connect_again(folder / DATABASE_NAME, read_only=True)
    reader.execute("BEGIN")
    reader.execute("SELECT COUNT(*) FROM sessions").fetchone()
    await store.write(lambda tx: tx.run("open_session", owner="o", id="two", now_us=1))
    assert await store.empty_log() is False
    assert log.stat().st_size > 0
    reader.close()
    assert await store.empty_log() is True
    assert log.stat().st_size == 0
    await store.write(lambda tx: tx.run("open_session", owner="o", id="three", now_us=1))
    await store.close()
    with pytest.raises(StoreUnavailable):
        await store.empty_log()
