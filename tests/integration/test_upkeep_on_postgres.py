"""Erasure, retention and the doctor over PostgreSQL: the same answers as over the embedded database."""

import asyncio
import json
from pathlib import Path
from typing import Any

import psycopg
import pytest

from app.__main__ import main
from app.doctor.examination import examine
from tests.support.service import Running, started

CANARY = "canary-7c1f"
DAY_US = 86_400 * 1_000_000


async def _sums(bursar: Running) -> list[Any]:
    paths = ["/usage?from=1970-01-02&to=2100-01-01&group_by=model", "/sessions/s/ledger?limit=1000"]
    return [(await bursar.client.get(path)).json() for path in paths]


async def test_erased_then_pruned(
    tmp_path: Path,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No row has the content of an erased task; `prune` takes old ones away beside the service, sums stay."""
    monkeypatch.setenv("BURSAR_DATABASE_URL", database_url)
    async with started(tmp_path, database_url=database_url) as bursar:
        text = f'Mind the {CANARY}. [[sim {{"steps": 1}}]]'
        task = await bursar.run(text, session_id="s", tools=["text_stats"], system=CANARY)
        kept = await bursar.run(session_id="s")
        assert (await bursar.client.delete(f"/tasks/{task['id']}")).status_code == 204
        with psycopg.connect(database_url, autocommit=True) as connection:
            for table in ("tasks", "events"):
                rows = connection.execute(f"SELECT t::TEXT FROM {table} AS t").fetchall()  # noqa: S608
                assert rows
                assert CANARY not in repr(rows)
            bodies = "SELECT COUNT(*) FROM events WHERE subject = %s AND body IS NOT NULL"
            assert connection.execute(bodies, [task["id"]]).fetchone() == (0,)
            assert examine(database_url).sound
            sums = await _sums(bursar)
            connection.execute(
                "UPDATE tasks SET created_at_us = created_at_us - %s, finished_at_us = finished_at_us - %s"
                " WHERE id = %s",
                [9 * DAY_US, 9 * DAY_US, task["id"]],
            )
        assert await asyncio.to_thread(main, ["prune", "--days", "7", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["tasks"] == 1
        assert (await bursar.client.get(f"/tasks/{task['id']}")).status_code == 404
        assert (await bursar.client.get(f"/tasks/{kept['id']}")).status_code == 200
        assert await _sums(bursar) == sums
        assert await asyncio.to_thread(main, ["doctor", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["counts"] == {}
