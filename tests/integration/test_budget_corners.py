"""Corners of the budgets, through the whole service."""

import base64
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Running, started

TOOL_STEPS = 'Work it out. [[sim {"steps": 3, "answer_tokens": 200}]]'
TIGHT = 0.0004


async def paused(bursar: Running, **fields: object) -> dict[str, Any]:
    """A task that waits for money."""
    task = await bursar.submit(
        TOOL_STEPS,
        **{
            "tools": ["calculator"],
            "complexity": "simple",
            "on_budget": "pause",
            "budget_usd": TIGHT,
            **fields,
        },
    )
    await bursar.saw(task["id"], "task_paused")
    return task


async def test_a_child_goes_on_after_its_parents_end(tmp_path: Path) -> None:
    """Its parent's budget is what blocks it: it says so, and the budget can be raised after the parent's end."""
    async with started(tmp_path) as bursar:
        bursar.script({"kind": "timeout"})
        parent = await bursar.submit(budget_usd=TIGHT, complexity="simple", max_tokens=300)
        await bursar.saw(parent["id"], "attempt_started")
        child = await bursar.submit(
            TOOL_STEPS,
            tools=["calculator"],
            complexity="simple",
            on_budget="pause",
            parent_id=parent["id"],
        )
        await bursar.client.post(f"/tasks/{parent['id']}/cancel")
        await bursar.finished(parent["id"])
        told = (await bursar.saw(child["id"], "task_paused"))["data"]
        assert (told["scope"], told["scope_id"]) == ("task", parent["id"])
        answer = await bursar.client.put(f"/tasks/{parent['id']}/budget", json={"budget_usd": 1})
        assert answer.status_code == 200
        assert (await bursar.finished(child["id"]))["outcome"] == "answered"


async def test_the_budget_of_an_ended_task_is_closed(tmp_path: Path) -> None:
    """Nothing draws on it any more: 409, and how it ended."""
    async with started(tmp_path) as bursar:
        task = await bursar.run()
        answer = await bursar.client.put(f"/tasks/{task['id']}/budget", json={"budget_usd": 1})
        assert (answer.status_code, answer.json()["outcome"]) == (409, "answered")


async def test_one_paused_task_too_many_fails(tmp_path: Path) -> None:
    """Paused tasks are bounded: beyond the bound the policy is `fail`, and what there is is kept."""
    async with started(tmp_path, paused_limit=2) as bursar:
        first, second = await paused(bursar), await paused(bursar)
        third = await bursar.run(
            TOOL_STEPS,
            tools=["calculator"],
            complexity="simple",
            on_budget="pause",
            budget_usd=TIGHT,
        )
        assert (third["status"], third["outcome"]) == ("failed", "budget_exhausted")
        await bursar.client.post(f"/tasks/{first['id']}/cancel")
        await bursar.finished(first["id"])
        await paused(bursar)
        assert (await bursar.client.get(f"/tasks/{second['id']}")).json()["status"] == "paused"


async def test_a_line_names_the_price_it_was_computed_with(tmp_path: Path) -> None:
    """A refusal before any output costs nothing, and its line says that no price was used."""
    async with started(tmp_path) as bursar:
        task = await bursar.run('No. [[sim {"stop": "refusal"}]]', complexity="simple")
        assert task["outcome"] == "refused"
        lines = (await bursar.client.get(f"/tasks/{task['id']}/ledger")).json()["lines"]
        assert [line["entry"] for line in lines] == ["reservation", "settlement"]
        assert lines[1]["amount_usd"] == 0
        assert lines[1]["price_row"].startswith("unbilled:")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 10**30])
async def test_a_cursor_beyond_every_number(tmp_path: Path, number: int) -> None:
    """A made-up cursor is a clear 400, whatever it says."""
    cursor = base64.urlsafe_b64encode(f'[{number},"t",1,1,0]'.encode()).decode().rstrip("=")
    async with started(tmp_path) as bursar:
        await bursar.run(session_id="s")
        answer = await bursar.client.get("/sessions/s/ledger", params={"cursor": cursor})
        assert answer.status_code == 400


async def test_the_log_counts_a_sub_tasks_cost_once(tmp_path: Path) -> None:
    """`task_finished` has what the task's own calls cost; what its sub-task cost is the sub-task's."""
    async with started(tmp_path) as bursar:
        bursar.script({"kind": "latency", "delay_s": 0.3})
        parent = await bursar.submit(complexity="simple")
        child = await bursar.run(complexity="simple", parent_id=parent["id"])
        ended = await bursar.finished(parent["id"])
        told = [
            (await bursar.saw(t["id"], "task_finished"))["data"]["cost_usd"]
            for t in (parent, child)
        ]
        assert told == [ended["cost_usd"], child["cost_usd"]]
        assert ended["subtasks_cost_usd"] == child["cost_usd"] > 0


async def test_a_price_that_is_gone_ends_the_task_with_its_name(tmp_path: Path) -> None:
    """The price file lost a model that a paused task needs: a typed end, not an internal error."""
    prices = tmp_path / "prices.toml"
    prices.write_text('[models."claude-custom"]\ninput = "0.10"\noutput = "0.50"\n')
    data = tmp_path / "data"
    body: dict[str, Any] = {"model": "claude-custom", "on_budget": "pause", "budget_usd": 0}
    async with started(tmp_path, data_dir=data, price_file=prices) as bursar:
        task = await bursar.submit(**body)
        await bursar.saw(task["id"], "task_paused")
    async with started(tmp_path, data_dir=data) as bursar:
        await bursar.client.put(f"/tasks/{task['id']}/budget", json={"budget_usd": 1})
        ended = await bursar.finished(task["id"])
        assert (ended["outcome"], ended["error"]["type"]) == ("upstream_rejected", "unknown_price")
        assert "claude-custom" in ended["error"]["message"]


async def test_a_task_with_an_estimated_bound_is_not_refused_by_its_bytes(tmp_path: Path) -> None:
    """Its prompt is counted when it runs; until then only the smallest output is known."""
    long = "word " * 50_000
    async with started(tmp_path, session_budget_usd=0.3) as bursar:
        fields = {"complexity": "medium", "budget_usd": 0.3}
        answer = await bursar.client.post("/tasks", json={"task": long, **fields})
        assert answer.status_code == 402
        ended = await bursar.run(long, bound="estimate", **fields)
        assert ended["outcome"] == "answered"
        assert ended["cost_usd"] <= 0.3


async def test_a_pause_waits_for_the_least_that_any_route_needs(tmp_path: Path) -> None:
    """A task that may be downgraded goes on as soon as the cheapest route fits."""
    async with started(tmp_path) as bursar:
        task = await bursar.submit(
            "Say hello.",
            complexity="complex",
            on_budget="pause",
            downgrade=True,
            budget_usd=0.00001,
        )
        dear = (
            await bursar.client.post(
                "/quotes", json={"task": "Say hello.", "complexity": "complex"}
            )
        ).json()
        needed = (await bursar.saw(task["id"], "task_paused"))["data"]["needed_usd"]
        assert needed < dear["minimal_call_usd"] / 10
        await bursar.client.put(f"/tasks/{task['id']}/budget", json={"budget_usd": needed})
        ended = await bursar.finished(task["id"])
        assert ended["outcome"] in ("answered", "truncated")
        await bursar.saw(task["id"], "model_downgraded")
