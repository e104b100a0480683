"""Backup beside a busy service and the way back: real processes, the command line, one data directory."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.client import all_ended, ended, requests_of, set_faults, submit
from tests.support.process import Ended, Service, run, service, simulator

_WORK: dict[str, Any] = {
    "task": 'Work. [[sim {"steps": 3}]]',
    "tools": ["text_stats"],
    "complexity": "simple",
}


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def bursar(tmp_path: Path, upstream: httpx.AsyncClient) -> AsyncIterator[Service]:
    """A service over it, running."""
    settings = {"BURSAR_SESSION_BUDGET_USD": "500", "BURSAR_WORKERS": "8"}
    async with service(tmp_path, str(upstream.base_url), **settings) as made:
        await made.start()
        yield made


async def _command(bursar: Service, *arguments: str) -> Ended:
    return await run(*arguments, cwd=bursar.folder, timeout_s=40)


def _rows(path: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


class _Posters:
    """Clients that keep posting, each when its last task has ended, until they are told to stop."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self.accepted: list[str] = []
        self.stopping = False

    async def run(self) -> None:
        """Post, four at a time."""
        await asyncio.gather(*(self._one() for _ in range(4)))

    async def _one(self) -> None:
        while not self.stopping:
            self.accepted.append(await submit(self._client, _WORK))
            await ended(self._client, self.accepted[-1])


async def _hanging(client: httpx.AsyncClient, upstream: httpx.AsyncClient) -> str:
    """A task in flight for as long as this process of the service lives."""
    await set_faults(upstream, {"kind": "timeout"})
    task_id = await submit(client, _WORK)
    while not await requests_of(upstream):
        pass
    return task_id


@pytest.mark.timeout(180)
async def test_a_backup_under_load_and_the_way_back(
    bursar: Service, upstream: httpx.AsyncClient
) -> None:
    """The copy is one instant of a busy service, and a service goes on from it: every task in it ends once."""
    async with bursar.client() as client:
        hanging = await _hanging(client, upstream)
        posters = _Posters(client)
        posting = asyncio.create_task(posters.run())
        await ended(client, await submit(client, _WORK))
        before = {hanging, *posters.accepted}
        backup = await _command(bursar, "backup", "copy.db", "--json")
        busy = await _command(bursar, "doctor")  # beside a service that has calls in flight
        posters.stopping = True
        await posting
    assert busy.code == 0, busy.err
    in_copy = _check_copy(bursar, backup, before)
    await bursar.child.kill()  # its write-ahead log stays behind
    restored = await _command(bursar, "restore", "copy.db", "--json")
    assert restored.code == 0, restored.err
    assert "were paid for, no budget counts them" in restored.err
    found = json.loads(restored.out)
    assert (bursar.folder / found["replaced"]).is_file()
    assert found["forgotten"]["tasks"] > 0

    await bursar.start()
    async with bursar.client() as client:
        later = await submit(client, _WORK)
        await all_ended(client, in_copy | {later})
    doctor = await _command(bursar, "doctor")
    assert doctor.code == 0, doctor.err
    rows = _rows(
        bursar.database,
        "SELECT t.id, t.status, (SELECT COUNT(*) FROM events AS e WHERE e.subject = t.id AND"
        " e.type = 'task_finished') FROM tasks AS t",
    )
    assert {row[0] for row in rows} == in_copy | {later}
    assert {row[1:] for row in rows} == {("succeeded", 1)}


def _check_copy(bursar: Service, backup: Ended, before: set[str]) -> set[str]:
    """What is in the copy: all that had its 202 before, and what was printed of it."""
    assert backup.code == 0, backup.err
    told = json.loads(backup.out)
    found = {row[0] for row in _rows(bursar.folder / "copy.db", "SELECT id FROM tasks")}
    assert before <= found
    assert (told["tasks"], told["drifts"]) == (len(found), 0)
    assert told["unfinished_tasks"] > 0
    return found


async def test_the_commands_refuse_in_one_sentence(bursar: Service) -> None:
    """A running service, a file that is there, and a source that is none."""
    assert (await _command(bursar, "backup", "copy.db")).code == 0
    refused = await _command(bursar, "restore", "copy.db")
    assert refused.code == 1
    assert "in use by another process" in refused.err
    again = await _command(bursar, "backup", "copy.db")
    assert (again.code, again.err.count("\n")) == (1, 0)
    assert "--force" in again.err
    assert (await _command(bursar, "backup", "copy.db", "--force")).code == 0
    await bursar.stop()
    nothing = await _command(bursar, "restore", "none.db")
    assert nothing.code == 1
    assert nothing.err == "bursar: There is no file none.db."
