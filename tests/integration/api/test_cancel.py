"""POST /tasks/{id}/cancel."""

from pathlib import Path
from typing import Any

from app.domain.clock import US_PER_S, SystemClock, rfc3339
from tests.support.service import HANG, Running, started


async def test_waiting(tmp_path: Path) -> None:
    """A waiting task is cancelled at once, unpaid, and never starts."""
    async with started(tmp_path, workers=1) as bursar:
        bursar.script(HANG)
        await bursar.saw((await bursar.submit())["id"], "attempt_started")
        task = await bursar.submit()
        answer = await bursar.client.post(task["links"]["cancel"])
        kinds = [event["type"] for event in await bursar.events(task["id"])]
        seen = len(bursar.simulator.log.seen)
    assert answer.status_code == 200
    assert answer.headers["location"] == task["links"]["self"]
    assert (answer.json()["status"], answer.json()["outcome"]) == ("cancelled", "cancelled")
    assert (answer.json()["cost_usd"], answer.json()["runs"]) == (0.0, 0)
    assert answer.json()["finished_at"] is not None
    assert kinds == ["task_accepted", "cancel_requested", "task_finished"]
    assert seen == 1


async def test_running(bursar: Running) -> None:
    """A running task is asked to stop; its broken-off call is booked, for it may have been billed."""
    bursar.script(HANG)
    task = await bursar.submit()
    await bursar.saw(task["id"], "attempt_started")
    answer = await bursar.client.post(task["links"]["cancel"])
    assert answer.status_code == 202
    assert answer.headers["location"] == task["links"]["self"]
    assert answer.json()["status"] in {"cancelling", "cancelled"}
    ended = await bursar.finished(task["id"])
    assert (ended["status"], ended["outcome"], ended["error"]) == ("cancelled", "cancelled", None)
    assert ended["cost_usd"] == ended["cost"]["presumed_usd"] > 0
    assert ended["reserved_usd"] == 0.0


async def test_twice(bursar: Running) -> None:
    """Asking again is harmless until the task has ended; then it is a 409 that says how it ended."""
    bursar.script(HANG)
    task = await bursar.submit()
    await bursar.saw(task["id"], "attempt_started")
    first = await bursar.client.post(task["links"]["cancel"])
    second = await bursar.client.post(task["links"]["cancel"])
    assert first.status_code == 202
    assert second.status_code in {202, 409}
    await bursar.finished(task["id"])
    third = await bursar.client.post(task["links"]["cancel"])
    assert third.status_code == 409
    assert third.json()["task_status"] == third.json()["outcome"] == "cancelled"


async def test_finished(bursar: Running) -> None:
    """An ended task stays as it ended."""
    task = await bursar.run()
    answer = await bursar.client.post(task["links"]["cancel"])
    body = answer.json()
    assert (answer.status_code, body["type"]) == (409, "urn:bursar:problem:task-finished")
    assert (body["task_id"], body["task_status"], body["outcome"]) == (
        task["id"],
        "succeeded",
        "answered",
    )
    assert await bursar.finished(task["id"]) == task


async def _cancelled_at_once(bursar: Running, task: dict[str, Any]) -> dict[str, Any]:
    """Nobody works on it: the answer to the cancel is the end already."""
    answer = await bursar.client.post(task["links"]["cancel"])
    ended: dict[str, Any] = answer.json()
    assert (answer.status_code, ended["status"], ended["outcome"]) == (
        200,
        "cancelled",
        "cancelled",
    )
    assert ended["reserved_usd"] == 0.0
    kinds = [event["type"] for event in await bursar.events(task["id"])]
    assert kinds[-2:] == ["cancel_requested", "task_finished"]
    return ended


async def test_delayed(bursar: Running) -> None:
    """A task that waits for its instant never starts."""
    task = await bursar.submit(run_at=rfc3339(SystemClock().now_us() + 3_600 * US_PER_S))
    assert (await _cancelled_at_once(bursar, task))["runs"] == 0
    assert not bursar.simulator.log.seen


async def test_parked(bursar: Running) -> None:
    """A task that waits for its next attempt makes none; the refused one cost nothing."""
    bursar.script({"kind": "rate_limit", "retry_after": 60})
    task = await bursar.submit()
    await bursar.saw(task["id"], "task_requeued")
    assert (await _cancelled_at_once(bursar, task))["cost_usd"] == 0.0
    assert len(bursar.simulator.log.seen) == 1


async def test_paused(bursar: Running) -> None:
    """A task that waits for money is over; a raised budget does not bring it back."""
    task = await bursar.submit(budget_usd=0.000001, on_budget="pause")
    await bursar.saw(task["id"], "task_paused")
    ended = await _cancelled_at_once(bursar, task)
    await bursar.client.put(f"/sessions/{task['session_id']}/budget", json={"budget_usd": 9})
    raised = await bursar.client.put(task["links"]["self"] + "/budget", json={"budget_usd": 9})
    assert raised.status_code == 409
    assert await bursar.finished(task["id"]) == ended
    assert not bursar.simulator.log.seen


async def test_waiting_for_other_calls_money(bursar: Running) -> None:
    """A call that waits for its turn in a budget's line is given up within two seconds, and is never made."""
    bursar.script(HANG)
    first = await bursar.submit(session_id="tight", max_tokens=2_000, complexity="simple")
    held = await bursar.saw(first["id"], "attempt_started")
    tight = {"budget_usd": held["data"]["reserved_usd"]}
    await bursar.client.put("/sessions/tight/budget", json=tight)
    second = await bursar.submit(session_id="tight", max_tokens=2_000, complexity="simple")
    await bursar.saw(second["id"], "reservation_waited")
    answer = await bursar.client.post(second["links"]["cancel"])
    assert answer.status_code in {200, 202}
    ended = await bursar.finished(second["id"], within_s=2)
    assert (ended["status"], ended["cost_usd"], ended["reserved_usd"]) == ("cancelled", 0.0, 0.0)
    assert len(bursar.simulator.log.seen) == 1
    assert (await bursar.client.get(first["links"]["self"])).json()["status"] == "running"


async def test_failed(bursar: Running) -> None:
    """A task that failed says so, and why."""
    bursar.script({"kind": "refusal"})
    task = await bursar.run()
    answer = await bursar.client.post(task["links"]["cancel"])
    body = answer.json()
    assert (answer.status_code, body["task_status"], body["outcome"]) == (409, "failed", "refused")
    assert "refused" in body["detail"]
