"""POST /tasks/{id}/cancel."""

from pathlib import Path

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
