"""DELETE /tasks/{id}: what was asked and answered goes, what it did and cost stays."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.doctor.examination import examine
from app.journal.events import EVENTS
from tests.support.keys import come_as, made_key
from tests.support.service import HANG, Running, started

CANARY = "canary-7c1f"
TASK = f"Mind the {CANARY}." + ' [[sim {"steps": 2, "answer": "The canary-7c1f sings."}]]'
BODY: dict[str, Any] = {
    "tools": ["text_stats", "calculator"],
    "system": f"You are {CANARY}.",
    "metadata": {"bird": CANARY, CANARY: "x"},
    "session_id": "s",
    "complexity": "simple",
}
CONTENT: dict[str, Any] = {"task": None, "system": None, "metadata": {}, "result": None}


async def _erased(bursar: Running, task: dict[str, Any]) -> None:
    answer = await bursar.client.delete(task["links"]["self"])
    assert (answer.status_code, answer.content) == (204, b"")


async def test_content_goes_and_the_rest_stays(bursar: Running) -> None:
    """Prompts, answers and tool data are gone; status, times, steps, money and ledger are as before."""
    task = await bursar.run(TASK, **BODY)
    assert task["result"] == f"The {CANARY} sings."
    events, ledger = await bursar.events(task["id"]), await _ledger(bursar, task)
    await _erased(bursar, task)
    erased = (await bursar.client.get(task["links"]["self"])).json()
    assert erased.pop("erased_at") is not None
    assert task.pop("erased_at") is None
    assert erased == {**task, **CONTENT}
    assert await _ledger(bursar, task) == ledger
    assert (await bursar.client.get("/tasks")).json()["tasks"][0]["task"] is None
    after = await bursar.events(task["id"])
    assert [e["seq"] for e in after] == list(range(1, len(events) + 2))
    assert [e["type"] for e in after] == [*(e["type"] for e in events), "task_erased"]
    for kept, event in zip(after, events, strict=False):
        quoting = EVENTS[event["type"]].quoting
        for name, value in event["data"].items():
            assert kept["data"][name] == value or name in quoting
    left = bursar.rows("SELECT * FROM events") + bursar.rows("SELECT * FROM tasks")
    assert CANARY not in repr(left)


async def _ledger(bursar: Running, task: dict[str, Any]) -> Any:
    session = (await bursar.client.get(task["links"]["usage"])).json()
    return (await bursar.client.get(task["links"]["ledger"])).json(), session


async def test_again(bursar: Running) -> None:
    """It is a 204 again, and changes nothing."""
    task = await bursar.run()
    await _erased(bursar, task)
    first = (await bursar.client.get(task["links"]["self"])).json(), await bursar.events(task["id"])
    await _erased(bursar, task)
    again = (await bursar.client.get(task["links"]["self"])).json(), await bursar.events(task["id"])
    assert first == again


async def test_not_before_its_end(bursar: Running) -> None:
    """A task that has not ended is a 409 that says how it stands; nothing is erased."""
    bursar.script(HANG)
    task = await bursar.submit(TASK, **BODY)
    await bursar.saw(task["id"], "attempt_started")
    answer = await bursar.client.delete(task["links"]["self"])
    body = answer.json()
    assert (answer.status_code, body["type"]) == (409, "urn:bursar:problem:task-unfinished")
    assert (body["task_id"], body["task_status"]) == (task["id"], "running")
    shown = (await bursar.client.get(task["links"]["self"])).json()
    assert (shown["task"], shown["erased_at"]) == (TASK, None)
    await bursar.client.post(task["links"]["cancel"])
    await bursar.finished(task["id"])
    await _erased(bursar, task)


async def test_only_ones_own(bursar: Running) -> None:
    """Another owner's task is a 404, as one that never was."""
    task = await bursar.run(TASK)
    _, text = await made_key(bursar, "acme")
    come_as(bursar, text)
    for task_id in (task["id"], "task_0"):
        answer = await bursar.client.delete(f"/tasks/{task_id}")
        assert (answer.status_code, answer.json()["type"]) == (
            404,
            "urn:bursar:problem:task-not-found",
        )
    assert bursar.rows("SELECT erased_at_us FROM tasks") == [{"erased_at_us": None}]


async def test_messages_that_may_quote_go(bursar: Running) -> None:
    """An error's type stays, its text does not: the upstream may have quoted the prompt in it."""
    bursar.script({"kind": "spend_cap"})
    task = await bursar.run(TASK, **BODY)
    assert task["outcome"] == "upstream_spend_cap"
    assert task["error"]["message"]
    await _erased(bursar, task)
    shown = (await bursar.client.get(task["links"]["self"])).json()
    assert shown["error"] == {"type": task["error"]["type"], "message": ""}
    assert {e["data"].get("error_message", "") for e in await bursar.events(task["id"])} == {""}


async def test_streams_end_after_an_erasure(bursar: Running) -> None:
    """A stream from the start ends with the last entry; one that has seen all is told to stop."""
    task = await bursar.run(TASK, **BODY)
    await _erased(bursar, task)
    path = task["links"]["events"]
    async with asyncio.timeout(20), bursar.stream(path) as stream:
        seen = await stream.rest()
    assert seen[-1]["event"] == "task_erased"
    done = {"accept": "text/event-stream", "last-event-id": str(len(seen))}
    assert (await bursar.client.get(path, headers=done)).status_code == 204


async def test_the_bytes_are_gone(tmp_path: Path) -> None:
    """No file of the database has what was erased, while the service runs; the neighbours keep theirs."""
    async with started(tmp_path / "data", workers=8) as bursar:
        sizes = [10, 300, 450, 700, 2_000, 4_000, 9_000, 50_000]
        for number, size in enumerate(sizes * 4):
            word = f"{CANARY}-{'gone' if number % 2 else 'kept'} "
            text = word * (size // len(word) + 1) + '[[sim {"steps": 1}]]'
            await bursar.run(text, tools=["text_stats"], complexity="simple")
        tasks = (await bursar.client.get("/tasks", params={"limit": 200})).json()["tasks"]
        gone = [task for task in tasks if f"{CANARY}-gone" in task["task"]]
        assert len(gone) == len(sizes) * 2
        assert _found(bursar, "gone") > 0
        for task in gone:
            await _erased(bursar, task)
        async with asyncio.timeout(20):
            while _found(bursar, "gone"):
                await bursar.client.get("/readyz")
        assert _found(bursar, "kept") > 0
    assert _found(bursar, "gone") == 0
    assert examine(tmp_path / "data").drifts == ()


def _found(bursar: Running, which: str) -> int:
    wanted = f"{CANARY}-{which}".encode()
    return sum(path.read_bytes().count(wanted) for path in bursar.data_dir.glob("bursar.db*"))


@pytest.mark.parametrize("status", ["queued", "paused"])
async def test_waiting_tasks(tmp_path: Path, status: str) -> None:
    """What waits for a worker or for money is a 409, too."""
    async with started(tmp_path, workers=1) as bursar:
        bursar.script(HANG)
        await bursar.saw((await bursar.submit())["id"], "attempt_started")
        task = await bursar.submit(on_budget="pause", budget_usd=0.000001)
        if status == "paused":
            bursar.script()
            first = bursar.rows("SELECT id FROM tasks ORDER BY created_at_us LIMIT 1")[0]["id"]
            await bursar.client.post(f"/tasks/{first}/cancel")
            await bursar.saw(task["id"], "task_paused")
        answer = await bursar.client.delete(task["links"]["self"])
        assert (answer.status_code, answer.json()["task_status"]) == (409, status)
