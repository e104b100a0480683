"""`run_at` and the limits of sessions, through the API: what is put off, what is held back, and for how long."""

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import US_PER_S, SystemClock, rfc3339
from tests.support.service import HANG, Running, started


def ahead(seconds: float) -> str:
    """An instant from now."""
    return rfc3339(SystemClock().now_us() + int(seconds * US_PER_S))


async def test_put_off(bursar: Running) -> None:
    """It stands queued, with its instant and a deadline that counts from there."""
    at = ahead(3_600)
    task = await bursar.submit(run_at=at, deadline_s=60)
    shown = (await bursar.client.get(task["links"]["self"])).json()
    for one in (task, shown):
        assert (one["status"], one["run_at"]) == ("queued", at)
        due = datetime.fromisoformat(one["run_at"]) + timedelta(seconds=60)
        assert datetime.fromisoformat(one["deadline_at"]) == due
    (accepted,) = await bursar.events(task["id"])
    assert accepted["data"]["run_at"] == at
    assert (await bursar.run())["status"] == "succeeded"  # others pass
    assert (await bursar.client.get(task["links"]["self"])).json()["runs"] == 0


async def test_starts_at_its_instant(bursar: Running) -> None:
    """It runs by itself once its time has come, and not before."""
    task = await bursar.submit(run_at=ahead(0.3))
    ended = await bursar.finished(task["id"])
    assert ended["status"] == "succeeded"
    assert ended["started_at"] >= ended["run_at"]


async def test_put_off_and_cancelled(bursar: Running) -> None:
    """Waiting for its time it can be cancelled at once."""
    task = await bursar.submit(run_at=ahead(60))
    answer = await bursar.client.post(task["links"]["cancel"])
    assert (answer.status_code, answer.json()["status"]) == (200, "cancelled")


async def test_put_off_over_a_restart(tmp_path: Path) -> None:
    """The next process keeps the appointment."""
    async with started(tmp_path) as bursar:
        task = await bursar.submit(run_at=ahead(1))
    async with started(tmp_path) as bursar:
        ended = await bursar.finished(task["id"])
    assert ended["status"] == "succeeded"
    assert ended["started_at"] >= ended["run_at"]


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:00.000000Z"),
        ("2026-01-01t01:30:00.25+01:30", "2026-01-01T00:00:00.250000Z"),
        ("2026-01-01T00:00:00.123456789z", "2026-01-01T00:00:00.123456Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
    ],
)
async def test_an_instant_that_is_past_is_now(bursar: Running, given: str, shown: str) -> None:
    """However it is written; what is shown is in UTC."""
    task = await bursar.run(run_at=given)
    assert (task["status"], task["run_at"]) == ("succeeded", shown)


@pytest.mark.before_the_store
@pytest.mark.parametrize(
    "given",
    [
        "tomorrow",
        "",
        "2026-11-27",
        "2026-11-27T18:30:00",
        "2026-11-27 18:30:00Z",
        "2026-11-27T18:30Z",
        "2026-11-27T18:30:60Z",
        "2026-02-30T00:00:00Z",
        "2026-11-27T18:30:00+25:00",
        "2026-11-27T18:30:00.Z",
        "20261127T183000Z",
        "1969-12-31T23:59:59Z",
        "0001-01-01T00:00:00+12:00",
        "\uff12026-11-27T18:30:00Z",
        1_800_000_000,
        1.5,
        True,
        ["2026-11-27T18:30:00Z"],
    ],
)
async def test_what_is_no_instant(bursar: Running, given: Any) -> None:
    """RFC 3339 with an offset, or a 422 that names the field."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "run_at": given})
    assert answer.status_code == 422
    assert [error["field"] for error in answer.json()["errors"]] == ["run_at"]


async def test_how_far_ahead(bursar: Running) -> None:
    """Thirty days, and not a minute more."""
    limit_s = 30 * 86_400
    assert (await bursar.submit(run_at=ahead(limit_s - 60)))["status"] == "queued"
    for far in (ahead(limit_s + 60), "9999-12-31T23:59:59Z"):
        answer = await bursar.client.post("/tasks", json={"task": "x", "run_at": far})
        assert answer.status_code == 422
        assert answer.json()["type"] == "urn:bursar:problem:run-at-too-late"


async def test_what_is_put_off_does_not_age_the_queue(bursar: Running) -> None:
    """The gauge of the oldest waiting task leaves it out; that of the depth counts it."""
    await bursar.submit(run_at=ahead(60), priority=3)
    text = (await bursar.client.get("/metrics")).text
    assert "bursar_queue_oldest_age_seconds 0.0" in text
    assert 'bursar_queue_depth{priority="3"} 1.0' in text


async def test_a_session_at_its_limit(tmp_path: Path) -> None:
    """Of one session so many run as the setting says; others pass, and whoever waits follows at once."""
    async with started(tmp_path, session_concurrency=2) as bursar:
        bursar.script({**HANG, "repeat": 2})
        crowd = [(await bursar.submit(session_id="crowd"))["id"] for _ in range(5)]
        for task_id in crowd[:2]:
            await bursar.saw(task_id, "attempt_started")
        assert (await bursar.run(session_id="quiet"))["status"] == "succeeded"
        held = [(await bursar.client.get(f"/tasks/{one}")).json() for one in crowd[2:]]
        assert [one["status"] for one in held] == ["queued"] * 3
        await bursar.client.post(f"/tasks/{crowd[0]}/cancel")
        ended = [await bursar.finished(one) for one in crowd[2:]]
        assert [one["status"] for one in ended] == ["succeeded"] * 3
        instants = [one["started_at"] for one in ended]
        assert instants == sorted(instants)
