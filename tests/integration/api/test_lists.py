"""GET /tasks: newest first, in pages, filtered."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.service import HANG, Running, started


async def _pages(bursar: Running, **params: Any) -> list[list[dict[str, Any]]]:
    pages = []
    while True:
        body = (await bursar.client.get("/tasks", params=params)).json()
        pages.append(body["tasks"])
        if body["next_cursor"] is None:
            return pages
        params["cursor"] = body["next_cursor"]


def _ids(tasks: list[dict[str, Any]]) -> list[str]:
    return [task["id"] for task in tasks]


async def test_empty(bursar: Running) -> None:
    """No tasks are an empty page, and no next one."""
    answer = await bursar.client.get("/tasks")
    assert (answer.status_code, answer.json()) == (200, {"tasks": [], "next_cursor": None})


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 200])
async def test_pages(bursar: Running, limit: int) -> None:
    """Pages of any size add up to all tasks, newest first, each once; the last one has no cursor."""
    made = [(await bursar.submit(budget_usd=0))["id"] for _ in range(7)]
    pages = await _pages(bursar, limit=limit)
    assert [task for page in pages for task in _ids(page)] == made[::-1]
    assert all(len(page) == limit for page in pages[:-1])
    assert 1 <= len(pages[-1]) <= limit


async def test_same_instant(bursar: Running) -> None:
    """Tasks of one instant are not lost between two pages."""
    made = [(await bursar.submit(budget_usd=0))["id"] for _ in range(5)]
    for task_id in made:
        await bursar.finished(task_id)
    await bursar.service.drain()
    bursar.alter("UPDATE tasks SET created_at_us = 1700000000000000")
    pages = await _pages(bursar, limit=2)
    assert sorted(task for page in pages for task in _ids(page)) == sorted(made)


async def test_newcomers_do_not_shift_pages(bursar: Running) -> None:
    """A task that comes while somebody turns pages neither repeats nor hides one."""
    made = [(await bursar.submit(budget_usd=0))["id"] for _ in range(4)]
    first = (await bursar.client.get("/tasks", params={"limit": 2})).json()
    await bursar.submit(budget_usd=0)
    params = {"limit": 2, "cursor": first["next_cursor"]}
    second = (await bursar.client.get("/tasks", params=params)).json()
    assert _ids(first["tasks"]) + _ids(second["tasks"]) == made[::-1]
    assert second["next_cursor"] is None


async def test_entries_are_whole(bursar: Running) -> None:
    """A listed task says the same as the task itself."""
    task = await bursar.run(session_id="s", metadata={"a": "b"})
    assert (await bursar.client.get("/tasks")).json()["tasks"] == [task]


async def test_filters(tmp_path: Path) -> None:
    """By status, by session, by both; with pages."""
    async with started(tmp_path, workers=1) as bursar:
        done = [await bursar.run(session_id=s) for s in ("a", "b", "a")]
        bursar.script(HANG)
        running = await bursar.submit(session_id="a")
        await bursar.saw(running["id"], "attempt_started")
        queued = [await bursar.submit(session_id=s) for s in ("b", "a")]

        async def found(**params: Any) -> list[str]:
            return [task for page in await _pages(bursar, limit=1, **params) for task in _ids(page)]

        assert await found(status="succeeded") == _ids(done)[::-1]
        assert await found(status="running") == [running["id"]]
        assert await found(status="queued") == _ids(queued)[::-1]
        assert await found(status="failed") == []
        assert await found(session_id="b") == [queued[0]["id"], done[1]["id"]]
        assert await found(session_id="nobody") == []
        assert await found(session_id="a", status="succeeded") == [done[2]["id"], done[0]["id"]]
        assert await found(session_id="a", status="queued") == [queued[1]["id"]]


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    "cursor", ["", "x", "AAAA", "%00", "é", "MTIz", "LTEueA", "OTk5OTk5OTk5OTk5OTk5OTk5OTkueA"]
)
async def test_bad_cursors(bursar: Running, cursor: str) -> None:
    """A cursor that we did not give out is a 400."""
    answer = await bursar.client.get("/tasks", params={"cursor": cursor})
    assert (answer.status_code, answer.json()["type"]) == (400, "urn:bursar:problem:bad-request")


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("limit", "0"),
        ("limit", "201"),
        ("limit", "-1"),
        ("limit", "x"),
        ("limit", "1e1"),
        ("status", "done"),
        ("status", ""),
        ("session_id", "a b"),
        ("session_id", ""),
        ("cursor", "a" * 201),
    ],
)
async def test_bad_parameters(bursar: Running, name: str, value: str) -> None:
    """A parameter out of bounds is a 422 that names it."""
    answer = await bursar.client.get("/tasks", params={name: value})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == [name]
