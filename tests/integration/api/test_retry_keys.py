"""`Idempotency-Key` on POST /tasks/{id}/retry: one run of however many posts, as with a submission."""

import asyncio
from typing import Any

import httpx

from tests.support.service import HANG, Running

MARK = "idempotency-replayed"
REJECTED = {"kind": "spend_cap"}


async def keyed(
    bursar: Running, task_id: str, key: str, body: Any = None, **headers: str
) -> httpx.Response:
    """Ask for another run, under a name."""
    return await bursar.client.post(
        f"/tasks/{task_id}/retry", json=body, headers={"idempotency-key": key, **headers}
    )


def replayed(first: httpx.Response, again: httpx.Response) -> None:
    """The second is the first, and says so."""
    assert (MARK in first.headers, again.headers[MARK]) == (False, "true")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("location", "retry-after", "preference-applied"):
        assert again.headers.get(name) == first.headers.get(name)


async def out_of_steps(bursar: Running) -> dict[str, Any]:
    """A task that has used up its two steps, and would have needed four."""
    asked = 'Work. [[sim {"steps": 3}]]'
    task = await bursar.run(asked, tools=["text_stats"], max_steps=2)
    assert task["outcome"] == "max_steps"
    return task


async def test_makes_one_run(bursar: Running) -> None:
    """Sent again it is answered as the first time, also after that run has failed as well."""
    bursar.script({**REJECTED, "repeat": 2})
    failed = await bursar.run()
    first = await keyed(bursar, failed["id"], "k")
    assert (first.status_code, first.json()["status"]) == (202, "queued")
    again = await keyed(bursar, failed["id"], "k")
    assert (await bursar.finished(failed["id"]))["status"] == "failed"
    for answer in (again, await keyed(bursar, failed["id"], "k")):
        replayed(first, answer)
    events = [event["type"] for event in await bursar.events(failed["id"])]
    assert events.count("task_retried") == 1
    another = await keyed(bursar, failed["id"], "l")
    assert (another.status_code, MARK in another.headers) == (202, False)
    assert (await bursar.finished(failed["id"]))["outcome"] == "answered"


async def test_many_at_once(bursar: Running) -> None:
    """Parallel retries with one key: one is accepted, all get its answer."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    answers = await asyncio.gather(*(keyed(bursar, failed["id"], "k") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum(MARK not in answer.headers for answer in answers) == 1
    ended = await bursar.finished(failed["id"])
    assert (ended["outcome"], ended["runs"]) == ("answered", 2)


async def test_with_a_wait(bursar: Running) -> None:
    """What the first request was answered after its wait is what comes again."""
    failed = await out_of_steps(bursar)
    first = await keyed(bursar, failed["id"], "k", {"max_steps": 9}, prefer="wait=30")
    assert (first.status_code, first.json()["outcome"]) == (200, "answered")
    replayed(first, await keyed(bursar, failed["id"], "k", {"max_steps": 9}))


async def test_stands_for_one_request(bursar: Running) -> None:
    """Another body, another task, or a submission with the same key is refused, and changes nothing."""
    one, other = await out_of_steps(bursar), await out_of_steps(bursar)
    body = {"max_steps": 9, "budget_usd": 0.5}
    first = await keyed(bursar, one["id"], "k", body)
    replayed(first, await keyed(bursar, one["id"], "k", {"budget_usd": 0.50, "max_steps": 9}))
    submission = {"task": "Say hello."}
    for answer in (
        await keyed(bursar, one["id"], "k", {"max_steps": 8}),
        await keyed(bursar, one["id"], "k"),
        await keyed(bursar, other["id"], "k", body),
        await bursar.client.post("/tasks", json=submission, headers={"idempotency-key": "k"}),
    ):
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:bursar:problem:idempotency-key-reused"
    assert (await bursar.client.get(other["links"]["self"])).json()["status"] == "failed"
    assert (await bursar.finished(one["id"]))["outcome"] == "answered"


async def test_a_body_that_says_nothing(bursar: Running) -> None:
    """None, an empty one, and nulls are one wish."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    first = await keyed(bursar, failed["id"], "k")
    for body in ({}, {"max_steps": None}):
        replayed(first, await keyed(bursar, failed["id"], "k", body))


async def test_a_refusal_is_not_kept(bursar: Running) -> None:
    """409, 402 and 422 change nothing: the same key is good once the reason has gone."""
    bursar.script(REJECTED, HANG)
    failed = await bursar.run(session_id="s")
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
    assert (await keyed(bursar, failed["id"], "k")).status_code == 402
    assert (await keyed(bursar, "task_0", "k")).status_code == 404
    assert (await keyed(bursar, failed["id"], "")).status_code == 422
    assert bursar.rows("SELECT * FROM answers") == []
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 1})
    first = await keyed(bursar, failed["id"], "k")
    assert first.status_code == 202
    assert (await keyed(bursar, failed["id"], "l")).status_code == 409
    replayed(first, await keyed(bursar, failed["id"], "k"))


async def test_goes_with_the_content(bursar: Running) -> None:
    """The stored answer quotes the task: erased, the key still stands for it as it is now."""
    bursar.script(REJECTED)
    failed = await bursar.run()
    await keyed(bursar, failed["id"], "k", prefer="wait=30")
    assert (await bursar.client.delete(failed["links"]["self"])).status_code == 204
    assert bursar.rows("SELECT body FROM answers") == [{"body": None}]
    again = await keyed(bursar, failed["id"], "k")
    assert (again.status_code, again.json()["task"]) == (200, None)
    assert again.headers[MARK] == "true"
