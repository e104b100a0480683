"""Budgets over the API: tasks that wait for money, refusals, warnings; raised, lowered, rolled over, restarted."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import US_PER_S, rfc3339
from tests.support.clock import START_US, StillClock
from tests.support.loglines import LineChecker
from tests.support.service import HANG, Running, started

WORK = 'Work. [[sim {"steps": 4, "answer": "All done."}]]'
STEPS = {"complexity": "simple", "tools": ["text_stats"]}
PAUSING = {**STEPS, "on_budget": "pause"}
TIGHT = 0.00035
"""USD; pays for some of the five calls that `WORK` takes."""
AMPLE = 1
HALF_DAY_S = 43_200
MIDNIGHT = rfc3339(START_US + HALF_DAY_S * US_PER_S)
NEXT_MONTH = "2026-12-01T00:00:00.000Z"


async def put(bursar: Running, path: str, budget_usd: float) -> dict[str, Any]:
    """Set a budget."""
    answer = await bursar.client.put(f"{path}/budget", json={"budget_usd": budget_usd})
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


async def look(bursar: Running, task_id: str) -> dict[str, Any]:
    """The task as it stands."""
    shown: dict[str, Any] = (await bursar.client.get(f"/tasks/{task_id}")).json()
    return shown


async def paused(bursar: Running, **fields: object) -> dict[str, Any]:
    """A task of several steps that waits for money after some of them."""
    task = await bursar.submit(WORK, **{**PAUSING, **fields})
    await bursar.saw(task["id"], "task_paused")
    return await look(bursar, task["id"])


async def pauses(bursar: Running, task_id: str, count: int) -> dict[str, Any]:
    """The task once it has been paused so often."""
    feed = bursar.service.services.feed
    while True:
        with feed.watch(task_id) as woken:
            names = [event["type"] for event in await bursar.events(task_id)]
            if names.count("task_paused") >= count:
                return await look(bursar, task_id)
            assert await feed.woken(woken, 30), names


def bought(bursar: Running) -> list[str | None]:
    """The attempts on the simulator's bill, in order."""
    return [line.client_reference for line in bursar.simulator.bill.lines]


def of_type(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The data of the events of one name."""
    return [event["data"] for event in events if event["type"] == name]


class TestPause:
    """A task that waits for money."""

    async def test_it_says_what_it_waits_for(self, bursar: Running) -> None:
        """Status, the spent budget's numbers, and what the next call needs."""
        task = await paused(bursar, budget_usd=TIGHT)
        assert (task["status"], task["outcome"]) == ("paused", None)
        told = task["paused"]
        assert set(told) == {
            "reason",
            "scope",
            "scope_id",
            "limit_usd",
            "spent_usd",
            "reserved_usd",
            "needed_usd",
            "resets_at",
        }
        assert (told["reason"], told["scope"], told["limit_usd"]) == ("budget", "task", TIGHT)
        assert told["spent_usd"] == task["cost_usd"] > 0
        assert (told["reserved_usd"], told["resets_at"]) == (0, None)
        assert told["needed_usd"] > told["limit_usd"] - told["spent_usd"]
        listed = (await bursar.client.get("/tasks", params={"status": "paused"})).json()["tasks"]
        assert [row["paused"] for row in listed] == [told]
        assert (await bursar.client.get(f"/tasks/{task['id']}")).headers["retry-after"]

    async def test_a_raise_resumes_it_from_its_saved_step(self, bursar: Running) -> None:
        """Within a second, on its own; no finished step is bought again."""
        task = await paused(bursar, budget_usd=TIGHT)
        before = bought(bursar)
        assert 1 <= len(before) == task["steps"] < 5
        shown = await put(bursar, f"/tasks/{task['id']}", AMPLE)
        assert (shown["status"] != "paused", shown["budget_usd"]) == (True, AMPLE)
        ended = await bursar.finished(task["id"], within_s=5)
        assert (ended["outcome"], ended["result"], ended["steps"]) == ("answered", "All done.", 5)
        assert ended["paused"] is None
        after = bought(bursar)
        assert after[: len(before)] == before
        assert len(after) == len(set(after)) == 5
        assert ended["cost_usd"] == pytest.approx(bursar.simulator.bill.total.nano / 1e9, abs=1e-12)
        events = await bursar.events(task["id"])
        (resumed,) = of_type(events, "task_resumed")
        at = {event["type"]: datetime.fromisoformat(event["at"]) for event in events}
        assert (at["task_claimed"] - at["task_resumed"]).total_seconds() < 1
        assert resumed["paused_s"] >= 0

    async def test_a_raise_that_is_too_small_does_not(self, bursar: Running) -> None:
        """A nano-dollar below what it needs it stays as it is; with that one it goes on."""
        task = await paused(bursar, budget_usd=TIGHT)
        enough = task["paused"]["spent_usd"] + task["paused"]["needed_usd"]
        shown = await put(bursar, f"/tasks/{task['id']}", round(enough - 1e-9, 9))
        assert shown["status"] == "paused"
        names = [event["type"] for event in await bursar.events(task["id"])]
        assert names[-1] == "task_budget_set"
        shown = await put(bursar, f"/tasks/{task['id']}", round(enough, 9))
        assert shown["status"] != "paused"
        await bursar.saw(task["id"], "task_resumed")

    async def test_the_raise_is_an_event(self, bursar: Running) -> None:
        """With the limit before and after."""
        task = await paused(bursar, budget_usd=TIGHT)
        await put(bursar, f"/tasks/{task['id']}", 0.0001)
        (told,) = of_type(await bursar.events(task["id"]), "task_budget_set")
        assert told == {"budget_usd": 0.0001, "previous_usd": TIGHT}

    async def test_it_holds_no_slot(self, tmp_path: Path) -> None:
        """With one worker and three waiting tasks another one is done."""
        async with started(tmp_path, workers=1) as bursar:
            for _ in range(3):
                await paused(bursar, budget_usd=TIGHT)
            assert (await bursar.run())["outcome"] == "answered"
            assert bursar.service.pool.running == 0

    async def test_one_budget_and_then_another(self, bursar: Running) -> None:
        """Raising the one that was told is not enough when another is spent, too: then that is told."""
        await put(bursar, "/sessions/s", 0.00043)
        task = await paused(bursar, session_id="s", budget_usd=TIGHT)
        assert task["paused"]["scope"] == "task"
        await put(bursar, f"/tasks/{task['id']}", AMPLE)
        again = await pauses(bursar, task["id"], 2)
        assert (again["status"], again["paused"]["scope"]) == ("paused", "session")
        assert again["paused"]["limit_usd"] == 0.00043
        await put(bursar, f"/tasks/{task['id']}", AMPLE + 1)
        assert (await look(bursar, task["id"]))["status"] == "paused"
        await put(bursar, "/sessions/s", AMPLE)
        assert (await bursar.finished(task["id"], within_s=5))["outcome"] == "answered"

    async def test_cancel(self, bursar: Running) -> None:
        """Done at once; what was bought stays on its books."""
        task = await paused(bursar, budget_usd=TIGHT)
        answer = await bursar.client.post(f"/tasks/{task['id']}/cancel")
        assert (answer.status_code, answer.json()["outcome"]) == (200, "cancelled")
        assert (answer.json()["paused"], answer.json()["cost_usd"]) == (None, task["cost_usd"])
        late = await bursar.client.put(f"/tasks/{task['id']}/budget", json={"budget_usd": 1})
        assert (late.status_code, late.json()["type"]) == (409, "urn:bursar:problem:task-finished")

    async def test_a_restart(self, tmp_path: Path) -> None:
        """Another process finds it paused, and resumes it from its saved step."""
        async with started(tmp_path) as bursar:
            task = await paused(bursar, budget_usd=TIGHT)
        async with started(tmp_path) as bursar:
            again = await look(bursar, task["id"])
            assert (again["status"], again["paused"]) == ("paused", task["paused"])
            await put(bursar, f"/tasks/{task['id']}", AMPLE)
            ended = await bursar.finished(task["id"], within_s=5)
            assert (ended["outcome"], ended["steps"]) == ("answered", 5)
            assert len(bought(bursar)) == 5 - task["steps"]

    async def test_the_deadline_stands_still(self, tmp_path: Path) -> None:
        """An hour of waiting takes nothing from a deadline of a minute."""
        clock = StillClock()
        async with started(tmp_path, clock=clock) as bursar:
            task = await paused(bursar, budget_usd=TIGHT, deadline_s=60)
            clock.move(3_600)
            await put(bursar, f"/tasks/{task['id']}", AMPLE)
            ended = await bursar.finished(task["id"])
            assert ended["outcome"] == "answered"
            moved = _us(ended["deadline_at"]) - _us(task["deadline_at"])
            assert moved == pytest.approx(3_600 * US_PER_S, abs=US_PER_S)

    async def test_unknown(self, bursar: Running) -> None:
        """A budget of a task that does not exist is nobody's."""
        answer = await bursar.client.put("/tasks/task_none/budget", json={"budget_usd": 1})
        assert answer.status_code == 404


def _us(instant: str) -> int:
    return int(datetime.fromisoformat(instant).astimezone(UTC).timestamp() * US_PER_S)


WINDOWS = [("daily", "service_day", MIDNIGHT, 1), ("monthly", "service_month", NEXT_MONTH, 9)]


class TestWindows:
    """The service's budgets of a day and of a month."""

    @pytest.mark.parametrize(("name", "scope", "resets_at", "days"), WINDOWS)
    async def test_a_new_window_resumes_and_accepts(
        self, tmp_path: Path, name: str, scope: str, resets_at: str, days: int
    ) -> None:
        """What waited for it goes on by itself when it begins; until then a submission is refused."""
        clock = StillClock()
        async with started(
            tmp_path, clock=clock, **{f"service_{name}_budget_usd": TIGHT}
        ) as bursar:
            task = await paused(bursar)
            assert (task["paused"]["scope"], task["paused"]["limit_usd"]) == (scope, TIGHT)
            assert _us(task["paused"]["resets_at"]) == _us(resets_at)
            body = {"task": WORK, **PAUSING}
            refused = await bursar.client.post("/tasks", json=body)
            problem = refused.json()
            assert (refused.status_code, problem["scope"]) == (402, scope)
            assert problem["spent_usd"] == task["cost_usd"]
            assert _us(problem["resets_at"]) == _us(resets_at)
            assert problem["needed_usd"] > problem["remaining_usd"] >= 0
            clock.move(days * 86_400 - HALF_DAY_S - 1)
            assert (await bursar.client.post("/tasks", json=body)).status_code == 402
            assert (await look(bursar, task["id"]))["status"] == "paused"
            clock.move(1)
            await bursar.saw(task["id"], "task_resumed")
            assert (await bursar.client.post("/tasks", json=body)).status_code == 202

    async def test_a_start_with_a_higher_budget_resumes(self, tmp_path: Path) -> None:
        """The window that is open counts the new limit, its spending kept."""
        async with started(tmp_path, service_daily_budget_usd=TIGHT) as bursar:
            task = await paused(bursar)
        async with started(tmp_path, service_daily_budget_usd=AMPLE) as bursar:
            assert (await bursar.finished(task["id"], within_s=5))["outcome"] == "answered"

    async def test_reservations_are_not_spent(self, tmp_path: Path) -> None:
        """A window that a running call holds all of is not exhausted."""
        async with started(tmp_path, service_daily_budget_usd=0.0012) as bursar:
            bursar.script(HANG)
            first = await bursar.submit(complexity="simple", max_tokens=2_048)
            await bursar.saw(first["id"], "attempt_started")
            second = await bursar.submit(complexity="simple", max_tokens=2_048)
            await bursar.saw(second["id"], "reservation_waited")
            assert (await look(bursar, second["id"]))["status"] != "failed"


class TestWarnings:
    """`budget_warned`: told once for each budget and limit."""

    @pytest.mark.parametrize(("percent", "given"), [(80, {}), (35, {"budget_warning_percent": 35})])
    async def test_once_when_a_good_part_is_spent(
        self, tmp_path: Path, log_lines: LineChecker, percent: int, given: dict[str, Any]
    ) -> None:
        """At the settlement that passes the threshold and at no other; as an event and as a log line."""
        async with started(tmp_path, **given) as bursar:
            one = (await bursar.run(WORK, **STEPS))["cost_usd"]
            budget = round(one * 100 / (percent + 1), 9)
            await put(bursar, "/sessions/s", round(budget * 6, 9))
            tasks = [await bursar.run(WORK, **STEPS, session_id="s") for _ in range(6)]
            events = [event for task in tasks for event in await bursar.events(task["id"])]
            session = [w for w in of_type(events, "budget_warned") if w["scope"] == "session"]
            assert len(session) == 1
            (told,) = session
            assert told["limit_usd"] == round(budget * 6, 9)
            assert told["limit_usd"] * percent / 100 <= told["spent_usd"] <= told["limit_usd"]
            before = told["spent_usd"] - max(
                d["cost_usd"] for d in of_type(events, "model_answered")
            )
            assert before < told["limit_usd"] * percent / 100
            lines = [e for e in log_lines.entries("budget_warned") if e["scope"] == "session"]
            assert [line["level"].lower() for line in lines] == ["warning"]

    async def test_again_for_a_new_limit(self, bursar: Running) -> None:
        """A raised limit is warned of anew, the same one set once more is not."""
        tasks = [await bursar.run(WORK, **STEPS, session_id="s") for _ in range(4)]
        spent = sum(task["cost_usd"] for task in tasks)
        seen = []
        for percent in (85, 85, 82, 1, 1, 82):
            limit = round(spent * 100 / percent, 9)
            await put(bursar, "/sessions/s", limit)
            told, limit_told = await _warned(bursar)
            seen.append(told)
            assert limit_told in (None, limit)
        assert seen == [1, 0, 1, 0, 0, 1]

    async def test_a_restart_does_not_repeat_it(self, tmp_path: Path) -> None:
        """The service's own limits are set at each start; a day that was warned of is not warned of again."""
        given: dict[str, Any] = {"service_daily_budget_usd": 0.0013}
        counts = []
        for _ in range(2):
            async with started(tmp_path, **given) as bursar:
                for _ in range(8):
                    await bursar.client.post("/tasks", json={"task": WORK, **STEPS}, headers=_WAIT)
                rows = bursar.rows("SELECT data FROM events WHERE type = 'budget_warned'")
                counts.append(sum('"service_day"' in row["data"] for row in rows))
        assert counts == [1, 1]


_WAIT = {"prefer": "wait=20"}


async def _warned(bursar: Running) -> tuple[int, float | None]:
    """Spend a little more; how often the session's budget was warned of, and of which limit."""
    task = await bursar.run(session_id="s", complexity="simple", max_tokens=256)
    assert task["outcome"] == "answered"
    told = of_type(await bursar.events(task["id"]), "budget_warned")
    limits = [warned["limit_usd"] for warned in told if warned["scope"] == "session"]
    return len(limits), limits[0] if limits else None
