"""A key's budgets: days and months in UTC, judged at submit and before each call, full again by themselves."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import US_PER_S, rfc3339
from app.journal.call_events import AttemptStarted
from app.queue import verbs
from tests.support.clock import START_US, StillClock
from tests.support.keys import come_as, limited, made_key
from tests.support.service import Running, started

DAY_S = 86_400
MIDNIGHT_US = START_US + DAY_S // 2 * US_PER_S
MONTH_END_US = MIDNIGHT_US + 8 * DAY_S * US_PER_S
"""2026-12-01T00:00:00Z."""
WORK = 'Work. [[sim {"steps": 6}]]'
PAUSING = {"tools": ["text_stats"], "on_budget": "pause"}
AMPLE = 1_000_000_000
Start = Callable[[int], AbstractAsyncContextManager[tuple[Running, StillClock]]]


def _nano(usd: float) -> int:
    return round(usd * 1e9)


def _us(instant: str) -> int:
    return int(datetime.fromisoformat(instant).timestamp()) * US_PER_S


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a service at an instant; its time stands still until the test moves it."""

    @asynccontextmanager
    async def starting(now_us: int) -> AsyncIterator[tuple[Running, StillClock]]:
        clock = StillClock(now_us)
        async with started(tmp_path, clock=clock) as running:
            yield running, clock

    return starting


async def _refused(bursar: Running) -> dict[str, Any]:
    answer = await bursar.client.post("/tasks", json={"task": WORK, **PAUSING})
    assert answer.status_code == 402, answer.text
    problem: dict[str, Any] = answer.json()
    return problem


def _windows(bursar: Running, kind: str) -> dict[str, tuple[int, int]]:
    """Window → what it has spent and holds."""
    rows = bursar.rows("SELECT id, spent_nano, reserved_nano FROM accounts WHERE scope = ?", kind)
    return {row["id"].partition("/")[2]: (row["spent_nano"], row["reserved_nano"]) for row in rows}


async def _stands(bursar: Running, task_id: str, pauses: int) -> dict[str, Any]:
    """The task, once it has paused so often or has ended."""
    feed = bursar.service.services.feed
    while True:
        with feed.watch(task_id) as woken:
            names = [event["type"] for event in await bursar.events(task_id)]
            if names.count("task_paused") >= pauses or "task_finished" in names:
                task: dict[str, Any] = (await bursar.client.get(f"/tasks/{task_id}")).json()
                return task
            assert await feed.woken(woken, 10), names


async def _paused(bursar: Running, key_id: str, kind: str) -> dict[str, Any]:
    """A task of several steps that the key's window has paused after some of them."""
    await limited(bursar, key_id, **{f"{kind}_nano": 0})
    first_nano = _nano((await _refused(bursar))["needed_usd"])
    await limited(bursar, key_id, **{f"{kind}_nano": first_nano})
    task_id = (await bursar.submit(WORK, **PAUSING))["id"]
    task = await _stands(bursar, task_id, 1)
    assert task["status"] == "paused"
    assert 1 <= task["steps"] <= 6
    assert task["paused"]["scope"] == f"key_{kind}"
    assert task["paused"]["limit_usd"] == first_nano / 1e9
    return task


@pytest.mark.parametrize(
    ("kind", "now_us", "resets_at_us"),
    [
        ("day", START_US, MIDNIGHT_US),
        ("day", MIDNIGHT_US, MIDNIGHT_US + DAY_S * US_PER_S),
        ("month", START_US, MONTH_END_US),
        ("month", MONTH_END_US - 1, MONTH_END_US),
    ],
)
async def test_refused_until_the_window_rolls_over(
    start: Start, kind: str, now_us: int, resets_at_us: int
) -> None:
    """402 with the window, its numbers and its end; a microsecond before it still, then no more."""
    async with start(now_us) as (bursar, clock):
        key_id, text = await made_key(bursar, "a", **{f"{kind}_nano": AMPLE})
        come_as(bursar, text)
        cost_usd = (await bursar.run())["cost_usd"]
        await limited(bursar, key_id, **{f"{kind}_nano": _nano(cost_usd)})
        problem = await _refused(bursar)
        assert problem["scope"] == f"key_{kind}"
        assert problem["limit_usd"] == problem["spent_usd"] == cost_usd
        assert problem["resets_at"] == rfc3339(resets_at_us)
        clock._now_us = resets_at_us - 1
        assert (await _refused(bursar))["resets_at"] == rfc3339(resets_at_us)
        clock._now_us = resets_at_us
        await limited(bursar, key_id, **{f"{kind}_nano": AMPLE})
        assert (await bursar.run())["status"] == "succeeded"
    assert [spent for spent, _ in _windows(bursar, f"key_{kind}").values()] == [_nano(cost_usd)] * 2


async def test_a_new_day_is_not_a_new_month(start: Start) -> None:
    """At midnight the day's budget is full again, the month's is as it was."""
    async with start(START_US) as (bursar, clock):
        key_id, text = await made_key(bursar, "a", day_nano=AMPLE, month_nano=AMPLE)
        come_as(bursar, text)
        cost = _nano((await bursar.run())["cost_usd"])
        spent = {"limit_usd": cost / 1e9, "spent_usd": cost / 1e9}
        await limited(bursar, key_id, day_nano=cost, month_nano=cost)
        refused = await _refused(bursar)
        assert {"scope": "key_day", **spent}.items() <= refused.items()
        clock.move(DAY_S)
        await limited(bursar, key_id, day_nano=AMPLE, month_nano=cost)
        refused = await _refused(bursar)
        assert {"scope": "key_month", **spent}.items() <= refused.items()


async def test_other_keys_go_on(start: Start) -> None:
    """A spent key stops its own tasks only, even in the session of another key of its owner."""
    async with start(START_US) as (bursar, _clock):
        _, spent = await made_key(bursar, "a", day_nano=0)
        _, fresh = await made_key(bursar, "a", day_nano=AMPLE)
        come_as(bursar, spent)
        assert (await _refused(bursar))["limit_usd"] == 0
        come_as(bursar, fresh)
        assert (await bursar.run(session_id="s"))["status"] == "succeeded"


@pytest.mark.parametrize(("kind", "ends_us"), [("day", MIDNIGHT_US), ("month", MONTH_END_US)])
async def test_a_paused_task_resumes_at_the_roll_over(
    start: Start, kind: str, ends_us: int
) -> None:
    """By itself, at its saved step, as often as it takes; not a microsecond before the window's end."""
    async with start(START_US) as (bursar, clock):
        key_id, text = await made_key(bursar, "a")
        come_as(bursar, text)
        task, rollovers = await _paused(bursar, key_id, kind), 0
        task_id, limit_nano = task["id"], _nano(task["paused"]["limit_usd"])
        assert task["paused"]["resets_at"] == rfc3339(ends_us)
        while task["status"] == "paused":
            ends_us = _us(task["paused"]["resets_at"])
            clock._now_us = ends_us - 1
            assert await bursar.service.store.write(lambda tx: verbs.resume(tx, 9)) == 0
            clock._now_us = ends_us + US_PER_S  # the queue looks once a second
            rollovers += 1
            task = await _stands(bursar, task_id, rollovers + 1)
        assert (task["status"], task["steps"]) == ("succeeded", 7)
        names = [event["type"] for event in await bursar.events(task_id)]
        assert names.count("task_paused") == names.count("task_resumed") == rollovers >= 1
        spent = [nano for nano, _ in _windows(bursar, f"key_{kind}").values()]
        assert len(spent) == rollovers + 1
        assert all(0 < nano <= limit_nano for nano in spent)
        assert sum(spent) == _nano(task["cost_usd"])


@pytest.mark.parametrize("lifted", [False, True])
async def test_a_higher_limit_resumes(start: Start, *, lifted: bool) -> None:
    """Whoever raised or lifted it; one that is a nano-dollar short does not."""
    async with start(START_US) as (bursar, clock):
        key_id, text = await made_key(bursar, "a")
        come_as(bursar, text)
        task = await _paused(bursar, key_id, "day")
        enough_nano = _nano(task["cost_usd"]) + _nano(task["paused"]["needed_usd"])
        await limited(bursar, key_id, day_nano=enough_nano - 1)
        assert await bursar.service.store.write(lambda tx: verbs.resume(tx, 9)) == 0
        await limited(bursar, key_id, day_nano=None if lifted else enough_nano)
        clock.move(1)
        await bursar.saw(task["id"], "task_resumed")
        await limited(bursar, key_id, day_nano=None if lifted else AMPLE)
        clock.move(1)
        ended = await bursar.finished(task["id"])
        assert (ended["status"], ended["steps"]) == ("succeeded", 7)


@pytest.mark.parametrize(("kind", "ends_us"), [("day", MIDNIGHT_US), ("month", MONTH_END_US)])
async def test_settled_where_it_was_reserved(start: Start, kind: str, ends_us: int) -> None:
    """A call that began before midnight is paid by the window it began in."""
    async with start(ends_us - 5 * US_PER_S) as (bursar, clock):
        _, text = await made_key(bursar, "a", **{f"{kind}_nano": AMPLE})
        come_as(bursar, text)
        bursar.service.services.feed.add_view(  # ten seconds go by while the call is made
            lambda entry: clock.move(10) if isinstance(entry.event, AttemptStarted) else None
        )
        task = await bursar.run()
        assert clock.now_us() == ends_us + 5 * US_PER_S
        assert task["status"] == "succeeded"
        before = rfc3339(ends_us - 1)[: 10 if kind == "day" else 7]
        assert _windows(bursar, f"key_{kind}") == {before: (_nano(task["cost_usd"]), 0)}
        ledger = (await bursar.client.get(f"/tasks/{task['id']}/ledger")).json()["lines"]
        assert [line["entry"] for line in ledger] == ["reservation", "settlement"]
        assert ledger[0]["scopes"] == ledger[1]["scopes"]
        assert ledger[0]["at"] < rfc3339(ends_us) < ledger[1]["at"]


async def test_a_raised_budget_resumes_in_a_day_that_nobody_has_used(start: Start) -> None:
    """A key was stopped with a budget of nothing, then a day began: what paused in it goes on once it is raised."""
    async with start(START_US) as (bursar, clock):
        key_id, text = await made_key(bursar, "a", day_nano=AMPLE)
        come_as(bursar, text)
        tomorrow = rfc3339(MIDNIGHT_US + US_PER_S)
        task_id = (await bursar.submit(WORK, run_at=tomorrow, **PAUSING))["id"]
        await limited(bursar, key_id, day_nano=0)
        clock._now_us = MIDNIGHT_US + 2 * US_PER_S
        assert (await _stands(bursar, task_id, 1))["status"] == "paused"
        await limited(bursar, key_id, day_nano=AMPLE)
        clock.move(1)
        assert (await bursar.finished(task_id))["outcome"] == "answered"
