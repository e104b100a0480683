"""`urgency: economy` over HTTP: what is taken, what is shown while it waits, what it costs."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import yielded
from tests.support.service import Running, started

QUICK: dict[str, Any] = {"batch_linger_s": 0.01, "batch_poll_s": 0.01}


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service with one worker, whose batches are processed on command."""
    async with started(tmp_path, workers=1, **QUICK) as running:
        running.simulator.batches.delay_s = None
        yield running


def _process(bursar: Running) -> None:
    for batch in bursar.simulator.batches.all.values():
        if batch.ended_at_us is None:
            bursar.simulator.batches.process(batch)


async def _settled(bursar: Running) -> None:
    """Wait until every question that was on its way is paid."""
    async with asyncio.timeout(20):
        while bursar.rows("SELECT 1 FROM batch_items"):
            await yielded(20)


async def _look(bursar: Running, task_id: str) -> dict[str, Any]:
    found: dict[str, Any] = (await bursar.client.get(f"/tasks/{task_id}")).json()
    return found


async def test_the_whole_way(bursar: Running) -> None:
    """Queued with its batch shown, answered within the batch, paid at half price; the journal tells of it."""
    task = await bursar.submit(urgency="economy")
    assert (task["urgency"], task["max_steps"], task["batch"]) == ("economy", 1, None)
    batched = await bursar.saw(task["id"], "attempt_batched")
    waiting = await _look(bursar, task["id"])
    assert (waiting["status"], waiting["batch"]["state"]) == ("queued", "in_batch")
    assert waiting["batch"]["batch_id"] == batched["data"]["batch_id"]
    assert waiting["reserved_usd"] > 0
    listed = (await bursar.client.get("/tasks")).json()["tasks"]
    assert [one["batch"]["state"] for one in listed] == ["in_batch"]
    assert 'bursar_batch_items{state="in_batch"} 1.0' in (await bursar.client.get("/metrics")).text
    _process(bursar)
    ended = await bursar.finished(task["id"])
    assert (ended["outcome"], ended["batch"], ended["reserved_usd"]) == ("answered", None, 0)
    assert round(ended["cost"]["confirmed_usd"] * 1e9) == bursar.simulator.bill.total.nano
    at_once = await bursar.run()
    assert round(ended["cost_usd"] * 1e9) == -(-round(at_once["cost_usd"] * 1e9) // 2)
    names = [event["type"] for event in await bursar.events(task["id"])]
    assert names == [
        "task_accepted",
        "task_claimed",
        "attempt_started",
        "task_requeued",
        "attempt_batched",
        "attempt_returned",
        "task_claimed",
        "model_answered",
        "task_finished",
    ]
    metrics = (await bursar.client.get("/metrics")).text
    assert 'bursar_batch_items_returned_total{outcome="succeeded"} 1.0' in metrics


async def test_the_only_worker_is_free(bursar: Running) -> None:
    """While its question is in a batch, another task runs and ends."""
    task = await bursar.submit(urgency="economy")
    await bursar.saw(task["id"], "attempt_batched")
    assert (await bursar.run("Something else."))["outcome"] == "answered"
    assert (await _look(bursar, task["id"]))["status"] == "queued"


async def test_it_counts_for_no_queue(tmp_path: Path) -> None:
    """Tasks in a batch take nobody's place in the queue."""
    async with started(tmp_path, queue_limit=1, **QUICK) as bursar:
        bursar.simulator.batches.delay_s = None
        for _ in range(3):
            task = await bursar.submit(urgency="economy")
            await bursar.saw(task["id"], "attempt_batched")
        assert (await bursar.run())["outcome"] == "answered"


async def test_cancel(bursar: Running) -> None:
    """At once; presumed, and paid by its bill when the batch tells."""
    task = await bursar.submit(urgency="economy")
    other = await bursar.submit(urgency="economy")
    for one in (task, other):
        await bursar.saw(one["id"], "attempt_batched")
    answer = await bursar.client.post(task["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")
    assert answer.json()["cost"]["presumed_usd"] > 0
    _process(bursar)
    assert (await bursar.finished(other["id"]))["outcome"] == "answered"
    await _settled(bursar)
    (ledger,) = bursar.rows("SELECT SUM(amount_nano) AS nano FROM ledger_lines WHERE ended = 1")
    assert ledger["nano"] == bursar.simulator.bill.total.nano


async def test_a_restart_in_between(tmp_path: Path) -> None:
    """The next process fetches what the last one sent."""
    async with started(tmp_path, **QUICK) as first:
        first.simulator.batches.delay_s = None
        task = await first.submit(urgency="economy")
        await first.saw(task["id"], "attempt_batched")
        kept = first.simulator.batches.all
    async with started(tmp_path, **QUICK) as second:
        second.simulator.batches.all.update(kept)
        _process(second)
        ended = await second.finished(task["id"])
    assert ended["outcome"] == "answered"


async def test_a_quote_is_half(bursar: Running) -> None:
    """Of what the same would cost at once, in one step."""
    body = {"task": "Say hello.", "max_steps": 1, "max_tokens": 100}
    at_once = (await bursar.client.post("/quotes", json=body)).json()
    economy = (await bursar.client.post("/quotes", json={**body, "urgency": "economy"})).json()
    for name in ("worst_case_usd", "first_call_worst_case_usd", "likely_usd", "minimal_call_usd"):
        assert round(economy[name] * 1e9) == -(-round(at_once[name] * 1e9) // 2), name


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"tools": ["calculator"]}, "tools"),
        ({"max_steps": 2}, "max_steps"),
        ({"on_budget": "finalize"}, "on_budget"),
        ({"escalate": True}, "escalate"),
    ],
)
async def test_what_no_batch_can_do(bursar: Running, fields: dict[str, Any], field: str) -> None:
    """A typed 422 that names the field and says why."""
    answer = await bursar.client.post(
        "/tasks", json={"task": "Say hello.", "urgency": "economy", **fields}
    )
    assert answer.status_code == 422
    problem = answer.json()
    assert problem["type"] == "urn:bursar:problem:not-for-economy"
    assert [error["field"] for error in problem["errors"]] == [field]
    assert "batch" in problem["detail"]


async def test_the_router_may_choose_the_model(bursar: Running) -> None:
    """`auto` finds the route; nobody is asked, and nobody goes on instead."""
    task = await bursar.submit(urgency="economy", complexity="auto")
    assert (task["escalate"], task["routing"] is not None) == (False, True)


async def test_an_unknown_urgency(bursar: Running) -> None:
    """Is a 422."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "urgency": "whenever"})
    assert answer.status_code == 422


async def test_erasing_a_cancelled_one(bursar: Running) -> None:
    """Its question is gone from the batch's rows, too; what it costs is still taken down."""
    task = await bursar.submit("A secret.", urgency="economy")
    other = await bursar.submit(urgency="economy")
    for one in (task, other):
        await bursar.saw(one["id"], "attempt_batched")
    await bursar.client.post(task["links"]["cancel"])
    assert (await bursar.client.delete(task["links"]["self"])).status_code == 204
    rows = bursar.rows("SELECT params, result FROM batch_items WHERE task_id = ?", task["id"])
    assert all(row["params"] is row["result"] is None for row in rows)
    _process(bursar)
    await bursar.finished(other["id"])
    await _settled(bursar)
    assert (await _look(bursar, task["id"]))["cost"]["presumed_usd"] == 0
