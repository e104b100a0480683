"""The key commands beside a running service: real processes on one data directory."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.domain.clock import SystemClock
from tests.acceptance.client import ended, events_of, submit
from tests.support.process import Ended, Service, run, service, simulator

_CLOCK = SystemClock()
_POLL_S = 0.05
_SOON_S = 10
_WORK = 'Work. [[sim {"steps": 6}]]'
_PAUSING = {"task": _WORK, "tools": ["text_stats"], "on_budget": "pause"}
_USAGE_ERROR = 2


@dataclass(frozen=True)
class Place:
    """A service that runs, and the command line on its data directory."""

    service: Service

    async def keys(self, *arguments: str) -> Ended:
        """Run `keys …` to its end."""
        return await run("keys", *arguments, cwd=self.service.folder)

    async def done(self, *arguments: str) -> Any:
        """What `keys … --json` prints."""
        left = await self.keys(*arguments, "--json")
        assert left.code == 0, left.err
        return json.loads(left.out)

    def client(self, text: str | None = None) -> httpx.AsyncClient:
        """A client that sends this key."""
        client = self.service.client()
        if text is not None:
            client.headers["authorization"] = f"Bearer {text}"
        return client


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    """Simulator and service; no key yet."""
    async with simulator(tmp_path) as upstream, service(tmp_path, str(upstream.base_url)) as bursar:
        await bursar.start()
        yield Place(bursar)


async def _status_becomes(client: httpx.AsyncClient, path: str, status: int) -> None:
    async with asyncio.timeout(_SOON_S):
        while (await client.get(path)).status_code != status:
            await _CLOCK.sleep(_POLL_S)


async def _paused(client: httpx.AsyncClient, task_id: str) -> dict[str, Any]:
    async with asyncio.timeout(_SOON_S):
        while True:
            task: dict[str, Any] = (await client.get(f"/tasks/{task_id}")).json()
            if task["status"] == "paused":
                return task
            await _CLOCK.sleep(_POLL_S)


async def test_a_keys_life(place: Place) -> None:
    """Made while the service runs, it opens the door and closes it to others; revoked, it opens nothing."""
    async with place.client() as anybody:
        assert (await anybody.get("/tasks")).status_code == 200
        made = await place.done("create", "--owner", "acme", "--name", "nightly run")
        await _status_becomes(anybody, "/tasks", 401)
        async with place.client(made["key"]) as acme:
            task = await ended(acme, await submit(acme, {"task": "Say hello."}))
            assert task["status"] == "succeeded"
            revoked = await place.done("revoke", made["id"])
            assert (revoked["enabled"], revoked["id"]) == (False, made["id"])
            await _status_becomes(acme, "/tasks", 401)
        assert (await anybody.get("/tasks")).status_code == 401
        assert (await anybody.get("/readyz")).status_code == 200
    left = await place.service.stop()
    assert left.code == 0
    assert made["key"].encode() not in _on_disk(place.service.database.parent)
    assert made["key"] not in left.out + left.err


async def test_list_shows_no_secret(place: Place) -> None:
    """Neither text nor hash, as a table and as JSON; a key's text is shown when it is made, only then."""
    plain = await place.keys("create", "--owner", "acme", "--daily-usd", "1.5")
    assert plain.code == 0
    text = plain.out.split()[-1]
    assert text.startswith("bursar_")
    assert "shown this once" in plain.err
    made = await place.done("create", "--owner", "zeta", "--monthly-usd", "20", "--name", "night")
    listed = await place.done("list")
    assert [key["owner"] for key in listed] == ["acme", "zeta"]
    assert [key["daily_budget_usd"] for key in listed] == [1.5, None]
    assert listed[1] == {name: value for name, value in made.items() if name != "key"}
    table = await place.keys("list")
    assert table.err == ""
    head, first, second = table.out.splitlines()
    assert head.split() == ["ID", "OWNER", "PREFIX", "STATE", "DAILY", "MONTHLY", "CREATED", "NAME"]
    assert first.split()[1:7] == ["acme", text[:12], "enabled", "1.50", "USD", "none"]
    assert second.endswith("night")
    hashes = _hashes(place.service.database)
    assert len(hashes) == 2
    for shown in (table.out, json.dumps(listed)):
        assert text not in shown
        assert made["key"] not in shown
        assert not [digest for digest in hashes if digest in shown]


def _on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.iterdir())


def _hashes(database: Path) -> list[str]:
    with closing(sqlite3.connect(database)) as connection:
        return [row[0] for row in connection.execute("SELECT hash FROM keys")]


@pytest.mark.parametrize("window", ["daily", "monthly"])
async def test_a_raised_budget_resumes(place: Place, window: str) -> None:
    """What the key's budget has paused goes on soon after `keys budget`, and ends; the other one is kept."""
    made = await place.done("create", "--owner", "acme", "--daily-usd", "90", "--monthly-usd", "90")
    option, other = f"--{window}-usd", "monthly" if window == "daily" else "daily"
    async with place.client(made["key"]) as client:
        await place.done("budget", made["id"], option, "0")
        refused = await client.post("/tasks", json=_PAUSING)
        assert (refused.status_code, refused.json()["scope"][:4]) == (402, "key_")
        needed = f"{refused.json()['needed_usd']:.9f}"
        limited = await place.done("budget", made["id"], option, needed)
        assert limited[f"{window}_budget_usd"] == float(needed)
        assert limited[f"{other}_budget_usd"] == 90
        task_id = await submit(client, _PAUSING)
        task = await _paused(client, task_id)
        assert task["paused"]["scope"] == {"daily": "key_day", "monthly": "key_month"}[window]
        lifted = await place.done("budget", made["id"], option, "none")
        assert lifted[f"{window}_budget_usd"] is None
        task = await ended(client, task_id)
        assert (task["status"], task["steps"]) == ("succeeded", 7)
        events = [event["type"] for event in await events_of(client, task_id)]
        assert events.count("task_resumed") == 1


async def test_how_many_run_at_once(place: Place) -> None:
    """A limit holds from the next claim on, and once it is lifted those that were held back go on."""
    made = await place.done("create", "--owner", "acme")
    assert made["at_once"] is None
    limited = await place.done("limit", made["id"], "--at-once", "1")
    assert limited["at_once"] == 1
    async with place.client(made["key"]) as client:
        slow = {"task": 'Work. [[sim {"steps": 9}]]', "tools": ["text_stats"], "max_steps": 20}
        ids = [await submit(client, slow) for _ in range(3)]
        first = await ended(client, ids[0])
        assert first["status"] == "succeeded"
        running = (await client.get("/tasks", params={"status": "running"})).json()["tasks"]
        assert len(running) <= 1
        lifted = await place.done("limit", made["id"], "--at-once", "none")
        assert lifted["at_once"] is None
        done = [await ended(client, one) for one in ids]
    spans = sorted((one["started_at"], one["finished_at"]) for one in done)
    assert spans[0][1] <= spans[1][0]  # the second began when the first had ended


async def test_before_the_first_start(tmp_path: Path) -> None:
    """A key can be made before there is a database; only that makes one."""
    for arguments in (("list",), ("revoke", "key_0"), ("budget", "key_0", "--daily-usd", "1")):
        left = await run("keys", *arguments, cwd=tmp_path)
        assert (left.code, left.out) == (1, "")
        assert left.err == "bursar: There is no database at data/bursar.db."
    assert not (tmp_path / "data").exists()
    left = await run("keys", "create", "--owner", "acme", "--json", cwd=tmp_path)
    text = json.loads(left.out)["key"]
    async with (
        simulator(tmp_path) as upstream,
        service(tmp_path, str(upstream.base_url), BURSAR_AUTH="required") as bursar,
    ):
        await bursar.start()
        async with Place(bursar).client(text) as client:
            assert (await client.get("/tasks")).status_code == 200


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "the following arguments are required: verb"),
        (("create",), "--owner"),
        (("create", "--owner", "a/b"), "an owner is 1 to 128 letters"),
        (("create", "--owner", "x" * 129), "an owner is 1 to 128 letters"),
        (("create", "--owner", "a", "--name", "two\nlines"), "printable"),
        (("create", "--owner", "a", "--daily-usd", "much"), "'much' is not an amount of USD"),
        (("create", "--owner", "a", "--daily-usd", "NaN"), "a finite number of USD"),
        (("create", "--owner", "a", "--daily-usd", "none"), "'none' is not an amount of USD"),
        (("budget", "key_0", "--monthly-usd", "-1"), "a finite number of USD"),
        (("budget", "key_0", "--monthly-usd", "0.0000000001"), "at most nine decimals"),
        (("budget", "key_0"), "give --daily-usd, --monthly-usd or both"),
        (("limit", "key_0", "--at-once", "0"), "a whole number from 1 to"),
        (("limit", "key_0", "--at-once", "10001"), "a whole number from 1 to"),
        (("limit", "key_0", "--at-once", "many"), "a whole number from 1 to"),
        (("limit", "key_0"), "--at-once"),
        (("revoke",), "id"),
    ],
)
async def test_wrong_usage(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    """Usage and one sentence, exit code 2, and nothing is made."""
    left = await run("keys", *arguments, cwd=tmp_path)
    assert (left.code, left.out) == (_USAGE_ERROR, "")
    assert left.err.startswith("usage: python -m app keys")
    (sentence,) = [line for line in left.err.splitlines() if "error: " in line]
    assert said in sentence
    assert not (tmp_path / "data").exists()


async def test_an_unknown_key(tmp_path: Path) -> None:
    """One sentence, exit code 1; a key that is revoked twice stays revoked."""
    made = await run("keys", "create", "--owner", "acme", "--json", cwd=tmp_path)
    key_id = json.loads(made.out)["id"]
    for arguments in (
        ("revoke", "key_0"),
        ("budget", "key_0", "--daily-usd", "none"),
        ("limit", "key_0", "--at-once", "none"),
    ):
        left = await run("keys", *arguments, cwd=tmp_path)
        assert (left.code, left.out, left.err) == (1, "", "bursar: There is no key 'key_0'.")
    twice = [await run("keys", "revoke", key_id, "--json", cwd=tmp_path) for _ in range(2)]
    assert [left.code for left in twice] == [0, 0]
    assert twice[0].out == twice[1].out
