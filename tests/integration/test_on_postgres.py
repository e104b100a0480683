"""The whole service on PostgreSQL."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import psycopg
import pytest

from app.__main__ import main
from app.domain.clock import US_PER_S, SystemClock
from app.settings import load
from tests.support.postgres import Server
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


class TestCommands:
    """The commands work on the database that the settings name."""

    def test_keys_and_books(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """A key is made, listed and revoked; the doctor and the repricing read the same database."""
        monkeypatch.setenv("BURSAR_DATABASE_URL", database_url)
        assert main(["keys", "create", "--owner", "acme", "--daily-usd", "3", "--json"]) == 0
        key = json.loads(capsys.readouterr().out)
        assert main(["keys", "revoke", key["id"]]) == 0
        capsys.readouterr()
        assert main(["keys", "list", "--json"]) == 0
        (listed,) = json.loads(capsys.readouterr().out)
        assert (listed["id"], listed["enabled"], listed["daily_budget_usd"]) == (
            key["id"],
            False,
            3.0,
        )
        assert main(["doctor"]) == 0
        assert capsys.readouterr().out.startswith("0 drifts in ")

    def test_a_drift_is_found(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """One nano-dollar in a balance that no line explains."""
        monkeypatch.setenv("BURSAR_DATABASE_URL", database_url)
        with psycopg.connect(database_url) as connection:
            connection.execute(
                "INSERT INTO accounts (scope, id, owner, limit_nano, ceiling_nano, spent_nano)"
                " VALUES ('session', 'acme/s', 'acme', 5, 5, 1)"
            )
        assert main(["doctor"]) == 1
        assert "session acme/s: spent is 0.000000001 USD" in capsys.readouterr().err

    @pytest.mark.parametrize("command", [["doctor"], ["keys", "list"]])
    def test_nothing_there(
        self,
        postgres: Server,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        command: list[str],
    ) -> None:
        """Looking makes no schema."""
        url = postgres.create()
        monkeypatch.setenv("BURSAR_DATABASE_URL", url)
        assert main(command) == 1
        assert "There is nothing of Bursar's in the PostgreSQL database" in capsys.readouterr().err
        postgres.drop(url)

    def test_no_password_is_shown(
        self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """`config` masks the whole address; the log's filter knows the password by itself."""
        monkeypatch.setenv("BURSAR_DATABASE_URL", "postgresql://me:secret%2Dword@db/books")
        assert main(["config"]) == 0
        assert "secret" not in capsys.readouterr().out
        assert {"secret%2Dword", "secret-word"} <= set(load().secrets())


@pytest.mark.parametrize("ahead_s", [7_200, -7_200])
async def test_a_machine_whose_clock_is_wrong(
    tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch, ahead_s: int
) -> None:
    """Instants are the database's: its tasks have their time, and what is handed back goes on at once."""
    right = SystemClock.now_us
    monkeypatch.setattr(SystemClock, "now_us", lambda self: right(self) + ahead_s * US_PER_S)
    async with started(tmp_path, database_url=database_url, park_after_s=0.05) as bursar:
        limited = {"kind": "rate_limit", "retry_after": 0.2}
        bursar.script(limited)
        task = await bursar.submit("Say it.", deadline_s=60)
        ended = await bursar.finished(task["id"])
        assert ended["outcome"] == "answered", ended
        kinds = [event["type"] for event in await bursar.events(task["id"])]
        assert "task_requeued" in kinds, "it was given back for a while"
        (stamped,) = bursar.rows(
            "SELECT now() - to_timestamp(created_at_us / 1e6) AS age FROM tasks"
        )
        assert abs(stamped["age"].total_seconds()) < 600
