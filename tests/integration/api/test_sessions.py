"""/sessions: budgets, and usage as sums over the ledger's lines."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import yielded
from tests.support.service import HANG, Running, started

METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
SUMS = ", ".join(f"COALESCE(SUM({meter}_tokens), 0) AS {meter}" for meter in METERS)
LINES = (
    f"SELECT COUNT(*) AS calls, COALESCE(SUM(amount_nano + surplus_nano), 0) AS nano, {SUMS}"  # noqa: S608
    " FROM ledger_lines WHERE entry = 'settlement'"
)


async def _put(bursar: Running, session_id: str, budget_usd: object) -> dict[str, Any]:
    answer = await bursar.client.put(
        f"/sessions/{session_id}/budget", json={"budget_usd": budget_usd}
    )
    assert answer.status_code == 200, answer.text
    shown: dict[str, Any] = answer.json()
    return shown


class TestBudget:
    """PUT /sessions/{id}/budget."""

    async def test_creates(self, bursar: Running) -> None:
        """A session can be given its budget before its first task."""
        shown = await _put(bursar, "s", 1.5)
        assert (shown["budget_usd"], shown["remaining_usd"], shown["tasks"]) == (1.5, 1.5, 0)
        assert (await bursar.client.get("/sessions/s")).json() == shown
        task = await bursar.run(session_id="s")
        stands = (await bursar.client.get("/sessions/s")).json()
        assert (stands["budget_usd"], stands["tasks"]) == (1.5, 1)
        assert stands["spent_usd"] == task["cost_usd"]
        assert stands["created_at"] == shown["created_at"]

    async def test_raises(self, bursar: Running) -> None:
        """Raising keeps what is spent and leaves more."""
        task = await bursar.run(session_id="s")
        shown = await _put(bursar, "s", 7)
        assert (shown["budget_usd"], shown["spent_usd"]) == (7.0, task["cost_usd"])
        assert shown["remaining_usd"] == pytest.approx(7 - task["cost_usd"], abs=5e-10)

    async def test_lowers_below_spent(self, bursar: Running) -> None:
        """A limit below what is spent is accepted: nothing remains, and new tasks are refused."""
        task = await bursar.run(session_id="s")
        shown = await _put(bursar, "s", 0)
        assert (shown["budget_usd"], shown["remaining_usd"]) == (0.0, 0.0)
        assert shown["spent_usd"] == task["cost_usd"] > 0
        refused = await bursar.client.post("/tasks", json={"task": "x", "session_id": "s"})
        assert refused.status_code == 402
        await _put(bursar, "s", 5)
        assert (await bursar.run(session_id="s"))["status"] == "succeeded"

    async def test_lowers_below_reserved(self, bursar: Running) -> None:
        """A call in flight keeps what it holds; it is booked, and nothing follows it."""
        bursar.script({"kind": "latency", "delay_s": 0.3})
        task = await bursar.submit(
            'Work. [[sim {"steps": 1}]]', session_id="s", tools=["text_stats"]
        )
        await bursar.saw(task["id"], "attempt_started")
        shown = await _put(bursar, "s", 0)
        assert shown["reserved_usd"] > 0
        ended = await bursar.finished(task["id"])
        assert (ended["outcome"], ended["steps"]) == ("budget_exhausted", 1)
        stands = (await bursar.client.get("/sessions/s")).json()
        assert (stands["spent_usd"], stands["reserved_usd"]) == (ended["cost_usd"], 0.0)

    async def test_wakes_who_waits(self, bursar: Running) -> None:
        """A call that waits for another's reservation goes on when the limit is raised."""
        bursar.script(HANG)
        first = await bursar.submit(session_id="s", budget_usd=5)
        await bursar.saw(first["id"], "attempt_started")
        async with asyncio.timeout(30):  # it has left; now it has to arrive
            while not any(seen.fault for seen in bursar.simulator.log.seen):
                await yielded()
        held = (await bursar.client.get("/sessions/s")).json()["reserved_usd"]
        await _put(bursar, "s", held)
        bursar.script()
        second = await bursar.submit(session_id="s")
        await bursar.saw(second["id"], "reservation_waited")
        await _put(bursar, "s", 5)
        assert (await bursar.finished(second["id"]))["status"] == "succeeded"

    async def test_is_an_event(self, bursar: Running) -> None:
        """Every change is in the journal, with the limit before."""
        for budget_usd in (1, 2.5):
            await _put(bursar, "s", budget_usd)
        rows = bursar.rows("SELECT data FROM events WHERE type = 'session_budget_set' ORDER BY seq")
        assert [row["data"] for row in rows] == [
            '{"budget_nano":1000000000,"previous_nano":null}',
            '{"budget_nano":2500000000,"previous_nano":1000000000}',
        ]

    @pytest.mark.parametrize("text", ["0", "0.000000001", "1000000", "0.123456789"])
    async def test_exact(self, bursar: Running, text: str) -> None:
        """Nine decimals go in and come out."""
        assert (await _put(bursar, "s", float(text)))["budget_usd"] == float(text)

    async def test_refusals(self, bursar: Running) -> None:
        """What is no amount is refused as in a task, and makes no session."""
        for value in ("-1", "NaN", "1e999", "1000001", "0.0000000001", '"1"', "null", "true"):
            body = f'{{"budget_usd":{value}}}'.encode()
            answer = await bursar.client.put(
                "/sessions/s/budget", content=body, headers={"content-type": "application/json"}
            )
            assert answer.status_code == 422, value
        for wrong in ({}, {"budget_usd": 1, "currency": "EUR"}):
            answer = await bursar.client.put("/sessions/s/budget", json=wrong)
            assert answer.status_code == 422, wrong
        assert (await bursar.client.get("/sessions/s")).status_code == 404

    async def test_ids(self, bursar: Running) -> None:
        """An id that no task could name is refused here too."""
        for wrong in ("%20", "-a", "a%0A", "a" * 129, "%ff"):
            answer = await bursar.client.put(f"/sessions/{wrong}/budget", json={"budget_usd": 1})
            assert answer.status_code == 422, wrong
        assert (await _put(bursar, "a" * 128, 1))["id"] == "a" * 128


class TestUsage:
    """GET /sessions/{id}/usage."""

    async def test_nothing_yet(self, bursar: Running) -> None:
        """A new session has used nothing, and says so in every place."""
        await _put(bursar, "s", 1)
        usage = (await bursar.client.get("/sessions/s/usage")).json()
        assert usage == {
            "session_id": "s",
            "calls": 0,
            "spent_usd": 0.0,
            "reserved_usd": 0.0,
            "budget_usd": 1.0,
            "remaining_usd": 1.0,
            "cost": {"confirmed_usd": 0.0, "estimated_usd": 0.0, "presumed_usd": 0.0},
            "tokens": dict.fromkeys(METERS, 0),
            "cache": {"read_share": 0.0, "saved_usd": 0.0},
            "by_model": {},
            "by_task": {},
            "next_cursor": None,
        }

    async def test_tasks_come_in_pages_and_totals_whole(self, bursar: Running) -> None:
        """The newest tasks first, none twice, none left out; every page has the sums of the whole session."""
        ids = [(await bursar.run(f"Task {number}", session_id="s"))["id"] for number in range(5)]
        whole = (await bursar.client.get("/sessions/s/usage")).json()
        assert list(whole["by_task"]) == ids[::-1]
        assert whole["next_cursor"] is None
        pages, query = list[dict[str, Any]](), {"limit": 2}
        while not pages or (cursor := pages[-1]["next_cursor"]):
            query |= {"cursor": cursor} if pages else {}
            pages.append((await bursar.client.get("/sessions/s/usage", params=query)).json())
        assert [list(page["by_task"]) for page in pages] == [ids[:2:-1], ids[2:0:-1], ids[:1]]
        own = {"by_task", "next_cursor"}
        for page in pages:
            assert {k: v for k, v in page.items() if k not in own} == {
                k: v for k, v in whole.items() if k not in own
            }
            assert page["by_task"].items() <= whole["by_task"].items()
        assert (await bursar.client.get("/sessions/s/usage?cursor=x")).status_code == 400
        assert (await bursar.client.get("/sessions/s")).json()["tasks"] == 5

    async def test_is_the_ledger(self, tmp_path: Path) -> None:
        """With confirmed, estimated and presumed lines on two models, every number is a sum of lines."""
        async with started(tmp_path, retry_attempts=3) as bursar:
            await bursar.run("Answer.", session_id="s", complexity="simple")
            bursar.script({"kind": "cut_mid_body"})
            await bursar.run("Cut off once.", session_id="s")
            bursar.script({"kind": "usage_missing"})
            await bursar.run("No usage.", session_id="s")
            await bursar.run('[[sim {"steps": 2}]] Work.', session_id="s", tools=["text_stats"])
            await bursar.run("Another session.", session_id="other")
            usage = (await bursar.client.get("/sessions/s/usage")).json()

            _assert_sums(usage, bursar.rows(LINES + " AND session_id = 's'")[0])
            for group, column in (("by_model", "model"), ("by_task", "task_id")):
                for name, part in usage[group].items():
                    where = f" AND session_id = 's' AND {column} = ?"
                    _assert_sums(part, bursar.rows(LINES + where, name)[0])
                assert sum(part["calls"] for part in usage[group].values()) == usage["calls"]
            assert len(usage["by_task"]) == 4
            assert set(usage["by_model"]) == {"claude-haiku-5-5", "claude-sonnet-5-5"}
            assert all(amount > 0 for amount in usage["cost"].values())
            for task_id, part in usage["by_task"].items():
                task = (await bursar.client.get(f"/tasks/{task_id}")).json()
                assert task["cost_usd"] == part["spent_usd"]
                assert (task["tokens"], task["cost"]) == (part["tokens"], part["cost"])
            confirmed = bursar.rows(
                "SELECT SUM(amount_nano) AS nano FROM ledger_lines WHERE kind = 'confirmed'"
            )[0]["nano"]
            # Two generations were billed that we could not confirm; both are booked at their bounds.
            booked = bursar.rows(LINES)[0]["nano"]
            assert confirmed < bursar.simulator.bill.total.nano <= booked
            assert bursar.rows(_DRIFT) == []


_DRIFT = """
SELECT a.id FROM accounts AS a JOIN (
    SELECT owner || '/' || session_id AS id, SUM(amount_nano) AS spent, SUM(surplus_nano) AS surplus
    FROM ledger_lines WHERE entry = 'settlement' GROUP BY owner, session_id) AS l ON l.id = a.id
WHERE a.scope = 'session' AND (a.spent_nano <> l.spent OR a.surplus_nano <> l.surplus)
"""


def _assert_sums(usage: dict[str, Any], lines: dict[str, Any]) -> None:
    assert usage["calls"] == lines["calls"]
    assert round(usage["spent_usd"] * 1e9) == lines["nano"]
    assert sum(round(usd * 1e9) for usd in usage["cost"].values()) == lines["nano"]
    assert usage["tokens"] == {meter: lines[meter] for meter in METERS}
