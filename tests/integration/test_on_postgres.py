"""The whole service on PostgreSQL."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.service import Running, started


@pytest.fixture
async def bursar(tmp_path: Path, database_url: str) -> AsyncIterator[Running]:
    """A service whose rows are in PostgreSQL."""
    async with started(tmp_path, database_url=database_url) as running:
        yield running


def _files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


async def test_tasks_from_post_to_answer(bursar: Running, tmp_path: Path) -> None:
    """Tasks run, cost what the simulator bills, and leave nothing in the data directory."""
    accepted = await asyncio.gather(
        *(bursar.submit(f"Say {n}.", session_id="s") for n in range(30))
    )
    ended = [await bursar.finished(task["id"]) for task in accepted]
    assert {task["status"] for task in ended} == {"succeeded"}
    ((found,),) = [
        tuple(row.values())
        for row in bursar.rows("SELECT SUM(spent_nano) FROM accounts WHERE scope = 'task'")
    ]
    assert int(found) == bursar.simulator.bill.total.nano
    usage = (await bursar.client.get("/sessions/s/usage")).json()
    assert usage["calls"] == 30
    kinds = [event["type"] for event in await bursar.events(accepted[0]["id"])]
    assert kinds[0] == "task_accepted"
    assert kinds[-1] == "task_finished"
    assert not _files(tmp_path)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/tasks/%00"),
        ("GET", "/tasks/a%00b/events"),
        ("POST", "/tasks/%00/cancel"),
        ("GET", "/sessions/%00"),
        ("GET", "/sessions/%00/usage"),
        ("GET", "/tasks?session_id=%00"),
        ("GET", "/tasks?cursor=%00"),
        ("GET", "/usage?group_by=%00"),
        ("GET", "/tasks/%ED%A0%80"),
    ],
)
async def test_text_that_no_row_can_have(bursar: Running, method: str, path: str) -> None:
    """It is refused as in the embedded store: nothing is found, or the request is wrong."""
    answer = await bursar.client.request(method, path)
    assert answer.status_code in {400, 404, 422}, answer.text
