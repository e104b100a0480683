"""Somebody else holds the database's write lock: 503, unready but alive, nothing lost, back by itself."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.llm.anthropic_line import REFERENCE_HEADER
from app.store.port import Tx
from app.store.sqlite_file import DATABASE_NAME
from tests.acceptance.books import check_all, opened, read_books
from tests.support.loglines import LineChecker
from tests.support.service import Running, started

_BACK_S = 10.0
_TOOLS: dict[str, Any] = {"tools": ["calculator"], "complexity": "simple"}
_CLOCK = SystemClock()


@asynccontextmanager
async def _locked(bursar: Running, log_lines: LineChecker, held_s: float) -> AsyncIterator[None]:
    """Another program's write transaction, at least until the service has met it more than once."""
    with closing(sqlite3.connect(bursar.data_dir / DATABASE_NAME, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        since_s = _CLOCK.monotonic_s()
        yield
        while (
            _CLOCK.monotonic_s() < since_s + held_s
            or sum('"write_postponed"' in line for line in log_lines.lines) < 2
        ):
            await _refused(bursar)
        other.execute("ROLLBACK")


async def _refused(bursar: Running) -> None:
    """What everybody hears meanwhile."""
    answer = await bursar.client.post("/tasks", json={"task": "x"})
    assert (answer.status_code, answer.json()["type"]) == (
        503,
        "urn:bursar:problem:store-unavailable",
    )
    assert int(answer.headers["retry-after"]) > 0
    assert (await bursar.client.get("/healthz")).status_code == 200
    assert (await bursar.client.get("/tasks")).status_code == 200, "readers are not stopped"


def _impatient(tx: Tx) -> None:
    """Let a write give up on a lock at once, instead of after five seconds."""
    tx._cursor.connection.execute("PRAGMA busy_timeout=20")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("held_s", "impatient"), [(2.0, True), pytest.param(30.0, False, marks=pytest.mark.long)]
)
@pytest.mark.timeout(300)
async def test_a_foreign_write_lock(
    tmp_path: Path, log_lines: LineChecker, held_s: float, impatient: bool
) -> None:
    """Running calls are answered and written later, nobody is claimed, no call is made; then all goes on."""
    async with started(tmp_path, workers=2, grace_s=5.0) as bursar:
        if impatient:
            await bursar.service.store.write(_impatient)
        bursar.script({"kind": "latency", "delay_s": 0.3}, {"kind": "latency", "delay_s": 0.3})
        body = 'Work. [[sim {"steps": 2}]]'
        tasks = [await bursar.submit(body, **_TOOLS) for _ in range(8)]
        async with asyncio.timeout(60):
            while len(bursar.simulator.bill.lines) < 2:
                await _CLOCK.sleep(0.01)
        async with _locked(bursar, log_lines, held_s):
            probe = await bursar.client.get("/readyz")
            assert (probe.status_code, probe.json()["type"]) == (
                503,
                "urn:bursar:problem:store-unavailable",
            )
            assert len(bursar.simulator.log.seen) == 2
        assert len(bursar.simulator.log.seen) == 2, "no call without a reservation"
        since_s = _CLOCK.monotonic_s()
        while (await bursar.client.get("/readyz")).status_code != 200:
            assert _CLOCK.monotonic_s() - since_s < _BACK_S
        while len(bursar.simulator.log.seen) == 2:
            await _CLOCK.sleep(0.01)
            assert _CLOCK.monotonic_s() - since_s < _BACK_S, "at work again"
        for task in tasks:
            assert (await bursar.finished(task["id"]))["outcome"] == "answered"
        simulator = bursar.simulator
    path = tmp_path / DATABASE_NAME
    books = read_books(path, simulator.bill.as_json(with_lines=True))
    check_all(books, {task["id"] for task in tasks})
    assert len(books.tasks) == len(tasks), "a refused submission leaves nothing"
    assert len(books.bill) == 3 * len(tasks), "no answer is bought twice"
    assert {seen.headers[REFERENCE_HEADER] for seen in simulator.log.seen} == set(
        books.reservations
    )
    with opened(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
