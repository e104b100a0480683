"""Policies at the cap in the whole service, judged by the simulator's bill: finalize, downgrade, estimate, cut streams."""

import asyncio
import dataclasses
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from app.domain.clock import SystemClock
from app.simulator.core import Simulator
from app.simulator.reply import json_reply
from tests.support.clock import yielded
from tests.support.loglines import LineChecker
from tests.support.service import Running, started, started_against

STEPS = {"complexity": "simple", "tools": ["text_stats"]}
WORK = 'Work. [[sim {"steps": 8, "answer": "So far: much."}]]'
LONG = 'Work. [[sim {"steps": 3, "parallel": 3, "answer": "Done."}]]'
HAIKU, OPUS = "claude-haiku-5-5", "claude-opus-5-5"


@pytest.fixture
async def bursar(tmp_path: Path) -> AsyncIterator[Running]:
    """A service with default settings."""
    async with started(tmp_path) as running:
        yield running


def nano(usd: float) -> int:
    """An amount of the API as it is kept."""
    return round(usd * 1e9)


def billed(bursar: Running) -> int:
    """The simulator's bill, in nano-dollars."""
    return bursar.simulator.bill.total.nano


def of_type(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    """The data of the events of one name."""
    return [event["data"] for event in events if event["type"] == name]


async def lines(bursar: Running, task_id: str) -> list[dict[str, Any]]:
    """The task's lines in the ledger."""
    found: list[dict[str, Any]] = (await bursar.client.get(f"/tasks/{task_id}/ledger")).json()[
        "lines"
    ]
    return found


class TestFinalize:
    """One closing turn, its price held back from the start."""

    @pytest.mark.parametrize("budget", [0.0013, 0.0014, 0.0015])
    async def test_a_task_ends_with_what_it_has(self, bursar: Running, budget: float) -> None:
        """Succeeded with a partial answer, never above the budget."""
        task = await bursar.run(WORK, **STEPS, on_budget="finalize", budget_usd=budget)
        assert (task["status"], task["outcome"]) == ("succeeded", "budget_finalized")
        assert (task["result"], task["partial"]) == ("So far: much.", True)
        assert 1 < task["steps"] < 9
        assert billed(bursar) == nano(task["cost_usd"]) <= nano(budget)
        events = await bursar.events(task["id"])
        (told, *cut) = of_type(events, "budget_finalizing")
        assert (told["scope"], told["limit_usd"], told["step"]) == ("task", budget, task["steps"])
        assert [more["results_cut"] for more in cut] in ([], [True])
        last = bursar.simulator.log.latest(1)[0]
        assert last["tools"] == ["text_stats"]

    @pytest.mark.parametrize(
        ("stop", "outcome"), [("empty", "budget_exhausted"), ("refusal", "refused")]
    )
    async def test_a_closing_turn_without_an_answer(
        self, bursar: Running, stop: str, outcome: str
    ) -> None:
        """A failure of its own kind; what it cost is on the books."""
        rule = {"kind": "stop", "stop": stop, "prompt_contains": "this is your last turn"}
        bursar.script(rule)
        task = await bursar.run(WORK, **STEPS, on_budget="finalize", budget_usd=0.001)
        assert (task["status"], task["outcome"]) == ("failed", outcome)
        assert (task["result"], task["partial"]) == (None, False)
        assert billed(bursar) == nano(task["cost_usd"]) <= nano(0.001)

    async def test_ample_money_needs_no_closing_turn(self, bursar: Running) -> None:
        """What is held back is not spent."""
        task = await bursar.run(WORK, **STEPS, on_budget="finalize", budget_usd=1)
        assert (task["outcome"], task["partial"]) == ("answered", False)
        assert of_type(await bursar.events(task["id"]), "budget_finalizing") == []

    async def test_a_restart_in_the_closing_turn(self, tmp_path: Path) -> None:
        """The next process asks the same question again, and no step before it."""
        hang = {"kind": "timeout", "repeat": 9, "prompt_contains": "this is your last turn"}
        fields = {**STEPS, "on_budget": "finalize", "session_id": "s", "budget_usd": 1}
        async with started(tmp_path) as bursar:
            bursar.script(hang)
            await bursar.client.put("/sessions/s/budget", json={"budget_usd": 0.001})
            task = await bursar.submit(WORK, **fields)
            finalizing = await bursar.saw(task["id"], "budget_finalizing")
            await _faulty(bursar)
            before = bursar.simulator.log.latest(1)[0]
        async with started(tmp_path) as bursar:
            await bursar.client.put("/sessions/s/budget", json={"budget_usd": 1})
            ended = await bursar.finished(task["id"])
            (again,) = bursar.simulator.log.latest(9)
            assert (ended["outcome"], ended["partial"]) == ("budget_finalized", True)
            assert ended["steps"] == finalizing["data"]["step"]
            assert again["body_bytes"] - before["body_bytes"] in range(
                -3, 4
            )  # `max_tokens` may differ
            assert again["messages"] == before["messages"]
            assert ended["cost"]["presumed_usd"] > 0


async def _faulty(bursar: Running) -> None:
    """Wait until a request has met its fault."""
    async with asyncio.timeout(30):
        while not any(seen.fault for seen in bursar.simulator.log.seen):
            await yielded()


class TestDowngrade:
    """A cheaper route before the policy."""

    async def test_at_the_start(self, bursar: Running) -> None:
        """A budget that never pays the routed model: the cheapest that fits answers, and it is on record."""
        task = await bursar.run("Hello.", complexity="complex", downgrade=True, budget_usd=0.0005)
        assert (task["outcome"], task["model"]) == ("answered", OPUS)
        (told,) = of_type(await bursar.events(task["id"]), "model_downgraded")
        assert (told["from_model"], told["to_model"], told["step"]) == (OPUS, HAIKU, 1)
        assert told["alternatives"] == [OPUS, "claude-sonnet-5-5"]
        assert told["alternatives_worst_usd"][0] > told["alternatives_worst_usd"][1]
        assert told["alternatives_worst_usd"][1] > told["next_worst_usd"] > 0
        assert {line["model"] for line in await lines(bursar, task["id"])} == {HAIKU}
        assert billed(bursar) == nano(task["cost_usd"]) <= 500_000

    async def test_in_mid_conversation(self, bursar: Running) -> None:
        """The other model takes the talk over; both are on the lines."""
        task = await bursar.run(
            LONG, complexity="complex", downgrade=True, tools=["text_stats"], budget_usd=0.032
        )
        assert (task["outcome"], task["result"]) == ("answered", "Done.")
        (told,) = of_type(await bursar.events(task["id"]), "model_downgraded")
        assert told["from_model"] == OPUS
        assert told["step"] > 1
        models = {line["model"] for line in await lines(bursar, task["id"])}
        assert models == {OPUS, told["to_model"]}
        asked = [seen.request["model"] for seen in bursar.simulator.log.seen]
        assert asked == sorted(asked, key=[OPUS, told["to_model"]].index)
        assert {seen.status for seen in bursar.simulator.log.seen} == {200}
        assert billed(bursar) == nano(task["cost_usd"]) <= nano(0.032)

    async def test_after_thinking(self, bursar: Running) -> None:
        """The other model is not shown the first one's thinking, and goes on with the same conversation."""
        thinking = LONG.replace("[[sim {", '[[sim {"thinking": true, ', 1)
        task = await bursar.run(
            thinking, complexity="complex", downgrade=True, tools=["text_stats"], budget_usd=0.034
        )
        (told,) = of_type(await bursar.events(task["id"]), "model_downgraded")
        assert task["outcome"] == "answered"
        assert told["step"] > 1
        asked = [seen.request["model"] for seen in bursar.simulator.log.seen]
        assert asked.count(OPUS) > 1, (
            "its own turns came back with their thinking, or it had refused"
        )
        assert {seen.status for seen in bursar.simulator.log.seen} == {200}

    async def test_then_the_policy(self, bursar: Running) -> None:
        """When the cheapest is too dear as well, the task's policy applies."""
        task = await bursar.run(
            WORK, **STEPS, downgrade=True, on_budget="finalize", budget_usd=0.001
        )
        assert task["outcome"] == "budget_finalized"
        assert of_type(await bursar.events(task["id"]), "model_downgraded") == []


class TestEstimate:
    """`bound: estimate`."""

    async def test_the_count_is_asked_for_and_marked(self, bursar: Running) -> None:
        """Less is reserved than by the proved bound, and every view says that it was an estimate."""
        text = "Words, words, words. " * 300
        proved = await bursar.run(text, complexity="simple")
        assert not any("count_tokens" in seen.path for seen in bursar.simulator.log.seen)
        counted = await bursar.run(text, complexity="simple", bound="estimate")
        (seen,) = [s for s in bursar.simulator.log.seen if "count_tokens" in s.path]
        assert seen.status == 200
        first, second = [(await lines(bursar, task["id"])) for task in (proved, counted)]
        assert [line["bound"] for line in first + second] == ["proved"] * 2 + ["estimate"] * 2
        assert second[0]["amount_usd"] < first[0]["amount_usd"] / 1.3
        (told,) = of_type(await bursar.events(counted["id"]), "attempt_started")
        assert told["bound"] == "estimate"
        assert billed(bursar) == nano(proved["cost_usd"]) + nano(counted["cost_usd"])

    async def test_without_a_count_the_proved_bound_counts(
        self, tmp_path: Path, log_lines: LineChecker
    ) -> None:
        """The log says so; the task is done all the same."""
        simulator = NoCounts(SystemClock())
        async with started_against(
            simulator, tmp_path, anthropic_api_key="key-of-a-test"
        ) as bursar:
            task = await bursar.run("Words. " * 300, complexity="simple", bound="estimate")
            assert task["outcome"] == "answered"
            assert {line["bound"] for line in await lines(bursar, task["id"])} == {"proved"}
        (line,) = log_lines.entries("token_count_failed")
        assert line["task_id"] == task["id"]

    async def test_a_count_that_is_larger_changes_nothing(self, tmp_path: Path) -> None:
        """Of two bounds the lower one counts: the proved one, and the lines say so."""
        simulator = Generous(SystemClock())
        async with started_against(
            simulator, tmp_path, anthropic_api_key="key-of-a-test"
        ) as bursar:
            task = await bursar.run("Words. " * 300, complexity="simple", bound="estimate")
            assert {line["bound"] for line in await lines(bursar, task["id"])} == {"proved"}
        assert any("count_tokens" in seen.path for seen in simulator.log.seen)


class NoCounts(Simulator):
    """An upstream that has no token counts."""

    def reply(self, method: str, target: str, headers: Any, body: bytes) -> Any:
        """As the simulator, but for the counts."""
        if "count_tokens" in target:
            target = "/v1/no_such_path"
        return super().reply(method, target, headers, body)


class Generous(Simulator):
    """An upstream whose token counts are far too high."""

    def reply(self, method: str, target: str, headers: Any, body: bytes) -> Any:
        """As the simulator, but for the counts."""
        reply = super().reply(method, target, headers, body)
        return json_reply(200, {"input_tokens": 90_000}, {}) if "count_tokens" in target else reply


class TestCutStreams:
    """Answers that break off after they have begun."""

    @pytest.mark.parametrize("kind", ["cut_mid_stream", "stream_error", "stream_eof"])
    @pytest.mark.parametrize("geo", ["global", "us"])
    async def test_settled_from_the_beginning(self, tmp_path: Path, kind: str, geo: str) -> None:
        """Estimated: never below the bill of the attempt, never above its reservation; then asked again."""
        simulator = Simulator(SystemClock(), default_geo=geo)
        given: dict[str, Any] = {"anthropic_api_key": "key-of-a-test", "stream_above_tokens": 1}
        text = 'Tell me. [[sim {"answer_tokens": 900}]]'
        async with started_against(simulator, tmp_path, **given) as bursar:
            bursar.script({"kind": kind})
            task = await bursar.run(text, complexity="simple")
            assert task["outcome"] == "answered"
            reserved, lost, _, whole = await lines(bursar, task["id"])
            metrics = (await bursar.client.get("/metrics")).text
        cut, delivered = simulator.bill.lines
        assert (cut.delivered, delivered.delivered) == (False, True)
        assert (lost["kind"], whole["kind"]) == ("estimated", "confirmed")
        assert cut.nano <= nano(lost["amount_usd"]) < nano(reserved["amount_usd"])
        assert nano(whole["amount_usd"]) == delivered.nano
        assert nano(task["cost"]["estimated_usd"]) == nano(lost["amount_usd"])
        assert task["cost"]["presumed_usd"] == 0
        assert "bursar_presumed_spent_usd_total 0.0" in metrics

    @pytest.mark.parametrize("kind", ["cut_before_headers", "cut_mid_stream"])
    async def test_without_a_beginning_the_reservation_is_presumed(
        self, tmp_path: Path, kind: str
    ) -> None:
        """Nothing came, or nothing that says what the prompt was."""
        simulator = (
            Simulator(SystemClock()) if kind == "cut_before_headers" else Mute(SystemClock())
        )
        given: dict[str, Any] = {"anthropic_api_key": "key-of-a-test", "stream_above_tokens": 1}
        async with started_against(simulator, tmp_path, retry_attempts=1, **given) as bursar:
            bursar.script({"kind": kind})
            task = await bursar.run("Tell me.", complexity="simple")
            reserved, lost = await lines(bursar, task["id"])
        assert (task["outcome"], lost["kind"]) == ("upstream_failed", "presumed")
        assert lost["amount_usd"] == reserved["amount_usd"] == task["cost"]["presumed_usd"]
        assert simulator.bill.total.nano <= nano(lost["amount_usd"])


class Mute(Simulator):
    """An upstream that reports the prompt's tokens at the end of a stream only."""

    def reply(self, method: str, target: str, headers: Any, body: bytes) -> Any:
        """As the simulator, with 0 in place of the prompt at the beginning."""
        reply = super().reply(method, target, headers, body)
        pieces = [re.sub(rb'"input_tokens":\d+', b'"input_tokens":0', p) for p in reply.pieces]
        return dataclasses.replace(reply, pieces=pieces)
