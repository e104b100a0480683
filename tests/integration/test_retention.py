"""BURSAR_RETENTION_DAYS in a whole service, and `python -m app prune`: content goes, every sum stays."""

import asyncio
import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from app.__main__ import main
from app.doctor.examination import examine
from tests.support.service import Running, started

DAY_US = 86_400 * 1_000_000
USAGE = "/usage?from=1970-01-02&to=2100-01-01&group_by="


async def _sums(bursar: Running) -> list[Any]:
    paths = [USAGE + by for by in ("day", "model", "session", "key", "agent")]
    paths += ["/sessions/s/usage", "/sessions/s/ledger?limit=1000"]
    found = [(await bursar.client.get(path)).json() for path in paths]
    for sums in found:
        sums.pop("by_task", None)  # it lists the tasks that are there
    return found


def _age(folder: Path, task_id: str, days: int) -> None:
    """As if all of the task had happened so many days ago."""
    with closing(sqlite3.connect(folder / "bursar.db")) as connection:
        connection.execute(
            "UPDATE tasks SET created_at_us = created_at_us - ?1, finished_at_us = finished_at_us - ?1"
            " WHERE id = ?2",
            (days * DAY_US, task_id),
        )
        connection.commit()


def _has(folder: Path, word: bytes) -> bool:
    return any(word in path.read_bytes() for path in folder.glob("bursar.db*"))


async def _history(folder: Path) -> tuple[str, str, list[Any]]:
    """An old and a young task of one session, and the sums over both."""
    async with started(folder) as bursar:
        old = await bursar.run("Mind the canary.", session_id="s", agent="a")
        young = await bursar.run(session_id="s")
        sums = await _sums(bursar)
    _age(folder, old["id"], 9)
    return old["id"], young["id"], sums


async def test_the_service_takes_old_tasks_away(tmp_path: Path) -> None:
    """The task is a 404 and no byte of it is left; usage, session and ledger answer as before."""
    old, young, sums = await _history(tmp_path)
    async with started(tmp_path, retention_days=7) as bursar:
        async with asyncio.timeout(20):
            while (await bursar.client.get(f"/tasks/{old}")).status_code != 404:
                pass
            while _has(tmp_path, b"canary"):
                await bursar.client.get("/readyz")
        assert (await bursar.client.get(f"/tasks/{old}/events")).status_code == 404
        assert (await bursar.client.delete(f"/tasks/{old}")).status_code == 404
        assert (await bursar.client.get(f"/tasks/{young}")).status_code == 200
        assert await _sums(bursar) == sums
        assert (await bursar.client.get("/sessions/s")).json()["tasks"] == 2
        assert (await bursar.run(session_id="s"))["status"] == "succeeded"
    assert examine(tmp_path).sound


async def test_nothing_goes_unasked(tmp_path: Path) -> None:
    """Without a setting every task is kept."""
    old, _, sums = await _history(tmp_path)
    async with started(tmp_path) as bursar:
        assert (await bursar.client.get(f"/tasks/{old}")).status_code == 200
        assert await _sums(bursar) == sums


async def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the days it is given or the setting in force; without either it says what is missing."""
    old, young, _ = await _history(tmp_path)
    monkeypatch.setenv("BURSAR_DATA_DIR", str(tmp_path))
    assert await asyncio.to_thread(main, ["prune"]) == 2
    assert "--days" in capsys.readouterr().err
    monkeypatch.setenv("BURSAR_RETENTION_DAYS", "10")
    assert await asyncio.to_thread(main, ["prune"]) == 0
    assert capsys.readouterr().out.startswith("0 tasks that ended more than 10 days ago")
    assert await asyncio.to_thread(main, ["prune", "--days", "8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["tasks"], told["days"]) == (1, 8)
    with closing(sqlite3.connect(tmp_path / "bursar.db")) as connection:
        assert connection.execute("SELECT id FROM tasks").fetchall() == [(young,)]
        assert connection.execute("SELECT id FROM pruned_tasks").fetchall() == [(old,)]


@pytest.mark.parametrize("days", ["0", "-1", "36501", "x"])
def test_no_such_days(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    """They are refused before anything is opened."""
    with pytest.raises(SystemExit) as stopped:
        main(["prune", f"--days={days}"])
    assert stopped.value.code == 2
    assert "--days" in capsys.readouterr().err
