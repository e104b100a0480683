"""POST /quotes: what a task would cost. Nothing is called, nothing is kept, and the worst is the worst."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import HANG, Running, started

CHEAP = {"complexity": "simple"}
TABLES = ("tasks", "sessions", "accounts", "ledger_lines", "events", "keys")
TOOLS = ["text_stats", "calculator"]


async def quote(bursar: Running, task: str = "Say hello.", **fields: object) -> dict[str, Any]:
    """What the task would cost."""
    answer = await bursar.client.post("/quotes", json={"task": task, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def nano(usd: float) -> int:
    """An amount of the API as it is kept."""
    return round(usd * 1e9)


def kept(bursar: Running) -> dict[str, list[dict[str, Any]]]:
    """All that the store holds."""
    return {table: bursar.rows(f"SELECT * FROM {table}") for table in TABLES}  # noqa: S608


class TestNothing:
    """A quote leaves no trace."""

    async def test_nothing_is_called_and_nothing_is_kept(self, tmp_path: Path) -> None:
        """Not a row anywhere, of no window either, and no request to the model."""
        given: dict[str, Any] = {
            "service_daily_budget_usd": 1,
            "service_monthly_budget_usd": 2,
            "service_budget_usd": 3,
        }
        async with started(tmp_path, **given) as bursar:
            before = kept(bursar)
            shapes: list[dict[str, Any]] = [
                {},
                {"session_id": "new"},
                {"tools": TOOLS, "max_steps": 7, "on_budget": "finalize"},
                {"bound": "estimate", "downgrade": True, "complexity": "complex"},
            ]
            for fields in shapes:
                shown = await quote(bursar, **fields)
                assert (shown["accepted"], shown["blocked_by"]) == (True, None)
            assert kept(bursar) == before
            assert list(bursar.simulator.log.seen) == []
            assert (await bursar.client.get("/sessions/new")).status_code == 404

    @pytest.mark.parametrize(
        "fields",
        [
            {"tools": ["no_such_tool"]},
            {"model": "nobody-knows"},
            {"parent_id": "task_none"},
            {"budget_usd": -1},
            {"tools": ["web_search"]},
            {"surprise": 1},
        ],
    )
    async def test_what_can_never_run_is_refused_alike(
        self, bursar: Running, fields: dict[str, Any]
    ) -> None:
        """The same problem that `POST /tasks` gives."""
        body = {"task": "x", **fields}
        quoted = await bursar.client.post("/quotes", json=body)
        posted = await bursar.client.post("/tasks", json=body)
        assert quoted.status_code == posted.status_code == 422
        assert quoted.json() == posted.json()


@pytest.mark.parametrize(
    "name", ["web_search", "web_search_20260209", "code_execution", "mcp_files", "web_fetch"]
)
async def test_server_tools_are_refused(bursar: Running, name: str) -> None:
    """What runs at the provider is not bounded by `max_tokens`: no budget could hold it."""
    answer = await bursar.client.post("/tasks", json={"task": "x", "tools": ["calculator", name]})
    problem = answer.json()
    assert (answer.status_code, problem["type"]) == (422, "urn:bursar:problem:unbounded-tool")
    assert problem["errors"][0]["field"] == "tools"
    assert name in problem["detail"]
    assert bursar.rows("SELECT id FROM tasks") == []


_CLOSING = "budget_finalizing"
LOST = ("cut_before_headers", "truncate_json", "cut_mid_body", "html_page")


def _shape(draw: random.Random) -> tuple[str, dict[str, Any], list[dict[str, Any]]]:
    """A task, its options, and the faults it will meet."""
    steps = draw.choice([0, 0, 1, 3, 6])
    stop = draw.choice(["", "", ', "stop": "refusal_mid"', ', "stop": "empty"'])
    sim = f'[[sim {{"steps": {steps}, "parallel": {draw.choice([1, 3, 25])}, "answer_tokens": {draw.choice([5, 400, 3_000])}{stop}}}]]'
    fields = {
        "complexity": draw.choice(["simple", "simple", "medium", "complex", "auto"]),
        "tools": TOOLS if steps else [],
        "max_steps": draw.choice([1, 2, 5, 10]),
        "on_budget": draw.choice(["fail", "finalize"]),
        "budget_usd": draw.choice([0.0002, 0.002, 0.05, 100]),
        "downgrade": draw.choice([False, False, True]),
        "escalate": draw.choice([None, False, True]),
        "bound": draw.choice(["proved", "proved", "estimate"]),
    }
    if draw.random() < 0.4:
        fields["max_tokens"] = draw.choice([1, 50, 900])
    if draw.random() < 0.3:
        fields["system"] = "Be brief. " * draw.choice([1, 300])
    kinds = [draw.choice([*LOST, "none", "none", "usage_missing"]) for _ in range(12)]
    faults = [{"kind": kind} | ({"billed": True} if kind == "html_page" else {}) for kind in kinds]
    return f"{'Work. ' * draw.choice([1, 2_000])}{sim}", fields, faults


@pytest.mark.parametrize("seed", range(12))
async def test_no_task_costs_more_than_its_worst_case(tmp_path: Path, seed: int) -> None:
    """Of many shapes, with answers that are lost and billed: bill and books stay below what was quoted."""
    draw = random.Random(seed)  # noqa: S311
    async with started(tmp_path, retry_attempts=2, session_budget_usd=1_000) as bursar:
        for _ in range(3):
            task, fields, faults = _shape(draw)
            shown = await quote(bursar, task, **fields)
            bursar.script(*faults)
            before = bursar.simulator.bill.total.nano
            answer = await bursar.client.post("/tasks", json={"task": task, **fields})
            assert shown["accepted"] == (answer.status_code == 202), answer.text
            if not shown["accepted"]:
                continue
            ended = await bursar.finished(answer.json()["id"])
            bill = bursar.simulator.bill.total.nano - before
            assert bill <= nano(ended["cost_usd"]) <= nano(shown["worst_case_usd"]), fields
            assert shown["worst_case_usd"] <= shown["uncapped_worst_case_usd"]
            assert shown["worst_case_usd"] <= fields["budget_usd"] == shown["budget_usd"]
            reserved = bursar.rows(
                "SELECT amount_nano FROM ledger_lines WHERE entry = 'reservation' AND task_id = ?"
                " ORDER BY step, attempt LIMIT 1",
                ended["id"],
            )
            closing = [e for e in await bursar.events(ended["id"]) if e["type"] == _CLOSING]
            if closing and closing[0]["data"]["step"] == 1:
                continue  # its first call was not paid for, but a shorter one with a longer prompt
            for row in reserved:
                assert row["amount_nano"] <= nano(shown["first_call_worst_case_usd"])


async def test_the_worst_case_is_not_out_of_reach(bursar: Running) -> None:
    """A single call whose every attempt is lost costs exactly what was quoted."""
    shown = await quote(bursar, max_steps=1, max_tokens=300, **CHEAP)
    bursar.script({"kind": "cut_before_headers", "repeat": 3})
    ended = await bursar.run(max_steps=1, max_tokens=300, **CHEAP)
    assert (ended["outcome"], ended["calls"]) == ("upstream_failed", 3)
    assert ended["cost_usd"] == shown["worst_case_usd"] == shown["uncapped_worst_case_usd"]
    assert nano(ended["cost_usd"]) == 3 * nano(shown["first_call_worst_case_usd"])


@pytest.mark.parametrize("share", [1.0, 1.6, 2.0, 2.4])
async def test_a_lost_closing_turn_is_within_the_worst_case(tmp_path: Path, share: float) -> None:
    """Its prompt is longer than the question it comes in place of; every attempt may be lost."""
    fields: dict[str, Any] = {**CHEAP, "max_steps": 1, "max_tokens": 50, "on_budget": "finalize"}
    async with started(tmp_path, retry_attempts=2) as bursar:
        first = (await quote(bursar, **fields))["first_call_worst_case_usd"]
        money = {"budget_usd": round(first * 2 * share, 9)}
        shown = await quote(bursar, **fields, **money)
        bursar.script({"kind": "cut_before_headers", "repeat": 9})
        ended = await bursar.run(**fields, **money)
        assert 0 < ended["cost_usd"] <= shown["worst_case_usd"]


class TestLikely:
    """What such a task costs as a rule."""

    async def test_the_history_of_five_alike(self, bursar: Running) -> None:
        """Their mean; four are too few, and those of another model, agent or kind do not count."""
        seen, costs = [], []
        for _ in range(5):
            shown = await quote(bursar, "Hello there.", agent="a", **CHEAP)
            seen.append((shown["likely_from"], shown["likely_tasks"]))
            ended = await bursar.run("Hello.", agent="a", **CHEAP)
            costs.append(nano(ended["cost_usd"]))
            await bursar.run("Hello.", agent="b", **CHEAP)
            await bursar.run("Hello.", agent="a", complexity="medium")
            await bursar.run("Hello.", agent="a", tools=TOOLS, **CHEAP)
        assert seen == [("rule_of_thumb", count) for count in range(5)]
        shown = await quote(bursar, "Hello there.", agent="a", **CHEAP)
        assert (shown["likely_from"], shown["likely_tasks"]) == ("history", 5)
        assert nano(shown["likely_usd"]) == -(-sum(costs) // 5)
        assert (await quote(bursar, agent="c", **CHEAP))["likely_from"] == "rule_of_thumb"

    async def test_a_guess_is_between_nothing_and_the_worst(self, bursar: Running) -> None:
        """Never above what the task may cost."""
        for fields in ({}, {"budget_usd": 0.000001}, {"tools": TOOLS}, {"max_tokens": 1}):
            shown = await quote(bursar, **fields)
            assert 0 < shown["likely_usd"] <= shown["worst_case_usd"], fields


async def _agrees(bursar: Running, **fields: object) -> dict[str, Any] | None:
    """What blocks the task, as the quote says; `POST /tasks` must say the same of it."""
    shown = await quote(bursar, "Work.", **fields)
    answer = await bursar.client.post("/tasks", json={"task": "Work.", **fields})
    assert shown["accepted"] == (answer.status_code == 202), answer.text
    blocked: dict[str, Any] | None = shown["blocked_by"]
    assert (blocked is None) == shown["accepted"]
    if blocked is None:
        await bursar.finished(answer.json()["id"])
        return None
    problem = answer.json()
    assert answer.status_code == 402
    assert blocked == {name: problem[name] for name in blocked}
    assert blocked["needed_usd"] == shown["minimal_call_usd"]
    return blocked


class TestAccepted:
    """`accepted` and `blocked_by` say what `POST /tasks` would say."""

    async def test_sessions(self, bursar: Running) -> None:
        """A new one, one with just enough, one with a nano-dollar less."""
        assert await _agrees(bursar, session_id="new", **CHEAP) is None
        needed = (await quote(bursar, "Work.", **CHEAP))["minimal_call_usd"]
        short = round(needed - 1e-9, 9)
        for budget, accepted in ((needed, True), (short, False)):
            await bursar.client.put("/sessions/s/budget", json={"budget_usd": budget})
            shown = await quote(bursar, "Work.", session_id="s", **CHEAP)
            assert shown["accepted"] == accepted
        told = await _agrees(bursar, session_id="s", **CHEAP)
        assert told is not None
        assert (told["scope"], told["limit_usd"]) == ("session", short)
        await bursar.client.put("/sessions/s/budget", json={"budget_usd": needed})
        assert await _agrees(bursar, session_id="s", **CHEAP) is None

    async def test_the_default_budget_of_a_new_session(self, tmp_path: Path) -> None:
        """A session that does not exist yet is judged by what it would get."""
        async with started(tmp_path, session_budget_usd=0.00001) as bursar:
            told = await _agrees(bursar, session_id="new", **CHEAP)
            assert told is not None
            assert told["scope"] == "session"

    async def test_parents(self, bursar: Running) -> None:
        """The parent's envelope; what its own call holds does not count."""
        bursar.script(HANG)
        top = (await bursar.submit("Parent.", **CHEAP))["id"]
        await bursar.saw(top, "attempt_started")
        assert (await quote(bursar, parent_id=top, **CHEAP))["accepted"]
        await bursar.client.put(f"/tasks/{top}/budget", json={"budget_usd": 0.00001})
        told = await _agrees(bursar, parent_id=top, **CHEAP)
        assert told is not None
        assert (told["scope"], told["limit_usd"]) == ("task", 0.00001)

    @pytest.mark.parametrize("name", ["service_daily", "service_monthly", "service"])
    async def test_the_service(self, tmp_path: Path, name: str) -> None:
        """Its windows, opened or not, and its whole life; with the end of the window."""
        given: dict[str, Any] = {f"{name}_budget_usd": 0.00002}
        async with started(tmp_path, **given) as bursar:
            for _ in range(2):  # the refusal leaves no open window behind, and needs none
                told = await _agrees(bursar, **CHEAP)
                assert told is not None
                scope = {"service_daily": "service_day", "service_monthly": "service_month"}
                assert told["scope"] == scope.get(name, name)
                assert (told["resets_at"] is None) == (name == "service")

    async def test_a_downgrade_is_judged_by_the_cheapest_route(self, bursar: Running) -> None:
        """What blocks the dear model does not block a task that may go down to a cheaper one."""
        await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0.001})
        told = await _agrees(bursar, session_id="s", complexity="complex")
        assert told is not None
        assert await _agrees(bursar, session_id="s", complexity="complex", downgrade=True) is None
