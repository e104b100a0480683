"""The doctor sees every balance that is not the sum of its lines, and nothing else."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from app.__main__ import main
from app.budget.audit import audit
from app.budget.ledger import Attempt, Kind, reserve, settle
from app.doctor.examination import SECOND_LOOK_S, examine
from app.domain.clock import SystemClock
from app.domain.errors import StoreCorrupt, StoreUnavailable
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME, connect
from app.store.sqlite_tx import SqliteTx
from tests.conformance.amount_damage import AMOUNT_DAMAGE
from tests.support.seeding import accepted, claimed, scopes_of


async def _books(folder: Path) -> None:
    """One settled and one open reservation."""
    store = SqliteStore(folder, SystemClock())
    try:
        claim = await claimed(store)
        scopes = scopes_of(claim.subject)
        first, second = (Attempt(claim.subject, step, 1, "m", "p") for step in (1, 2))
        assert await store.write(lambda tx: reserve(tx, first, scopes, 100)) is None
        await store.write(lambda tx: settle(tx, first.id, Kind.CONFIRMED, 130))
        assert await store.write(lambda tx: reserve(tx, second, scopes, 70)) is None
    finally:
        await store.close()


async def test_sound_books_have_no_drift(tmp_path: Path) -> None:
    """Settled, surplus and held money alike."""
    await _books(tmp_path)
    report = examine(tmp_path)
    assert (report.accounts, report.lines, report.drifts) == (2, 3, ())


@pytest.mark.parametrize("column", ["spent_nano", "reserved_nano", "surplus_nano"])
@pytest.mark.parametrize("scope", ["task", "session"])
async def test_a_balance_that_was_touched_is_named(tmp_path: Path, column: str, scope: str) -> None:
    """One nano-dollar is enough."""
    await _books(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute(f"UPDATE accounts SET {column} = {column} + 1 WHERE scope = ?", [scope])  # noqa: S608
        connection.commit()
    (drift,) = examine(tmp_path).drifts
    assert drift.startswith(f"{scope} ")
    assert column.removesuffix("_nano") in drift


@pytest.mark.parametrize("column", ["calls", "spent_nano", "confirmed_nano", "cache_read_tokens"])
async def test_a_sum_of_a_session_that_was_touched_is_named(tmp_path: Path, column: str) -> None:
    """Money as money, numbers as numbers."""
    await _books(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute(f"UPDATE session_usage SET {column} = {column} + 1")  # noqa: S608
        connection.commit()
    (drift,) = examine(tmp_path).drifts
    assert drift.startswith(f"session local/s: m: {column.removesuffix('_nano')} is ")
    assert ("USD" in drift) is column.endswith("_nano")


async def test_money_that_is_no_whole_number(tmp_path: Path) -> None:
    """A fraction, text or bytes in any column of money is named; what it is taken for upsets no sum."""
    await _books(tmp_path)
    with closing(connect(tmp_path / DATABASE_NAME)) as connection:
        for said, statement in AMOUNT_DAMAGE:
            connection.execute("BEGIN")
            connection.execute(statement)
            found = audit(SqliteTx(connection.cursor(), 0)).broken
            assert [f"{b.where}: {b.column} is {b.value}" for b in found] == [said]
            connection.execute("ROLLBACK")
        connection.execute(AMOUNT_DAMAGE[0][1])
    (finding,) = examine(tmp_path).findings.shown
    assert finding.sentence == (
        "account task t: spent_nano is 0.5, which is no whole number of nano-dollars."
    )


async def test_a_damaged_file_has_no_books(tmp_path: Path) -> None:
    """However large it is: a start examines small ones only."""
    await _books(tmp_path)
    path = tmp_path / DATABASE_NAME
    content = bytearray(path.read_bytes())
    content[-4_096:] = b"\xff" * 4_096
    path.write_bytes(content)
    with pytest.raises(StoreCorrupt):
        examine(tmp_path)


def test_no_database(tmp_path: Path) -> None:
    """Nothing is made by looking."""
    with pytest.raises(StoreUnavailable):
        examine(tmp_path)
    assert not list(tmp_path.iterdir())


async def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 and two lines for a sound store; 1 and a sentence a finding with what to do; JSON for programs."""
    await _books(tmp_path)
    monkeypatch.setenv("BURSAR_DATA_DIR", str(tmp_path))
    assert main(["doctor"]) == 0
    assert capsys.readouterr() == (
        "0 drifts in 2 accounts over 3 lines\n0 findings in 1 tasks with 2 journal entries\n",
        "",
    )
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("UPDATE tasks SET step_count = 3")
        connection.commit()
    assert main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["tasks"], found["events"], found["drifts"]) == (1, 2, [])
    assert found["counts"] == {"journal-steps": 1}
    (finding,) = found["findings"]
    assert finding["sentence"] == "Task t (running) counts 3 steps, its journal 0 answers."
    assert err == f"bursar: {finding['sentence']} {finding['advice']}\n"


async def test_a_line_that_stands_is_looked_at_twice(tmp_path: Path) -> None:
    """What has moved by the second look was none; a store without such a finding is looked at once."""
    await _books(tmp_path)
    store = SqliteStore(tmp_path, SystemClock())
    await accepted(store, "x")
    await store.close()
    waits: list[float] = []
    assert examine(tmp_path, waits.append).sound
    assert waits == []
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)) as connection:
        connection.execute("UPDATE events SET at_us = at_us - 400000000")
        connection.execute("UPDATE workers SET slots = 2, started_at_us = 1")
        connection.execute("UPDATE tasks SET available_at_us = 1")
        assert examine(tmp_path, waits.append).findings.counts == {"queue-unclaimed": 1}
        assert waits == [SECOND_LOOK_S]
        taken = "UPDATE tasks SET available_at_us = 1 << 60 WHERE id = 'x'"
        assert examine(tmp_path, lambda _: connection.execute(taken)).sound


async def test_a_schema_of_another_version(tmp_path: Path) -> None:
    """An older one is brought up to date by the service; until then there is nothing to compare with."""
    await _books(tmp_path)
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection:
        connection.execute("DELETE FROM schema_migrations WHERE version > 1")
        connection.commit()
    with pytest.raises(StoreUnavailable, match="start the service first"):
        examine(tmp_path)
