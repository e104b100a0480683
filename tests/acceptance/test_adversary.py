"""Five hundred tasks on one session's budget, and an upstream that does its worst: its own bill is the judge."""

import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from app.budget.keys import create_key
from app.budget.scopes import KINDS
from app.doctor.examination import examine
from app.domain.clock import SystemClock
from app.simulator.bill import Line
from app.simulator.fault_rules import load_rules
from app.simulator.prices import charge_nano
from tests.acceptance import books as held
from tests.acceptance.adversary import (
    AT_BOUND,
    ITERATIONS,
    ITERATIONS_SHORT,
    SESSION,
    Adversary,
    Gate,
    Witness,
)
from tests.acceptance.books import Books, read_books
from tests.support.process import NO_KEY
from tests.support.service import Running, started_against

_TASKS = 500
_MIX_LIMIT_NANO = 6_000_000_000
_LATENCY = {"kind": "latency", "delay_s": [0.001, 0.05], "probability": 1}
_FAULTS: list[dict[str, Any]] = [
    _LATENCY,
    {"kind": "rate_limit", "probability": 0.03},
    {"kind": "rate_limit", "retry_after": 0.05, "probability": 0.03},
    {"kind": "overloaded", "probability": 0.03},
    {"kind": "html_page", "probability": 0.02},
    {"kind": "html_page", "billed": True, "probability": 0.02},
    {"kind": "cut_before_headers", "probability": 0.03},
    {"kind": "cut_before_headers", "billed": False, "probability": 0.03},
    {"kind": "cut_mid_body", "probability": 0.05},
    {"kind": "truncate_json", "probability": 0.05},
    {"kind": "cut_mid_stream", "probability": 0.08},
    {"kind": "stream_error", "probability": 0.08},
    {"kind": "stream_eof", "probability": 0.08},
    {"kind": "usage_missing", "probability": 0.05},
    {"kind": "usage_null", "probability": 0.05},
    {"kind": "usage_negative", "probability": 0.05},
]
_LIES = {AT_BOUND: 0.15, ITERATIONS: 0.1, ITERATIONS_SHORT: 0.1}
_RELEASED = {"rate_limit", "overloaded"}
_LOST = {"html_page", "cut_before_headers", "cut_mid_body", "truncate_json"}
_BROKEN_OFF = {"cut_mid_stream", "stream_error", "stream_eof"}
_UNUSABLE = {"usage_missing", "usage_null", "usage_negative"}
Body = dict[str, Any]


def _body(text: str, sim: Body, **fields: Any) -> Body:
    return {"task": f"{text} [[sim {orjson.dumps(sim).decode()}]]", **fields}


def _five_steps(number: int, text: str = "", **fields: Any) -> Body:
    """Four rounds of tool calls and an answer, each of 200 tokens."""
    sim = {"steps": 4, "inputs": [{"text": "word " * 153}], "answer_tokens": 198}
    return _body(f"Question {number}. {text}", sim, tools=["text_stats"], **fields)


def _any_size(number: int) -> Body:
    """Prompts, answers, models and numbers of steps in every combination; streamed, and in one piece."""
    padding = "long " * (1, 50, 500, 5_000)[number % 4]
    sim = {"steps": (0, 1, 4)[number % 3], "answer_tokens": (1, 20, 200, 900, 2_000)[number % 5]}
    return _body(
        f"Question {number}: {padding}",
        sim,
        tools=["calculator"],
        complexity=("simple", "simple", "medium", "complex")[number // 3 % 4],
        max_tokens=(2_048, 1_200)[number // 7 % 2],
    )


@asynccontextmanager
async def _attacked(tmp_path: Path, adversary: Adversary, **given: Any) -> AsyncIterator[Running]:
    settings = {"workers": 64, "anthropic_api_key": NO_KEY, "log_level": "WARNING", **given}
    async with started_against(adversary, tmp_path, **settings) as bursar:
        yield bursar


async def _limit(bursar: Running, session: str, nano: int) -> None:
    budget = {"budget_usd": round(nano / 1e9, 9)}
    answer = await bursar.client.put(f"/sessions/{session}/budget", json=budget)
    assert answer.status_code == 200


async def _run_all(bursar: Running, gate: Gate, bodies: list[Body]) -> list[Body]:
    """All of them accepted before any call is answered; then every one at its end."""
    gate.opened.clear()
    accepted = [await bursar.submit(**body, session_id=SESSION) for body in bodies]
    gate.opened.set()
    return [await bursar.finished(task["id"], within_s=60) for task in accepted]


def _closed_books(adversary: Adversary, tmp_path: Path) -> Books:
    """Both sides' records after the end, nothing held, nothing drifted, no limit passed, each task ended."""
    assert examine(tmp_path).drifts == ()
    books = read_books(tmp_path / "bursar.db", adversary.bill.as_json(with_lines=True))
    held.check_ledger(books)
    held.check_bill(books)
    held.check_budgets(books)
    held.check_tasks(books, set())
    held.check_steps(books)
    return books


async def _price_of_one(folder: Path) -> int:
    """What a task of five steps is billed, in nano-dollars."""
    adversary = Adversary(Witness(folder), {}, clock=SystemClock())
    async with _attacked(folder, adversary) as bursar:
        task = await bursar.run(**_five_steps(0))
    assert (task["outcome"], task["steps"]) == ("answered", 5)
    assert {line.meters.output for line in adversary.bill.lines} <= {199, 200}
    return adversary.bill.total.nano


@pytest.mark.timeout(120)
async def test_a_budget_for_fifty(tmp_path: Path) -> None:
    """The bill never passes the limit, at least nine tenths of it are on the bill, every task ends."""
    gate = Gate()
    limit = 50 * await _price_of_one(tmp_path / "one")
    adversary = Adversary(Witness(tmp_path), {}, clock=gate)
    load_rules(adversary.faults, {"random": [_LATENCY]})
    async with _attacked(tmp_path, adversary) as bursar:
        await _limit(bursar, SESSION, limit)
        began_s = gate.monotonic_s()
        tasks = await _run_all(bursar, gate, [_five_steps(n) for n in range(_TASKS)])
        wall_s = gate.monotonic_s() - began_s
    outcomes = Counter(task["outcome"] for task in tasks)
    billed = adversary.bill.total.nano
    calls = adversary.bill.total.lines
    sys.stdout.write(f"{billed / limit:.2%} in {wall_s:.1f} s, {calls} calls: {dict(outcomes)}\n")
    assert set(outcomes) <= {"answered", "truncated", "budget_exhausted"}
    assert outcomes["budget_exhausted"] > 0
    assert outcomes["answered"] >= 40, (
        "who began first is served first: the budget buys whole tasks"
    )
    assert billed <= limit
    assert billed * 10 >= limit * 9
    assert adversary.witness.violations == []
    assert adversary.witness.looks == calls
    _closed_books(adversary, tmp_path)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long)])
async def test_every_trick_at_once(tmp_path: Path, seed: int) -> None:
    """Costs 100 times apart, usage at its bound or useless, answers lost: each is booked as what it is."""
    gate = Gate()
    adversary = Adversary(Witness(tmp_path), _LIES, clock=gate, seed=seed)
    load_rules(adversary.faults, {"random": _FAULTS, "seed": seed})
    async with _attacked(tmp_path, adversary, stream_above_tokens=1_500) as bursar:
        await _limit(bursar, SESSION, _MIX_LIMIT_NANO)
        tasks = await _run_all(bursar, gate, [_any_size(n) for n in range(_TASKS)])
    outcomes = {task["outcome"] for task in tasks}
    assert outcomes <= {"answered", "truncated", "upstream_failed", "budget_exhausted"}
    assert outcomes >= {"answered", "budget_exhausted"}
    assert adversary.bill.total.nano <= _MIX_LIMIT_NANO
    assert adversary.witness.violations == []
    assert adversary.witness.looks == adversary.bill.total.lines
    costs = sorted(line.nano for line in adversary.bill.lines)
    assert costs[-1] >= 100 * costs[0]
    _check_kinds(adversary, _closed_books(adversary, tmp_path))


def _check_kinds(adversary: Adversary, books: Books) -> None:
    """Every attempt that reached the upstream ended as what was done to it demands, with the right amount."""
    assert {rule["kind"] for rule in _FAULTS} - set(adversary.faults_of.values()) == {"latency"}
    assert set(adversary.lies_of.values()) == set(_LIES)
    billed = {line.client_reference: line for line in adversary.bill.lines}
    for reference, fault in adversary.faults_of.items():
        lie = adversary.lies_of.get(reference)
        reserved: int = books.reservations[reference]["amount_nano"]
        line = books.settlements.get(reference)
        found = ("released", 0) if line is None else (line["kind"], line["amount_nano"])
        if fault in _RELEASED:
            expected = ("released", 0)
        elif fault in _LOST:
            expected = ("presumed", reserved)
        elif fault in _UNUSABLE or lie == ITERATIONS_SHORT:
            expected = ("estimated", reserved)
        elif fault in _BROKEN_OFF:
            expected = ("estimated", _at_most(billed[reference], _max_tokens(books, reference)))
        else:
            expected = ("confirmed", reserved if lie == AT_BOUND else billed[reference].nano)
        assert found == expected, (reference, fault, lie)


def _at_most(line: Line, max_tokens: int) -> int:
    """What is owed for the line's prompt with all the output there could be, in nano-dollars."""
    worst = replace(line.meters, output=max_tokens)
    return charge_nano(line.model, worst, fast=False, us_only=True)


def _max_tokens(books: Books, reference: str) -> int:
    """The output an attempt asked for."""
    task_id, step, attempt = reference.split("/")
    started = [e["data"] for e in books.events[task_id] if e["type"] == "attempt_started"]
    (found,) = [s for s in started if (s["step"], s["attempt"]) == (int(step), int(attempt))]
    asked: int = found["max_tokens"]
    return asked


_ALL_BUDGETS = {
    "service_budget_usd": 20,
    "service_daily_budget_usd": 20,
    "service_monthly_budget_usd": 20,
}
_KEY_LIMIT_NANO = 20_000_000_000


@asynccontextmanager
async def _lied_to(tmp_path: Path, adversary: Adversary) -> AsyncIterator[Running]:
    """A service with a budget on every kind of scope, and a client with a key."""
    async with _attacked(tmp_path, adversary, **_ALL_BUDGETS) as bursar:
        limits = {"day_limit_nano": _KEY_LIMIT_NANO, "month_limit_nano": _KEY_LIMIT_NANO}
        _, text = await bursar.service.store.write(
            lambda tx: create_key(tx, "somebody", "laptop", **limits)
        )
        bursar.client.headers["authorization"] = f"Bearer {text}"
        yield bursar


async def _lied_about(bursar: Running, liar: Body, honest: int) -> Body:
    """The liar's task at its end, after that of the others, who are not disturbed."""
    lied_about = await bursar.submit(**liar, session_id="liars")
    others = [await bursar.submit(**_five_steps(n), session_id="honest") for n in range(honest)]
    ends = [(await bursar.finished(task["id"]))["outcome"] for task in others]
    assert ends == ["answered"] * honest
    return await bursar.finished(lied_about["id"])


async def _check_alarm(bursar: Running, adversary: Adversary, task: Body, calls: int) -> int:
    """One alarm, its surplus on every scope, and no call after it. Returns the surplus in nano-dollars."""
    alarm = await bursar.saw(task["id"], "reservation_exceeded")
    surplus: int = round(alarm["data"]["surplus_usd"] * 1e9)
    metrics = (await bursar.client.get("/metrics")).text
    assert "bursar_reservation_overage_total 1.0" in metrics.splitlines()
    rows = bursar.rows(
        "SELECT scope, surplus_nano FROM accounts WHERE id <> 'somebody/honest'"
        " AND (scope <> 'task' OR id = ?)",
        task["id"],
    )
    assert {row["scope"]: row["surplus_nano"] for row in rows} == dict.fromkeys(KINDS, surplus)
    sent = [seen.headers["x-bursar-attempt"] for seen in adversary.log.seen]
    own = [reference for reference in sent if reference.startswith(task["id"])]
    assert own == [f"{task['id']}/{step}/1" for step in range(1, calls + 1)]
    booked = bursar.rows(
        "SELECT SUM(amount_nano + surplus_nano) AS n FROM ledger_lines WHERE entry = 'settlement'"
    )
    assert booked == [{"n": adversary.bill.total.nano}]
    return surplus


async def test_a_tenfold_liar(tmp_path: Path) -> None:
    """Ten times the reservation reported at step 2 of 5: booked in full, told, and the task's last call."""
    adversary = Adversary(Witness(tmp_path), {}, clock=SystemClock())
    async with _lied_to(tmp_path, adversary) as bursar:
        task = await _lied_about(bursar, _five_steps(99, "[tenfold 2]"), honest=10)
        assert (task["outcome"], task["error"]["type"]) == (
            "upstream_failed",
            "reservation_exceeded",
        )
        surplus = await _check_alarm(bursar, adversary, task, calls=2)
        (held_for_it,) = bursar.rows(
            "SELECT amount_nano FROM ledger_lines"
            " WHERE entry = 'reservation' AND task_id = ? AND step = 2",
            task["id"],
        )
        assert surplus == 9 * held_for_it["amount_nano"]
    assert examine(tmp_path).drifts == ()


@pytest.mark.parametrize("kind", ["cut_mid_stream", "stream_error", "stream_eof"])
async def test_a_liar_whose_stream_breaks_off(tmp_path: Path, kind: str) -> None:
    """A tenfold prompt in `message_start` is enough: what it says is booked, and nothing is tried again."""
    adversary = Adversary(Witness(tmp_path), {}, clock=SystemClock())
    load_rules(adversary.faults, {"script": [{"kind": kind, "prompt_contains": "[tenfold"}]})
    async with _lied_to(tmp_path, adversary) as bursar:
        liar = _five_steps(99, "[tenfold_prompt 1]", max_tokens=9_000)
        task = await _lied_about(bursar, liar, honest=3)
        assert task["outcome"] == "upstream_failed"
        await _check_alarm(bursar, adversary, task, calls=1)
        assert [row["kind"] for row in bursar.rows(_KINDS_OF_TASK, task["id"])] == ["estimated"]
    assert examine(tmp_path).drifts == ()


_KINDS_OF_TASK = "SELECT kind FROM ledger_lines WHERE entry = 'settlement' AND task_id = ?"
