"""The first programs anybody writes against the service, from their first line to their last."""

import json
import sys
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.client import ENDED, bill_of
from tests.support.process import Service, service, simulator

_BUDGET_USD = 0.10
_SUMMARY = """\
calls      {calls}
spent      ${spent_usd:.9f} of ${budget_usd:.2f}
remaining  ${remaining_usd:.9f}
tokens     {tokens[input]} in, {tokens[output]} out
"""


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The model's stand-in, with a bill of its own."""
    async with simulator(tmp_path) as running:
        yield running


@pytest.fixture
async def bursar(tmp_path: Path, upstream: httpx.AsyncClient) -> AsyncIterator[Service]:
    """A service that logs into `agent.log`, too."""
    settings = {"BURSAR_LOG_FILE": "agent.log"}
    async with service(tmp_path, str(upstream.base_url), **settings) as made:
        await made.start()
        yield made


async def test_budgeted_agent(
    bursar: Service, upstream: httpx.AsyncClient, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ten cents, one simple task, its usage summary, and `agent.log` read back line by line."""
    async with bursar.client() as client:
        budget = await client.put("/sessions/agent/budget", json={"budget_usd": _BUDGET_USD})
        assert budget.status_code == 200
        question = {"task": "Explain supervised and unsupervised learning."}
        answer = await client.post(
            "/tasks",
            json={**question, "complexity": "simple", "session_id": "agent"},
            headers={"prefer": "wait=20"},
        )
        assert answer.status_code == 200
        task = answer.json()
        usage = (await client.get("/sessions/agent/usage")).json()
    assert (task["status"], task["outcome"], task["model"]) == (
        "succeeded",
        "answered",
        "claude-haiku-5-5",
    )
    sys.stdout.write(_SUMMARY.format(**usage))
    billed = (await bill_of(upstream))["total"]
    assert capsys.readouterr().out.splitlines()[:2] == [
        "calls      1",
        f"spent      ${billed['usd']:.9f} of $0.10",
    ]
    _check_usage(usage, task, billed["nano"])
    await bursar.stop()
    _check_log(bursar, task, billed["usd"])


def _check_usage(usage: dict[str, Any], task: dict[str, Any], billed_nano: int) -> None:
    """Exact to the nano-dollar, and the same by model and by task."""
    assert round(usage["spent_usd"] * 1e9) == billed_nano > 0
    assert usage["budget_usd"] == _BUDGET_USD
    assert usage["reserved_usd"] == 0
    assert round(usage["remaining_usd"] * 1e9) == 100_000_000 - billed_nano
    own = {"spent_usd": usage["spent_usd"], "calls": 1, "tokens": usage["tokens"]}
    own["cost"] = usage["cost"]
    assert usage["by_model"] == {"claude-haiku-5-5": own}
    assert usage["by_task"] == {task["id"]: own}
    assert task["cost_usd"] == usage["spent_usd"]


def _check_log(bursar: Service, task: dict[str, Any], billed_usd: float) -> None:
    """Every line is an object with time, level and event; the story of the task is there, in order."""
    text = (bursar.folder / "agent.log").read_text()
    assert text.splitlines() == bursar.child.out
    lines: list[dict[str, Any]] = [json.loads(line) for line in text.splitlines()]
    instants = [datetime.fromisoformat(line["timestamp"]) for line in lines]
    assert instants == sorted(instants)
    assert all(instant.utcoffset() == timedelta() for instant in instants)
    assert {line["level"] for line in lines} == {"INFO"}
    told = [line for line in lines if line.get("task_id") == task["id"]]
    assert [line["seq"] for line in told] == [1, 2, 3, 4, 5]
    assert [line["event"] for line in told] == [
        "task_accepted",
        "task_claimed",
        "attempt_started",
        "model_answered",
        "task_finished",
    ]
    answered = told[3]
    assert answered["model"] == "claude-haiku-5-5"
    assert answered["input_tokens"] == task["tokens"]["input"] > 0
    assert answered["output_tokens"] == task["tokens"]["output"] > 0
    assert answered["cost_usd"] == answered["task_spent_usd"] == billed_usd
    assert told[2]["reserved_usd"] >= billed_usd
    assert (told[4]["outcome"], told[4]["cost_usd"]) == ("answered", billed_usd)
    assert lines[-1]["event"] == "service_stopped"


async def test_background_service(bursar: Service) -> None:
    """Two tasks submitted and forgotten, then polled to the end."""
    questions = {
        "What is machine learning?": ("simple", "claude-haiku-5-5"),
        "Explain transformer architecture.": ("medium", "claude-sonnet-5-5"),
    }
    async with bursar.client() as client:
        places = {}
        for text, (complexity, _) in questions.items():
            accepted = await client.post("/tasks", json={"task": text, "complexity": complexity})
            assert accepted.status_code == 202
            assert accepted.json()["status"] == "queued"
            assert int(accepted.headers["retry-after"]) > 0
            places[text] = accepted.headers["location"]
        for text, place in places.items():
            task = await _polled(client, place)
            assert (task["status"], task["task"]) == ("succeeded", text)
            assert task["model"] == questions[text][1]
            assert text.rstrip("?.") in task["result"]
            assert task["cost_usd"] > 0


async def _polled(client: httpx.AsyncClient, place: str) -> dict[str, Any]:
    while True:
        answer = await client.get(place, headers={"prefer": "wait=1"})
        task: dict[str, Any] = answer.json()
        if task["status"] in ENDED:
            assert "retry-after" not in answer.headers
            return task
        assert int(answer.headers["retry-after"]) > 0
