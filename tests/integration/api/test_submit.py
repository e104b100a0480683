"""POST /tasks and GET /tasks/{id}: what a client gets for what it sends."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.api.bodies import METADATA_LIMIT, TEXT_LIMIT_BYTES
from app.journal.call_events import AttemptStarted
from tests.support.service import HANG, Running, started

ROUTES = {
    "simple": "claude-haiku-5-5",
    "medium": "claude-sonnet-5-5",
    "complex": "claude-opus-5-5",
}


async def test_accepts(bursar: Running) -> None:
    """202 with Location and Retry-After, and a body that says where everything is."""
    answer = await bursar.client.post("/tasks", json={"task": "Say hello."})
    task = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/tasks/{task['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert "preference-applied" not in answer.headers
    assert task["status"] == "queued"
    assert task["outcome"] is None
    for link in ("self", "events", "session", "usage"):
        assert (await bursar.client.get(task["links"][link])).status_code == 200, link


async def test_defaults(bursar: Running) -> None:
    """What a submission does not say, the service's settings say."""
    task = await bursar.submit("Say hello.")
    assert {name: task[name] for name in task if name in EXPECTED} == EXPECTED
    assert task["session_id"].startswith("sess_")
    assert task["session_id"] != (await bursar.submit())["session_id"]


EXPECTED: dict[str, Any] = {
    "task": "Say hello.",
    "complexity": "medium",
    "model": "claude-sonnet-5-5",
    "model_reason": "complexity:medium",
    "system": None,
    "tools": [],
    "priority": 5,
    "max_steps": 10,
    "max_tokens": 2_048,
    "metadata": {},
    "budget_usd": 0.5,
    "cost_usd": 0.0,
    "reserved_usd": 0.0,
    "remaining_usd": 0.5,
    "result": None,
    "partial": False,
    "error": None,
    "steps": 0,
    "runs": 0,
    "calls": 0,
    "started_at": None,
    "finished_at": None,
    "simulated": True,
}


async def test_settings_are_the_defaults(tmp_path: Path) -> None:
    """Other settings, other defaults."""
    async with started(
        tmp_path, task_budget_usd="0.25", session_budget_usd="3", max_steps=4, max_tokens=512
    ) as bursar:
        task = await bursar.submit()
        session = (await bursar.client.get(task["links"]["session"])).json()
    assert (task["budget_usd"], task["max_steps"], task["max_tokens"]) == (0.25, 4, 512)
    assert session["budget_usd"] == 3.0


FIELDS: list[dict[str, Any]] = [
    {"session_id": "a"},
    {"session_id": "A" + "z._:@-9" * 18 + "z"},
    {"budget_usd": 0},
    {"budget_usd": 1_000_000},
    {"budget_usd": 0.123456789},
    {"budget_usd": 999_999.999999999},
    {"max_steps": 1},
    {"max_steps": 100},
    {"max_tokens": 1},
    {"max_tokens": 128_000},
    {"system": "Be brief."},
    {"system": ""},
    {"tools": ["calculator", "current_time", "text_stats"]},
    {"priority": 0},
    {"priority": 9},
    {"metadata": {"customer": "42", "ключ": "значение", "k" * 64: "v" * 512}},
    {"metadata": {str(number): "" for number in range(METADATA_LIMIT)}},
]


@pytest.mark.parametrize("fields", FIELDS, ids=str)
async def test_fields_come_back(bursar: Running, fields: dict[str, Any]) -> None:
    """Each field, at its bounds too, is kept as sent and shown the same when accepted and when read."""
    accepted = await bursar.submit(**fields)
    ended = await bursar.finished(accepted["id"])
    for name, value in fields.items():
        assert accepted[name] == value, name
        assert ended[name] == value, name


async def test_routes(bursar: Running) -> None:
    """The complexity chooses the model, and the task says why it has this one."""
    for complexity, model in ROUTES.items():
        task = await bursar.submit(complexity=complexity, budget_usd=0)
        assert (task["complexity"], task["model"]) == (complexity, model)
        assert task["model_reason"] == f"complexity:{complexity}"


async def test_accepted_and_read_agree(tmp_path: Path) -> None:
    """The 202 is not read back from the store, and yet says what reading says."""
    async with started(tmp_path, workers=1) as bursar:
        bursar.script(HANG)
        await bursar.saw((await bursar.submit())["id"], "attempt_started")
        fields = {"tools": ["calculator"], "metadata": {"a": "b"}, "budget_usd": 0.000000001}
        accepted = await bursar.submit("Wait.", session_id="s", priority=3, **fields)
        read = (await bursar.client.get(accepted["links"]["self"])).json()
    assert read == accepted


@pytest.mark.parametrize("usd", ["0.000000001", "0.100000000", "123456.789012345", "1e-9", "5E-1"])
async def test_budgets_are_exact(bursar: Running, usd: str) -> None:
    """Nine decimals go in, through the database, and out without a bit of error."""
    body = b'{"task":"Say hello.","budget_usd":%s}' % usd.encode()
    answer = await bursar.client.post(
        "/tasks", content=body, headers={"content-type": "application/json"}
    )
    assert answer.json()["budget_usd"] == float(usd)
    stored = bursar.rows("SELECT limit_nano FROM accounts WHERE id = ?", answer.json()["id"])
    assert stored == [{"limit_nano": round(float(usd) * 1e9)}]


async def test_the_deadline(bursar: Running) -> None:
    """`deadline_s` becomes an instant; a task that is late ends with its own outcome."""
    bursar.script(HANG)
    task = await bursar.run(deadline_s=0.2)
    assert (task["status"], task["outcome"]) == ("failed", "deadline")
    assert task["deadline_at"] > task["created_at"]


@pytest.mark.parametrize(
    "text",
    [
        "x",
        "x" * TEXT_LIMIT_BYTES,
        "é" * (TEXT_LIMIT_BYTES // 2),
        "[{" * 1_000,
        "\U0001d4b3 \u202e \t\r\x7f",
    ],
    ids=["short", "long", "long UTF-8", "brackets", "odd"],
)
async def test_texts(bursar: Running, text: str) -> None:
    """From one byte to 256 KiB of UTF-8, whatever is in it, comes back unchanged."""
    task = await bursar.submit(text, budget_usd=0)
    assert (await bursar.client.get(task["links"]["self"])).json()["task"] == text


async def test_all_escaped(bursar: Running) -> None:
    """The longest text fits into the body limit even with every character escaped."""
    body = b'{"task":"' + b"\\u0078" * TEXT_LIMIT_BYTES + b'","budget_usd":0}'
    answer = await bursar.client.post(
        "/tasks", content=body, headers={"content-type": "application/json; charset=utf-8"}
    )
    assert answer.status_code == 202
    assert len(answer.json()["task"]) == TEXT_LIMIT_BYTES


async def test_an_answer(bursar: Running) -> None:
    """At its end a task has its result, its steps, its tokens and its cost."""
    task = await bursar.run('Answer. [[sim {"answer": "Forty-two."}]]', complexity="simple")
    assert (task["status"], task["outcome"], task["result"]) == (
        "succeeded",
        "answered",
        "Forty-two.",
    )
    assert (task["steps"], task["runs"], task["calls"]) == (1, 1, 1)
    assert task["tokens"]["input"] > 0
    assert task["tokens"]["output"] > 0
    assert task["cost_usd"] == task["cost"]["confirmed_usd"] > 0
    assert task["remaining_usd"] == pytest.approx(0.5 - task["cost_usd"], abs=5e-10)
    assert task["created_at"] <= task["started_at"] <= task["finished_at"] < task["deadline_at"]


async def test_tools(bursar: Running) -> None:
    """Named tools are offered and run; the answer comes a step later."""
    task = await bursar.run("What is 12 * (7 + 5)?", tools=["calculator"])
    kinds = [event["type"] for event in await bursar.events(task["id"])]
    assert (task["status"], task["steps"]) == ("succeeded", 2)
    assert kinds.count("tool_finished") == 1


async def test_a_chosen_model(bursar: Running) -> None:
    """`model` goes before the route, and the task says so."""
    task = await bursar.run(complexity="complex", model="claude-haiku-5-5")
    assert (task["model"], task["model_reason"]) == ("claude-haiku-5-5", "requested")
    assert list(bursar.simulator.bill.by_model) == ["claude-haiku-5-5"]


async def test_a_partial_result(bursar: Running) -> None:
    """A failed task keeps the text there was, marked as partial, beside its error."""
    task = await bursar.run(
        'Go on. [[sim {"stop": "max_tokens", "answer_tokens": 100}]]', max_tokens=20
    )
    assert (task["status"], task["outcome"], task["partial"]) == ("failed", "truncated", True)
    assert task["result"]
    assert task["error"]["type"] == "truncated"


class TestWaiting:
    """`Prefer: wait=N` (RFC 7240)."""

    async def test_post_waits_for_the_end(self, bursar: Running) -> None:
        """A POST that waits long enough answers 200 with the ended task."""
        answer = await bursar.client.post(
            "/tasks", json={"task": "Say hello."}, headers={"prefer": "wait=30"}
        )
        assert answer.status_code == 200
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["preference-applied"] == "wait=30"
        assert answer.headers["location"] == f"/tasks/{answer.json()['id']}"
        assert "retry-after" not in answer.headers

    async def test_post_does_not_wait_longer(self, bursar: Running) -> None:
        """After N seconds it answers 202 as it would have done at once."""
        bursar.script(HANG)
        answer = await bursar.client.post(
            "/tasks", json={"task": "Say hello."}, headers={"prefer": "respond-async, wait=1"}
        )
        assert answer.status_code == 202
        assert answer.json()["status"] == "running"
        assert answer.headers["preference-applied"] == "wait=1"
        assert answer.headers["retry-after"] == "1"

    async def test_get_waits(self, bursar: Running) -> None:
        """A GET waits too; on an ended task it answers at once."""
        task = await bursar.submit()
        for _ in range(2):
            answer = await bursar.client.get(task["links"]["self"], headers={"prefer": "wait=30"})
            assert (answer.status_code, answer.json()["status"]) == (200, "succeeded")
            assert answer.headers["preference-applied"] == "wait=30"
            assert "retry-after" not in answer.headers

    async def test_get_says_when_to_come_back(self, bursar: Running) -> None:
        """A GET of a task that runs carries Retry-After, waited for or not."""
        bursar.script(HANG)
        task = await bursar.submit()
        for headers in ({}, {"prefer": "wait=1"}):
            answer = await bursar.client.get(task["links"]["self"], headers=headers)
            assert answer.headers["retry-after"] == "1"

    async def test_the_longest_wait(self, bursar: Running) -> None:
        """A longer wish is shortened, and the answer says to what."""
        answer = await bursar.client.post(
            "/tasks", json={"task": "Say hello."}, headers={"prefer": "wait=3600"}
        )
        assert answer.headers["preference-applied"] == "wait=60"

    async def test_a_stop_ends_the_wait(self, bursar: Running) -> None:
        """A service that stops does not keep its waiting clients."""
        bursar.script(HANG)
        begun = asyncio.Event()
        bursar.service.services.feed.add_view(
            lambda entry: begun.set() if isinstance(entry.event, AttemptStarted) else None
        )
        waiting = asyncio.create_task(
            bursar.client.post("/tasks", json={"task": "Say hello."}, headers={"prefer": "wait=60"})
        )
        await asyncio.wait_for(begun.wait(), 10)
        await bursar.service.drain()
        answer = await asyncio.wait_for(waiting, 10)
        assert (answer.status_code, answer.json()["outcome"]) == (202, None)
