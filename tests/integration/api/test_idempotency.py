"""`Idempotency-Key`: one task of however many posts, answered as the first time."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.app import create_app
from app.domain.clock import SystemClock
from app.queue.answers import KEPT_S
from app.store.port import Store
from app.store.postgres import PostgresStore
from app.store.sqlite import SqliteStore
from tests.support.clock import ShiftedClock, yielded
from tests.support.keys import come_as, made_key
from tests.support.service import BASE_URL, HANG, Running, started

MARK = "idempotency-replayed"
BODY: dict[str, Any] = {"task": "Say hello.", "complexity": "simple"}


async def post(
    bursar: Running, key: str | None, body: Any = None, **headers: str
) -> httpx.Response:
    """POST with a key. Header names use `_` for `-`."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None:
        named["idempotency-key"] = key
    return await bursar.client.post("/tasks", json=body or BODY, headers=named)


def same(first: httpx.Response, again: httpx.Response) -> None:
    """The second is the first, and says so."""
    assert MARK not in first.headers
    assert again.headers[MARK] == "true"
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("location", "retry-after", "content-type"):
        assert again.headers[name] == first.headers[name]


def same_end(first: httpx.Response, again: httpx.Response) -> None:
    """The same of an answer that nobody has to come back for."""
    assert "retry-after" not in {*first.headers, *again.headers}
    assert (MARK in first.headers, again.headers[MARK]) == (False, "true")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    for name in ("location", "preference-applied", "content-type"):
        assert again.headers[name] == first.headers[name]


def tasks(bursar: Running) -> int:
    """How many there are."""
    count: int = bursar.rows("SELECT COUNT(*) AS n FROM tasks")[0]["n"]
    return count


async def test_the_first_answer_comes_again(bursar: Running) -> None:
    """Status, headers and body, also after the task has ended."""
    first = await post(bursar, "k")
    same(first, await post(bursar, "k"))
    await bursar.finished(first.json()["id"])
    same(first, await post(bursar, "k"))
    assert tasks(bursar) == 1


async def test_without_a_key_every_post_is_a_task(bursar: Running) -> None:
    """And another key is another submission."""
    answers = [await post(bursar, key) for key in (None, None, "a", "b")]
    assert len({answer.json()["id"] for answer in answers}) == 4
    assert not any(MARK in answer.headers for answer in answers)


SAME: list[tuple[str, str]] = [
    ('{"task":"x","priority":5}', '{ "priority" : 5, "task" : "x" }'),
    ('{"task":"x"}', '{"task":"x","priority":5,"tools":[],"system":null}'),
    ('{"task":"é"}', '{"task":"\\u00e9"}'),
    ('{"task":"x","budget_usd":0.5}', '{"task":"x","budget_usd":0.50}'),
    ('{"task":"x","budget_usd":10}', '{"task":"x","budget_usd":1e1}'),
    ('{"task":"x","deadline_s":60}', '{"task":"x","deadline_s":60.0}'),
    (
        '{"task":"x","run_at":"2026-01-01T01:00:00+01:00"}',
        '{"task":"x","run_at":"2026-01-01T00:00:00.000Z"}',
    ),
    ('{"task":"x","metadata":{"a":"1","b":"2"}}', '{"task":"x","metadata":{"b":"2","a":"1"}}'),
]


@pytest.mark.parametrize(("one", "other"), SAME)
async def test_what_is_meant_counts(bursar: Running, one: str, other: str) -> None:
    """The same submission written in another way is the same submission."""
    answers = [
        await bursar.client.post(
            "/tasks",
            content=text,
            headers={"idempotency-key": "k", "content-type": "application/json"},
        )
        for text in (one, other)
    ]
    same(*answers)


@pytest.mark.parametrize(
    "other",
    [
        {"task": "Say goodbye."},
        {"complexity": "medium"},
        {"priority": 4},
        {"budget_usd": 0.5},
        {"budget_usd": 0},
        {"metadata": {"a": "1"}},
        {"metadata": {"b": "1"}},
        {"tools": ["calculator"]},
        {"session_id": "s"},
        {"run_at": "2026-01-01T00:00:00Z"},
    ],
    ids=str,
)
async def test_another_body_is_refused(bursar: Running, other: dict[str, Any]) -> None:
    """A key stands for one submission; the first one stays as it was."""
    first = await post(bursar, "k")
    answer = await post(bursar, "k", {**BODY, **other})
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:bursar:problem:idempotency-key-reused"
    same(first, await post(bursar, "k"))
    assert tasks(bursar) == 1


async def test_many_at_once_make_one_task(bursar: Running) -> None:
    """A hundred parallel posts: one accepts, all get its answer."""
    answers = await asyncio.gather(*(post(bursar, "k") for _ in range(100)))
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.content for answer in answers}) == 1
    assert sum(MARK not in answer.headers for answer in answers) == 1
    assert tasks(bursar) == 1
    assert len(bursar.rows("SELECT * FROM accounts WHERE scope = 'task'")) == 1


async def test_many_at_once_with_two_bodies(bursar: Running) -> None:
    """Whichever comes first wins; all posts of the other are refused."""
    bodies = [BODY, {**BODY, "task": "Say goodbye."}] * 20
    answers = await asyncio.gather(*(post(bursar, "k", body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [202] * 20 + [422] * 20
    assert tasks(bursar) == 1


async def test_two_processes_over_one_store(bursar: Running) -> None:
    """Between them, too, the row in the table decides, and the loser answers what the winner did."""
    beside: Store
    if bursar.database_url is None:
        beside = SqliteStore(bursar.data_dir, SystemClock(), alone=False)
    else:
        beside = PostgresStore(bursar.database_url)
    app = create_app("other")
    app.state.services = replace(bursar.service.services, store=beside)
    transport = httpx.ASGITransport(app=app)
    async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as other:
        for key in ("a", "b", "c"):
            answers = await asyncio.gather(
                *(
                    client.post("/tasks", json=BODY, headers={"idempotency-key": key})
                    for _ in range(20)
                    for client in (bursar.client, other)
                )
            )
            assert {answer.status_code for answer in answers} == {202}
            assert len({answer.content for answer in answers}) == 1
            assert sum(MARK not in answer.headers for answer in answers) == 1
    await beside.close()
    assert tasks(bursar) == 3


@pytest.mark.before_the_store
@pytest.mark.parametrize("key", ["", "k" * 256, "tab\there", "snowman-☃".encode(), b"\xe4"])
async def test_what_is_no_key(bursar: Running, key: Any) -> None:
    """1 to 255 printable ASCII characters."""
    answer = await bursar.client.post(
        "/tasks", json=BODY, headers=[(b"idempotency-key", _raw(key))]
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:bursar:problem:invalid-idempotency-key"
    assert tasks(bursar) == 0


def _raw(key: str | bytes) -> bytes:
    return key if isinstance(key, bytes) else key.encode()


async def test_two_keys_are_none(bursar: Running) -> None:
    """Which of them would be the name of the submission?"""
    twice = [("idempotency-key", "a"), ("idempotency-key", "b")]
    answer = await bursar.client.post("/tasks", json=BODY, headers=twice)
    assert answer.status_code == 422
    assert tasks(bursar) == 0


@pytest.mark.parametrize("key", ["k", "k" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "a b~!"])
async def test_what_is_a_key(bursar: Running, key: str) -> None:
    """Every printable ASCII character is taken as it is."""
    same(await post(bursar, key), await post(bursar, key))


async def test_keys_are_their_owners(bursar: Running) -> None:
    """The same key of somebody else is another one: nobody gets another's task, or a hint of it."""
    ids = set()
    for owner in ("acme", "zenith"):
        _, text = await made_key(bursar, owner)
        come_as(bursar, text)
        first = await post(bursar, "k", {**BODY, "task": f"Work for {owner}."})
        assert first.status_code == 202
        same(first, await post(bursar, "k", {**BODY, "task": f"Work for {owner}."}))
        ids.add(first.json()["id"])
    assert len(ids) == 2


async def test_two_keys_of_one_owner_share_it(bursar: Running) -> None:
    """A client that changes its API key between two tries has still submitted once."""
    answers = []
    for _ in range(2):
        _, text = await made_key(bursar, "acme")
        come_as(bursar, text)
        answers.append(await post(bursar, "k"))
    same(*answers)


async def test_with_a_wait(bursar: Running) -> None:
    """A wait is each request's own: the answer is how the task stands then, still marked."""
    bursar.script({**HANG, "repeat": 1})
    first = await post(bursar, "k")
    task_id = first.json()["id"]
    await bursar.saw(task_id, "attempt_started")
    waited = await post(bursar, "k", prefer="wait=1")
    assert (waited.status_code, waited.json()["status"]) == (202, "running")
    assert (waited.headers[MARK], waited.headers["preference-applied"]) == ("true", "wait=1")
    await bursar.client.post(f"/tasks/{task_id}/cancel")
    ended = await post(bursar, "k", prefer="wait=30")
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    assert (ended.headers[MARK], ended.headers["location"]) == ("true", f"/tasks/{task_id}")
    same(first, await post(bursar, "k"))


@pytest.mark.parametrize("prefer", ["wait=30", "wait=1", "respond-async"])
async def test_first_with_a_wait(bursar: Running, prefer: str) -> None:
    """What a request that waited was answered comes again as it was, whether the second one waits or not."""
    ended = await post(bursar, "k", prefer="wait=30")
    assert (ended.status_code, ended.json()["result"] is None) == (200, False)
    again = await post(bursar, "k", prefer=prefer)
    same_end(ended, again)
    assert again.headers["preference-applied"] == "wait=30"
    same_end(ended, await post(bursar, "k"))
    assert tasks(bursar) == 1


async def test_first_with_a_wait_in_vain(bursar: Running) -> None:
    """It was answered how the task stood: that comes again, but for those who wait themselves."""
    bursar.script({**HANG, "repeat": 1})
    first = await post(bursar, "k", prefer="wait=1")
    assert (first.status_code, first.json()["status"]) == (202, "running")
    await bursar.client.post(f"/tasks/{first.json()['id']}/cancel")
    ended = await post(bursar, "k", prefer="wait=30")
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    same(first, await post(bursar, "k"))


async def test_while_the_first_waits(bursar: Running) -> None:
    """Until it is answered there is its acceptance."""
    bursar.script({**HANG, "repeat": 1})
    waiting = asyncio.create_task(post(bursar, "k", prefer="wait=30"))
    while not bursar.rows("SELECT * FROM answers"):
        await yielded()
    meanwhile = await post(bursar, "k")
    assert (meanwhile.status_code, meanwhile.json()["status"]) == (202, "queued")
    await bursar.client.post(f"/tasks/{meanwhile.json()['id']}/cancel")
    ended = await waiting
    assert (ended.status_code, ended.json()["status"]) == (200, "cancelled")
    same_end(ended, await post(bursar, "k"))


async def test_an_answer_after_a_wait_is_erased_as_well(bursar: Running) -> None:
    """It quotes the prompt and the result: with the task's content both go."""
    first = await post(bursar, "k", prefer="wait=30")
    task_id = first.json()["id"]
    (kept,) = bursar.rows("SELECT status, body FROM answers")
    assert (kept["status"], kept["body"].encode()) == (200, first.content)
    assert (await bursar.client.delete(f"/tasks/{task_id}")).status_code == 204
    assert bursar.rows("SELECT body FROM answers") == [{"body": None}]
    again = await post(bursar, "k")
    assert (again.status_code, again.json()["result"], again.json()["task"]) == (200, None, None)


async def test_refusals_are_not_kept(bursar: Running) -> None:
    """402 and 422 change nothing: the same key is good once the reason has gone."""
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
    body = {**BODY, "session_id": "s"}
    assert (await post(bursar, "k", body)).status_code == 402
    assert (await post(bursar, "k", {**BODY, "tools": ["nothing"]})).status_code == 422
    assert bursar.rows("SELECT * FROM answers") == []
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 1})
    same(await post(bursar, "k", body), await post(bursar, "k", body))


async def test_a_full_queue_answers_again(tmp_path: Path) -> None:
    """Whoever was accepted hears so; a newcomer's 429 is not kept."""
    async with started(tmp_path, workers=1, queue_limit=1) as bursar:
        bursar.script(HANG)
        running = await bursar.submit()
        await bursar.saw(running["id"], "attempt_started")
        first = await post(bursar, "k")
        assert first.status_code == 202
        assert (await post(bursar, "other")).status_code == 429
        same(first, await post(bursar, "k"))
        await bursar.client.post(f"/tasks/{first.json()['id']}/cancel")
        assert MARK not in (await post(bursar, "other")).headers


async def test_a_spent_budget_answers_again(bursar: Running) -> None:
    """The task was accepted; what its session can pay today does not matter."""
    body = {**BODY, "session_id": "s"}
    first = await post(bursar, "k", body)
    await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0})
    assert (await post(bursar, "other", body)).status_code == 402
    same(first, await post(bursar, "k", body))


async def test_a_stopping_service_answers_again(bursar: Running) -> None:
    """It takes no new work, but it knows what it took; it does not wait any more."""
    bursar.script(HANG)
    first = await post(bursar, "k")
    await bursar.saw(first.json()["id"], "attempt_started")
    await bursar.service.drain()
    same(first, await post(bursar, "k"))
    assert (await post(bursar, "k", prefer="wait=30")).status_code == 202
    assert (await post(bursar, "other")).status_code == 503


async def test_over_a_restart(tmp_path: Path) -> None:
    """The answer is as durable as the task."""
    async with started(tmp_path) as bursar:
        first = await post(bursar, "k")
    async with started(tmp_path) as bursar:
        same(first, await post(bursar, "k"))


async def test_for_a_day(tmp_path: Path) -> None:
    """A day later the key is free for another submission."""
    clock = ShiftedClock()
    async with started(tmp_path, clock=clock) as bursar:
        first = await post(bursar, "k")
        clock.move(KEPT_S - 60)
        same(first, await post(bursar, "k"))
        clock.move(60)
        again = await post(bursar, "k", {**BODY, "task": "Say goodbye."})
        assert (again.status_code, MARK in again.headers) == (202, False)
        assert again.json()["id"] != first.json()["id"]


async def test_after_an_erasure(bursar: Running) -> None:
    """The stored answer quoted the prompt: it is gone, too; the key still stands for the task as it is now."""
    first = await post(bursar, "k")
    task_id = first.json()["id"]
    await bursar.finished(task_id)
    assert (await bursar.client.delete(f"/tasks/{task_id}")).status_code == 204
    assert bursar.rows("SELECT body FROM answers") == [{"body": None}]
    again = await post(bursar, "k")
    assert (again.status_code, again.headers[MARK]) == (200, "true")
    assert (again.json()["id"], again.json()["task"]) == (task_id, None)
    assert tasks(bursar) == 1
