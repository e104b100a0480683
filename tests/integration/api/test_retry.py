"""POST /tasks/{id}/retry, and what failed tasks tell about it."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.clock import yielded
from tests.support.keys import come_as, made_key
from tests.support.service import HANG, Running, started

STEPS = 'Work. [[sim {"steps": 3}]]'
TOOLS = ["text_stats"]
REJECTED = {"kind": "spend_cap"}


async def retried(bursar: Running, task_id: str, **fields: object) -> httpx.Response:
    """Ask for another run; `fields` go into the body."""
    return await bursar.client.post(f"/tasks/{task_id}/retry", json=fields or None)


async def out_of_steps(bursar: Running, **fields: object) -> dict[str, Any]:
    """A task that has used up its two steps."""
    task = await bursar.run(STEPS, tools=TOOLS, max_steps=2, **fields)
    assert task["outcome"] == "max_steps"
    return task


def calls(bursar: Running, task_id: str) -> list[str]:
    """The attempts of a task that reached the upstream, in order."""
    lines = bursar.simulator.bill.as_json(with_lines=True)["lines"]
    references = [line["client_reference"] for line in lines]
    return [one.partition("/")[2] for one in references if one.startswith(task_id)]


async def test_goes_on_from_its_last_step(bursar: Running) -> None:
    """What was answered is not asked again: the next run pays for the rest alone."""
    failed = await out_of_steps(bursar)
    answer = await retried(bursar, failed["id"], max_steps=9)
    task = answer.json()
    assert answer.status_code == 202
    assert answer.headers["location"] == f"/tasks/{failed['id']}"
    assert int(answer.headers["retry-after"]) >= 1
    assert (task["outcome"], task["error"], task["finished_at"], task["retry"]) == (None,) * 4
    assert task["max_steps"] == 9
    ended = await bursar.finished(failed["id"])
    assert (ended["outcome"], ended["runs"]) == ("answered", 2)
    assert ended["created_at"] == failed["created_at"]
    # the answer at the limit asked for a tool that could not run any more: its question is asked again
    assert calls(bursar, failed["id"]) == ["1/1", "2/1", "3/1", "4/1", "5/1"]
    assert ended["steps"] == 5
    assert ended["cost_usd"] > failed["cost_usd"]


async def test_the_events_go_on(bursar: Running) -> None:
    """One journal: two ends, a retry between them, numbers without a gap; a stream ends with the second."""
    failed = await out_of_steps(bursar)
    first = await bursar.events(failed["id"])
    await retried(bursar, failed["id"], max_steps=9)
    await bursar.finished(failed["id"])
    events = await bursar.events(failed["id"])
    assert events[: len(first)] == first
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    kinds = [event["type"] for event in events]
    assert kinds[len(first)] == "task_retried"
    assert events[len(first)]["data"]["outcome"] == "max_steps"
    assert kinds.count("task_finished") == 2
    async with asyncio.timeout(20), bursar.stream(failed["links"]["events"]) as stream:
        assert [event["id"] for event in await stream.rest()] == [e["seq"] for e in events]


async def test_a_stream_that_had_ended_goes_on(bursar: Running) -> None:
    """Once at its end it is told to stop; after a retry it goes on exactly after what it had seen."""
    failed = await out_of_steps(bursar)
    path, seen = failed["links"]["events"], len(await bursar.events(failed["id"]))
    done = {"accept": "text/event-stream", "last-event-id": str(seen)}
    assert (await bursar.client.get(path, headers=done)).status_code == 204
    await retried(bursar, failed["id"], max_steps=9)
    async with (
        asyncio.timeout(20),
        bursar.stream(path, last_event_id=str(seen)) as stream,
    ):
        rest = await stream.rest()
    assert (rest[0]["id"], rest[0]["event"]) == (seen + 1, "task_retried")
    assert rest[-1]["event"] == "task_finished"
    done["last-event-id"] = str(rest[-1]["id"])
    assert (await bursar.client.get(path, headers=done)).status_code == 204


async def test_waits_for_the_end(bursar: Running) -> None:
    """`Prefer: wait=N` as with a submission."""
    failed = await out_of_steps(bursar)
    answer = await bursar.client.post(
        failed["links"]["retry"], json={"max_steps": 9}, headers={"prefer": "wait=30"}
    )
    assert (answer.status_code, answer.json()["outcome"]) == (200, "answered")
    assert answer.headers["preference-applied"] == "wait=30"


async def test_at_once_and_again_make_one_run(bursar: Running) -> None:
    """Of many parallel retries one is accepted; the others hear how the task stands."""
    bursar.script(REJECTED, {**HANG, "repeat": 1})
    failed = await bursar.run()
    answers = await asyncio.gather(*(retried(bursar, failed["id"]) for _ in range(20)))
    assert sorted(answer.status_code for answer in answers) == [202] + [409] * 19
    refusal = next(answer.json() for answer in answers if answer.status_code == 409)
    assert refusal["type"] == "urn:bursar:problem:task-not-failed"
    assert refusal["task_status"] in ("queued", "running")
    kinds = [event["type"] for event in await bursar.events(failed["id"])]
    assert kinds.count("task_retried") == 1
    async with asyncio.timeout(30):
        while (await bursar.client.get(failed["links"]["self"])).json()["status"] != "running":
            await yielded()
    await bursar.client.post(failed["links"]["cancel"])
    ended = await bursar.finished(failed["id"])
    assert (ended["status"], ended["runs"]) == ("cancelled", 2)


async def test_what_has_not_failed(bursar: Running) -> None:
    """409 with the status and, where there is one, the outcome."""
    succeeded = await bursar.run()
    bursar.script(HANG)
    running = await bursar.submit()
    await bursar.saw(running["id"], "attempt_started")
    for task_id, status, outcome in (
        (succeeded["id"], "succeeded", "answered"),
        (running["id"], "running", None),
    ):
        answer = await retried(bursar, task_id)
        assert answer.status_code == 409
        problem = answer.json()
        assert (problem["task_status"], problem["outcome"]) == (status, outcome)


async def test_what_is_not_there(bursar: Running) -> None:
    """404, for another owner's task too."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    _, text = await made_key(bursar, "acme")
    come_as(bursar, text)
    for task_id in (failed["id"], "task_0"):
        answer = await retried(bursar, task_id)
        assert (answer.status_code, answer.json()["type"][-14:]) == (404, "task-not-found")


async def test_what_was_erased(bursar: Running) -> None:
    """Nothing is left to go on from."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    await bursar.client.delete(failed["links"]["self"])
    answer = await retried(bursar, failed["id"])
    assert (answer.status_code, answer.json()["type"][-11:]) == (409, "task-erased")
    shown = (await bursar.client.get(failed["links"]["self"])).json()
    assert shown["retry"] is None


async def test_needs_more_steps(bursar: Running) -> None:
    """A task that has used up its steps says so before and after."""
    failed = await out_of_steps(bursar)
    assert failed["retry"]["needs"] == ["max_steps"]
    for fields in ({}, {"max_steps": 2}):
        answer = await retried(bursar, failed["id"], **fields)
        assert (answer.status_code, answer.json()["type"][-16:]) == (422, "retry-needs-more")
        assert answer.json()["errors"][0]["field"] == "max_steps"
    assert (await bursar.client.get(failed["links"]["self"])).json() == failed


async def test_needs_money(bursar: Running) -> None:
    """402 while the budget cannot pay a call; with more it goes on, and the new limit holds."""
    failed = await bursar.run(STEPS, tools=TOOLS, budget_usd=0)
    assert failed["outcome"] == "budget_exhausted"
    assert failed["retry"]["needs"] == ["budget"]
    answer = await retried(bursar, failed["id"])
    assert (answer.status_code, answer.json()["scope"]) == (402, "task")
    assert (await bursar.client.get(failed["links"]["self"])).json() == failed
    assert (await retried(bursar, failed["id"], budget_usd=0.5)).status_code == 202
    ended = await bursar.finished(failed["id"])
    assert (ended["outcome"], ended["budget_usd"]) == ("answered", 0.5)
    kinds = [event["type"] for event in await bursar.events(failed["id"])]
    assert kinds.count("task_budget_set") == 1


async def test_another_budget_is_spent(bursar: Running) -> None:
    """The session's money counts as it does for a new task."""
    bursar.script(REJECTED)
    failed = await bursar.run(session_id="s")
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
    answer = await retried(bursar, failed["id"], budget_usd=1)
    assert (answer.status_code, answer.json()["scope"]) == (402, "session")
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 1})
    assert (await retried(bursar, failed["id"])).status_code == 202
    assert (await bursar.finished(failed["id"]))["status"] == "succeeded"


@pytest.mark.parametrize("stop", ["empty", "refusal"])
async def test_a_closing_turn_is_undone(bursar: Running, stop: str) -> None:
    """A task whose closing turn brought nothing goes on with the new money as if it had not been closed."""
    bursar.script({"kind": "stop", "stop": stop, "prompt_contains": "this is your last turn"})
    text = 'Work. [[sim {"steps": 8}]]'
    task = {"tools": TOOLS, "on_budget": "finalize", "complexity": "simple"}
    failed = await bursar.run(text, budget_usd=0.001, **task)
    assert failed["status"] == "failed"
    await retried(bursar, failed["id"], budget_usd=1)
    ended = await bursar.finished(failed["id"])
    assert (ended["outcome"], ended["partial"]) == ("answered", False)
    # the closing turn was one answer more than the work takes
    assert ended["steps"] == 10
    events = [event["type"] for event in await bursar.events(failed["id"])]
    assert events.count("tool_finished") == 8


async def test_deadline_starts_anew(bursar: Running) -> None:
    """What ran out of time has all of it again, or as much as is named."""
    bursar.script(HANG)
    failed = await bursar.run(deadline_s=0.2)
    assert failed["outcome"] == "deadline"
    bursar.script()
    answer = await retried(bursar, failed["id"], deadline_s=600)
    assert answer.json()["deadline_at"] > failed["deadline_at"]
    assert (await bursar.finished(failed["id"]))["outcome"] == "answered"


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [({"kind": "refusal"}, "refused"), (REJECTED, "upstream_spend_cap")],
)
async def test_the_same_question(bursar: Running, fault: dict[str, Any], outcome: str) -> None:
    """After a refusal it is asked again as it was, without a body, or with an empty one."""
    bursar.script({**fault, "repeat": 2})
    failed = await bursar.run()
    assert (failed["outcome"], failed["retry"]["needs"]) == (outcome, [])
    bare = await bursar.client.post(failed["links"]["retry"])
    assert bare.status_code == 202
    assert (await bursar.finished(failed["id"]))["outcome"] == outcome
    assert (await bursar.client.post(failed["links"]["retry"], json={})).status_code == 202
    ended = await bursar.finished(failed["id"])
    assert (ended["outcome"], ended["runs"]) == ("answered", 3)


async def test_retries_of_a_question_start_anew(tmp_path: Path) -> None:
    """What the upstream failed three times is tried as often again, under new numbers."""
    async with started(tmp_path, retry_attempts=2) as bursar:
        bursar.script({"kind": "overloaded", "repeat": 3})
        failed = await bursar.run()
        assert failed["outcome"] == "upstream_failed"
        await retried(bursar, failed["id"])
        ended = await bursar.finished(failed["id"])
        assert ended["outcome"] == "answered"
        events = await bursar.events(failed["id"])
    attempts = [e["data"]["attempt"] for e in events if e["type"] == "attempt_started"]
    assert attempts == [1, 2, 3, 4]


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    "body",
    [
        {"max_steps": 0},
        {"max_steps": 101},
        {"max_steps": "9"},
        {"max_steps": 2.0},
        {"budget_usd": -1},
        {"budget_usd": "1"},
        {"deadline_s": 0},
        {"deadline_s": 7 * 86_400 + 1},
        {"task": "Something else."},
        {"unknown": 1},
        [],
        "x",
    ],
    ids=str,
)
async def test_strictly(bursar: Running, body: Any) -> None:
    """What cannot be accepted changes nothing."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    answer = await bursar.client.post(failed["links"]["retry"], json=body)
    assert answer.status_code == 422
    assert (await bursar.client.get(failed["links"]["self"])).json() == failed


async def test_bodies_are_json(bursar: Running) -> None:
    """A body that is there must say that it is JSON; no body need not."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    answer = await bursar.client.post(failed["links"]["retry"], content=b"max_steps=9")
    assert answer.status_code == 415


async def test_stopping_and_full(tmp_path: Path) -> None:
    """A retry takes a place in the queue like any other task."""
    async with started(tmp_path, workers=1, queue_limit=1) as bursar:
        bursar.script(REJECTED, HANG)
        failed = await bursar.run()
        running = await bursar.submit()
        await bursar.saw(running["id"], "attempt_started")
        await bursar.submit()
        full = await retried(bursar, failed["id"])
        assert (full.status_code, full.headers["retry-after"]) == (429, "5")
        await bursar.service.drain()
        assert (await retried(bursar, failed["id"])).status_code == 503


async def test_over_a_restart(tmp_path: Path) -> None:
    """The next process begins the run that this one only accepted."""
    async with started(tmp_path, workers=1) as bursar:
        bursar.script(REJECTED, HANG)
        failed = await bursar.run()
        running = await bursar.submit()
        await bursar.saw(running["id"], "attempt_started")
        await retried(bursar, failed["id"])
    async with started(tmp_path) as bursar:
        assert (await bursar.finished(failed["id"]))["outcome"] == "answered"


async def test_the_failed_ones(bursar: Running) -> None:
    """`GET /tasks?status=failed`, by outcome and session, with what went wrong and what a retry needs."""
    bursar.script(REJECTED, {"kind": "refusal"})
    rejected = await bursar.run(session_id="s")
    refused = await bursar.run(session_id="s")
    spent = await bursar.run(budget_usd=0)
    await bursar.run(session_id="s")

    async def found(**query: str) -> list[str]:
        answer = await bursar.client.get("/tasks", params=query)
        assert answer.status_code == 200, answer.text
        return [task["id"] for task in answer.json()["tasks"]]

    assert await found(status="failed") == [spent["id"], refused["id"], rejected["id"]]
    assert await found(outcome="refused") == [refused["id"]]
    assert await found(outcome="budget_exhausted", status="failed") == [spent["id"]]
    assert await found(outcome="answered", status="failed") == []
    assert await found(outcome="refused", session_id="s") == [refused["id"]]
    assert await found(outcome="refused", session_id="other") == []
    for task in (await bursar.client.get("/tasks", params={"status": "failed"})).json()["tasks"]:
        assert task["error"]["message"]
        assert task["retry"]["advice"]
    assert (await bursar.client.get("/tasks", params={"outcome": "unknown"})).status_code == 422
    await retried(bursar, refused["id"])
    await bursar.finished(refused["id"])
    assert await found(outcome="refused") == []


async def test_pages_by_outcome(bursar: Running) -> None:
    """A cursor goes on where the page before ended."""
    bursar.script({**REJECTED, "repeat": 5})
    ids = [(await bursar.run())["id"] for _ in range(5)]
    seen, cursor = [], None
    while True:
        query = {"outcome": "upstream_spend_cap", "limit": "2"} | (
            {"cursor": cursor} if cursor else {}
        )
        page = (await bursar.client.get("/tasks", params=query)).json()
        seen += [task["id"] for task in page["tasks"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == ids[::-1]
