"""Keys and owners over the API: who is let in, and that nobody sees or touches what is another's."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.gate import REMEMBERED_S
from app.domain.task import LOCAL_OWNER
from tests.support.clock import ShiftedClock, yielded
from tests.support.contract import FILE
from tests.support.keys import come_as, made_key, revoked
from tests.support.loglines import LineChecker
from tests.support.service import HANG, Running, started

SPEC: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
OPERATIONS = [
    pytest.param(method, path, operation, id=operation["operationId"])
    for path, item in SPEC["paths"].items()
    for method, operation in item.items()
]
GUARDED = [case for case in OPERATIONS if "security" in case.values[2]]  # type: ignore[operator]
BY_ID = [case for case in GUARDED if "{" in str(case.values[1])]
OPEN = ["/healthz", "/readyz", "/metrics", "/docs", "/redoc", "/openapi.json"]
BODY = {"budget_usd": 1}


@dataclass(frozen=True)
class Party:
    """An owner with a key, an ended task and one that runs, all in the session `s`."""

    owner: str
    key_id: str
    text: str
    ended: str
    running: str

    @property
    def task_ids(self) -> set[str]:
        """Everything that is theirs."""
        return {self.ended, self.running}


async def _party(bursar: Running, owner: str, session_usd: float) -> Party:
    key_id, text = await made_key(bursar, owner)
    come_as(bursar, text)
    put = await bursar.client.put("/sessions/s/budget", json={"budget_usd": session_usd})
    assert put.status_code == 200, put.text
    ended = await bursar.run(f"Say hello to {owner}.", session_id="s", agent=owner)
    bursar.script(HANG)
    running = await bursar.submit(f"Work for {owner}.", session_id="s")
    await bursar.saw(running["id"], "attempt_started")
    async with asyncio.timeout(30):  # it has left; now it has to arrive
        while not bursar.simulator.log.seen[-1].fault:
            await yielded()
    bursar.script()
    return Party(owner, key_id, text, ended["id"], running["id"])


@dataclass(frozen=True)
class Town:
    """A service with two owners who both call their session `s`."""

    bursar: Running
    a: Party
    b: Party


@pytest.fixture
async def town(bursar: Running) -> Town:
    """The client comes as `a`."""
    a, b = await _party(bursar, "a", 2), await _party(bursar, "b", 3)
    come_as(bursar, a.text)
    return Town(bursar, a, b)


@pytest.fixture
async def timed(tmp_path: Path) -> AsyncIterator[tuple[Running, ShiftedClock]]:
    """A service whose time the test owns."""
    clock = ShiftedClock()
    async with started(tmp_path, clock=clock) as running:
        yield running, clock


def _path(path: str, task_id: str, session_id: str = "theirs") -> str:
    return path.replace("{task_id}", task_id).replace("{session_id}", session_id)


async def _get(bursar: Running, path: str, **query: Any) -> Any:
    answer = await bursar.client.get(path, params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()


class TestStrangers:
    """404 across owners: what is another's is as if it were not there."""

    @pytest.mark.parametrize(("method", "path", "operation"), BY_ID)
    async def test_every_endpoint_with_an_id(
        self, town: Town, method: str, path: str, operation: dict[str, Any]
    ) -> None:
        """The answer is that of an id that never was, and the owner's rows are as before."""
        if path.startswith("/sessions"):
            come_as(town.bursar, town.b.text)
            await town.bursar.run(session_id="theirs")
            come_as(town.bursar, town.a.text)
        before = _belongings(town.bursar, "b")
        body = BODY if "requestBody" in operation else None
        ask = town.bursar.client.request
        answer = await ask(method, _path(path, town.b.running), json=body)
        if operation["operationId"] == "put_session_budget":  # it makes a session: one's own
            assert (answer.status_code, answer.json()["tasks"]) == (200, 0)
            assert len(town.bursar.rows("SELECT owner FROM sessions WHERE id = 'theirs'")) == 2
        else:
            assert answer.status_code == 404, answer.text
            nobody = await ask(method, _path(path, "task_0", "nobodys"), json=body)
            assert _without(nobody, "task_0", "nobodys") == _without(
                answer, town.b.running, "theirs"
            )
        assert _belongings(town.bursar, "b") == before

    async def test_streams(self, town: Town) -> None:
        """No event of another's task comes live; one's own do."""
        header = {"authorization": f"Bearer {town.a.text}"}
        async with town.bursar.stream(f"/tasks/{town.b.ended}/events", **header) as stream:
            assert stream.status == 404
        async with town.bursar.stream(f"/tasks/{town.a.ended}/events", **header) as stream:
            assert stream.status == 200
            assert (await stream.rest())[-1]["event"] == "task_finished"

    async def test_cancel(self, town: Town) -> None:
        """Only its owner stops a task."""
        answer = await town.bursar.client.post(f"/tasks/{town.b.running}/cancel")
        assert answer.status_code == 404
        come_as(town.bursar, town.b.text)
        assert (await _get(town.bursar, f"/tasks/{town.b.running}"))["status"] == "running"
        assert (await town.bursar.client.post(f"/tasks/{town.b.running}/cancel")).is_success
        assert (await town.bursar.finished(town.b.running))["outcome"] == "cancelled"

    async def test_parents(self, town: Town) -> None:
        """Another's task is no parent, and the refusal does not tell whether it is there."""
        said = []
        for parent_id in (town.b.running, "task_0"):
            body = {"task": "x", "parent_id": parent_id}
            answer = await town.bursar.client.post("/tasks", json=body)
            assert (answer.status_code, answer.json()["type"][-14:]) == (422, "parent-refused")
            said.append(answer.text.replace(parent_id, "ID"))
        assert said[0] == said[1]
        own = await town.bursar.submit(parent_id=town.a.running)
        assert own["session_id"] == "s"


def _without(answer: httpx.Response, *identifiers: str) -> tuple[int, str]:
    text = answer.text
    for identifier in identifiers:
        text = text.replace(identifier, "ID")
    return answer.status_code, text


def _belongings(bursar: Running, owner: str) -> list[list[dict[str, Any]]]:
    """All rows of an owner; the running task is one that hangs."""
    tables = ("tasks", "sessions", "accounts", "ledger_lines")
    found = [bursar.rows(f"SELECT * FROM {table} WHERE owner = ?", owner) for table in tables]  # noqa: S608
    return [*found, bursar.rows("SELECT * FROM events WHERE subject LIKE ?", f"session/{owner}/%")]


class TestOwn:
    """What an owner sees is all theirs, and nothing else."""

    async def test_lists(self, town: Town) -> None:
        """However the list is filtered or paged."""
        bursar = town.bursar
        for mine, theirs in ((town.a, town.b), (town.b, town.a)):
            come_as(bursar, mine.text)
            for query in ({}, {"session_id": "s"}, {"status": "running"}, {"status": "succeeded"}):
                listed = {task["id"] for task in (await _get(bursar, "/tasks", **query))["tasks"]}
                assert listed
                assert listed <= mine.task_ids
            assert not (await _get(bursar, "/tasks", session_id="other"))["tasks"]
            page = await _get(bursar, "/tasks", limit=1)
            come_as(bursar, theirs.text)
            foreign = await _get(bursar, "/tasks", cursor=page["next_cursor"])
            assert {task["id"] for task in foreign["tasks"]} <= theirs.task_ids

    async def test_sessions_of_one_name(self, town: Town) -> None:
        """They are two: each with its tasks, budget, usage and ledger."""
        bursar = town.bursar
        for party, budget_usd in ((town.a, 2), (town.b, 3)):
            come_as(bursar, party.text)
            task = await _get(bursar, f"/tasks/{party.ended}")
            session = await _get(bursar, "/sessions/s")
            assert (session["tasks"], session["budget_usd"]) == (2, budget_usd)
            assert session["spent_usd"] == task["cost_usd"] > 0
            assert set((await _get(bursar, "/sessions/s/usage"))["by_task"]) == {party.ended}
            lines = (await _get(bursar, "/sessions/s/ledger"))["lines"]
            assert {line["task_id"] for line in lines} == party.task_ids
            assert {line["key_id"] for line in lines} == {party.key_id}

    async def test_usage(self, town: Town) -> None:
        """Sums over one's own lines, whatever they are grouped by."""
        for party in (town.a, town.b):
            come_as(town.bursar, party.text)
            task = await _get(town.bursar, f"/tasks/{party.ended}")
            for view in ("model", "session", "key", "day", "agent"):
                report = await _get(town.bursar, "/usage", group_by=view)
                assert len(report["groups"]) == 1, view
                assert report["totals"]["spent_usd"] == task["cost_usd"]
                if view in {"key", "agent"}:
                    own = {"key": party.key_id, "agent": party.owner}[view]
                    assert report["groups"][0]["key"] == own

    async def test_keys_of_one_owner(self, town: Town) -> None:
        """Two keys of one owner see the same tasks."""
        before = await _get(town.bursar, "/tasks")
        _, text = await made_key(town.bursar, "a")
        come_as(town.bursar, text)
        assert await _get(town.bursar, "/tasks") == before


class TestDoor:
    """401, before anything else of a request is looked at."""

    @pytest.mark.parametrize(("method", "path", "operation"), GUARDED)
    async def test_every_guarded_endpoint(
        self, bursar: Running, method: str, path: str, operation: dict[str, Any]
    ) -> None:
        """Without a key, with a wrong one, with another scheme; even when the body is no JSON."""
        _, text = await made_key(bursar, "a")
        for header in (None, "Bearer", f"Bearer {text}x", f"Basic {text}", text):
            headers = {"content-type": "application/json"}
            if header is not None:
                headers["authorization"] = header
            answer = await bursar.client.request(
                method, _path(path, "task_0"), headers=headers, content=b"{"
            )
            assert answer.status_code == 401, (header, answer.text)
            assert answer.headers["www-authenticate"] == "Bearer"
            assert answer.json()["type"] == "urn:bursar:problem:unauthorized"
            assert text not in answer.text
        assert operation["responses"]["401"]
        assert bursar.rows("SELECT id FROM tasks") == []

    @pytest.mark.parametrize("path", OPEN)
    async def test_open_endpoints(self, bursar: Running, path: str) -> None:
        """Probes, metrics and the documentation ask for no key, and mind none."""
        await made_key(bursar, "a")
        for text in (None, "wrong"):
            come_as(bursar, text)
            assert (await bursar.client.get(path)).status_code == 200

    def test_all_others_are_guarded(self) -> None:
        """An endpoint that is added asks for a key, unless it is one for operators."""
        guarded = {case.values[1] for case in GUARDED}
        assert set(SPEC["paths"]) - guarded == {"/healthz", "/readyz", "/metrics"}
        assert SPEC["components"]["securitySchemes"]["bearer"]["scheme"] == "bearer"

    async def test_revoked(self, timed: tuple[Running, ShiftedClock]) -> None:
        """A second later at the latest; tasks that run go on, and the last key leaves the door closed."""
        bursar, clock = timed
        key_id, text = await made_key(bursar, "a")
        come_as(bursar, text)
        task = await bursar.submit()
        await revoked(bursar, key_id)
        clock.move(REMEMBERED_S)
        for path in ("/tasks", f"/tasks/{task['id']}"):
            assert (await bursar.client.get(path)).status_code == 401
        come_as(bursar, None)
        assert (await bursar.client.get("/tasks")).status_code == 401
        _, another = await made_key(bursar, "a")
        come_as(bursar, another)
        assert (await bursar.finished(task["id"]))["status"] == "succeeded"

    async def test_keys_off(self, bursar: Running) -> None:
        """Everybody is `local`, whatever header comes along; a later key of that owner sees those tasks."""
        for text in (None, "some-other-programs-key"):
            come_as(bursar, text)
            await bursar.run(session_id="s")
        for table in ("tasks", "sessions", "ledger_lines"):
            rows = bursar.rows(f"SELECT DISTINCT owner FROM {table}")  # noqa: S608
            assert rows == [{"owner": LOCAL_OWNER}]
        assert {row["key_id"] for row in bursar.rows("SELECT key_id FROM ledger_lines")} == {""}
        _, text = await made_key(bursar, LOCAL_OWNER)
        come_as(bursar, text)
        assert len((await _get(bursar, "/tasks"))["tasks"]) == 2

    async def test_the_first_key_closes_the_door(self, timed: tuple[Running, ShiftedClock]) -> None:
        """Who came without a key is asked for one, a second later at the latest."""
        bursar, clock = timed
        task = await bursar.submit()
        await made_key(bursar, "a")
        clock.move(REMEMBERED_S)
        assert (await bursar.client.get(f"/tasks/{task['id']}")).status_code == 401

    async def test_required(self, tmp_path: Path) -> None:
        """BURSAR_AUTH=required lets nobody in before there is a key."""
        async with started(tmp_path, auth="required") as bursar:
            assert (await bursar.client.get("/tasks")).status_code == 401
            assert (await bursar.client.post("/tasks", json={"task": "x"})).status_code == 401
            assert (await bursar.client.get("/readyz")).status_code == 200
            _, text = await made_key(bursar, "a")
            come_as(bursar, text)
            assert (await bursar.run())["status"] == "succeeded"


def _on_disk(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in folder.rglob("*") if file.is_file())


async def test_a_key_is_in_no_view(tmp_path: Path, bursar: Running, log_lines: LineChecker) -> None:
    """Not in the database, the log, the metrics, an event: only its hash and its first characters are kept."""
    key_id, text = await made_key(bursar, "a")
    come_as(bursar, text)
    task = await bursar.run(session_id="s")
    paths = ("", "/events", "/ledger")
    views = [(await bursar.client.get(f"/tasks/{task['id']}{path}")).text for path in paths]
    views += [(await bursar.client.get(path)).text for path in ("/metrics", "/usage?group_by=key")]
    assert key_id in views[-1]
    assert (await bursar.client.get(f"/tasks/{text}")).status_code == 404
    shown = "\n".join([*views, *log_lines.lines])
    await bursar.service.drain()
    kept = _on_disk(tmp_path)
    assert key_id.encode() in kept
    assert text[:13] not in shown
    assert not re.search(re.escape(text[12:]).encode(), kept)
