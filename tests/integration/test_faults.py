"""Every fault of the simulator against the whole service, over a socket: striking once, and striking always.

Whatever the upstream does, the task ends as the table of docs/retries.md says and before its deadline, nothing stays
reserved, and the ledger is never below the upstream's own bill.
"""

import tracemalloc
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from app.llm.anthropic import BODY_LIMIT, AnthropicProvider
from app.llm.provider import ModelFailure, ModelRequest
from app.simulator.core import Simulator
from app.simulator.fault_rules import load_rules
from app.simulator.faults import Kind
from app.simulator.server import start
from tests.support.clock import FakeClock
from tests.support.service import Running, started

BOTH, PLAIN, STREAM = (False, True), (False,), (True,)
FAILED, REJECTED = "upstream_failed", "upstream_rejected"
HANGS_S, ENOUGH_S = 0.3, 20.0


@dataclass(frozen=True)
class Case:
    """A fault, and how a task ends that meets it once, and with every call."""

    rule: dict[str, Any]
    once: str
    always: str
    error: str | None = None
    """The error's type, of a task that it always strikes."""
    ways: tuple[bool, ...] = BOTH
    call_timeout_s: float = ENOUGH_S
    free: bool = False
    """A task that it always strikes has cost nothing."""
    asked: dict[str, Any] = field(default_factory=dict)


def passing(kind: str, error: str, **more: Any) -> Case:
    """Another attempt helps; where none does, the task has failed."""
    given = {name: more.pop(name) for name in ("ways", "call_timeout_s", "free") if name in more}
    return Case({"kind": kind, **more}, "answered", FAILED, error, **given)


def final(outcome: str, error: str, *, free: bool = True, **rule: Any) -> Case:
    """It strikes once and for all; before a stream begins, it is no other than without one."""
    ways = PLAIN if rule["kind"] in ("error", "spend_cap") else BOTH
    return Case(rule, outcome, outcome, error, free=free, ways=ways)


def borne(kind: str, **more: Any) -> Case:
    """The answer counts all the same."""
    given = {name: more.pop(name) for name in ("ways",) if name in more}
    return Case({"kind": kind, **more}, "answered", "answered", **given)


CASES: dict[str, Case] = {
    # before anything is generated
    "400": final(REJECTED, "invalid_request_error", kind="error", status=400),
    "401": final(REJECTED, "authentication_error", kind="error", status=401),
    "402": final(REJECTED, "billing_error", kind="error", status=402),
    "403": final(REJECTED, "permission_error", kind="error", status=403),
    "404": final(REJECTED, "not_found_error", kind="error", status=404),
    "413": final(REJECTED, "request_too_large", kind="error", status=413),
    "501": final(FAILED, "api_error", kind="error", status=501),
    "spend cap": final("upstream_spend_cap", "rate_limit_error", kind="spend_cap"),
    "409": passing("error", "conflict_error", status=409, free=True, ways=PLAIN),
    "429": passing("rate_limit", "rate_limit_error", free=True, ways=PLAIN),
    "429 retry-after": passing(
        "rate_limit", "rate_limit_error", retry_after=0.01, free=True, ways=PLAIN
    ),
    "429 never again": final(REJECTED, "rate_limit_error", kind="rate_limit", should_retry=False),
    "500": passing("server_error", "api_error", free=True, ways=PLAIN),
    "504": passing("error", "timeout_error", status=504, free=True, ways=PLAIN),
    "529": passing("overloaded", "overloaded_error", free=True),
    "529 never again": final(FAILED, "overloaded_error", kind="overloaded", should_retry=False),
    # something in between
    "a proxy's page": passing("html_page", "http_502"),
    "a proxy's page over an answer": passing("html_page", "http_502", billed=True),
    # an answer that is late, or does not come
    "late headers": borne("latency", delay_s=0.05),
    "no headers": passing("timeout", "timeout", call_timeout_s=HANGS_S),
    "stall": passing("stall", "timeout", call_timeout_s=HANGS_S),
    "slow body": borne("slow_body", delay_s=0.001),
    "a byte a second": passing("drip", "timeout", call_timeout_s=HANGS_S),
    "endless and slow": passing("endless", "timeout", delay_s=0.05, call_timeout_s=HANGS_S),
    "endless": passing("endless", "malformed_answer"),
    # an answer that is not whole
    "cut before headers": passing("cut_before_headers", "answer_lost"),
    "cut": passing("cut_mid_body", "answer_lost", ways=PLAIN),
    "cut after ten bytes": passing("cut_mid_body", "answer_lost", after_bytes=10, ways=PLAIN),
    "cut stream": passing("cut_mid_stream", "answer_lost", ways=STREAM),
    "cut stream at once": passing("cut_mid_stream", "answer_lost", after_bytes=9, ways=STREAM),
    "half an answer": passing("truncate_json", "malformed_answer", ways=PLAIN),
    "no message_stop": passing("stream_eof", "answer_lost", ways=STREAM),
    "overloaded in mid-stream": passing("stream_error", "overloaded_error", ways=STREAM),
    "empty body": passing("empty_body", "malformed_answer", ways=PLAIN),
    "empty stream": passing("empty_body", "answer_lost", ways=STREAM),
    # an answer that is not what it should be
    "no text": passing("invalid_utf8", "malformed_answer"),
    "gzip bomb": passing("gzip_bomb", "malformed_answer"),
    "said twice": passing("duplicate_events", "malformed_answer", ways=STREAM),
    "out of order": passing("reordered_events", "malformed_answer", ways=STREAM),
    "unknown stop reason": final(
        FAILED, "unknown_stop_reason", free=False, kind="stop", stop="unknown"
    ),
    "no stop reason": final(FAILED, "unknown_stop_reason", free=False, kind="stop", stop="null"),
    "refusal": final("refused", "refusal", kind="refusal"),
    "refusal in mid-answer": final(
        "refused", "refusal", free=False, kind="stop", stop="refusal_mid"
    ),
    "another model's name": borne("wrong_model"),
    "a cheaper model's name": borne("wrong_model", echo="claude-haiku-4-5"),
    "a dearer model's name": borne("wrong_model", echo="claude-opus-5-5"),
    # usage
    "usage missing": borne("usage_missing"),
    "usage null": borne("usage_null"),
    "usage negative": borne("usage_negative"),
    "usage NaN": passing("usage_nan", "malformed_answer"),
    "usage taken back": borne("usage_changing", ways=STREAM),
    "usage tenfold": borne("usage_times", factor=10),
    "usage beyond all bounds": final(
        FAILED, "reservation_exceeded", free=False, kind="usage_times", factor=1_000
    ),
    # tool calls
    "a call that is no JSON": Case({"kind": "bad_tool_json"}, "answered", "max_steps"),
    "an unknown tool": Case({"kind": "unknown_tool"}, "answered", "max_steps"),
    "two calls of one id": final(FAILED, "malformed_answer", free=False, kind="duplicate_ids"),
    "ten megabytes of arguments": final(
        "truncated", "context_window", free=False, kind="huge_arguments"
    ),
    "a thousand calls": Case(
        {"kind": "many_calls"}, "answered", "max_steps", ways=PLAIN, asked={"max_steps": 2}
    ),
}
RUNS = [
    pytest.param(case, stream, id=f"{name}, {'streamed' if stream else 'plain'}")
    for name, case in CASES.items()
    for stream in case.ways
]


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")
@pytest.mark.parametrize(("case", "stream"), RUNS)
async def test_a_fault(tmp_path: Path, case: Case, stream: bool) -> None:
    """The outcome, the money, and nothing left behind; first where it strikes once, then where always."""
    async with started(
        tmp_path,
        stream_above_tokens=1 if stream else 10_000,
        call_timeout_s=case.call_timeout_s,
        retry_attempts=2,
        workers=1,
        task_budget_usd=5,
        session_budget_usd=50,
    ) as bursar:
        first = await struck(bursar, case, repeat=1)
        assert first["outcome"] == case.once
        second = await struck(bursar, case, repeat=1_000)
        assert second["outcome"] == case.always
        if case.error is not None:
            assert second["error"]["type"] == case.error
        if case.free:
            assert booked(bursar, second["id"]) == 0


async def struck(bursar: Running, case: Case, *, repeat: int) -> dict[str, Any]:
    """A task that asks for a tool, while the fault strikes so often; its books are looked at."""
    bursar.simulator.bill.lines.clear()
    bursar.script({**case.rule, "repeat": repeat})
    asked = {"tools": ["calculator"], "max_steps": 4, "deadline_s": 25, **case.asked}
    task = await bursar.run("What is 1+1?", **asked)
    assert bursar.simulator.faults.used[0] >= 1, "it never struck"
    bill_nano = sum(line.nano for line in bursar.simulator.bill.lines)
    assert booked(bursar, task["id"]) >= bill_nano
    (account,) = bursar.rows("SELECT * FROM accounts WHERE scope = 'task' AND id = ?", task["id"])
    assert account["reserved_nano"] == 0
    assert account["spent_nano"] + account["surplus_nano"] == booked(bursar, task["id"])
    return task


def booked(bursar: Running, task_id: str) -> int:
    """What the ledger says that the task has cost."""
    lines = bursar.rows(
        "SELECT amount_nano, surplus_nano FROM ledger_lines WHERE entry = 'settlement' AND task_id = ?",
        task_id,
    )
    assert all(type(amount) is int and amount >= 0 for line in lines for amount in line.values())
    return sum(line["amount_nano"] + line["surplus_nano"] for line in lines)


def test_every_fault_is_tried() -> None:
    """No kind of fault without a test."""
    assert {case.rule["kind"] for case in CASES.values()} == set(Kind) - {Kind.NONE}
    assert len(CASES) > 50


async def test_a_gigabyte_does_not_get_into_memory() -> None:
    """What unpacks to a gigabyte, or never ends, is given up at the body's limit."""
    simulator = Simulator(FakeClock())
    upstream = await start(simulator)
    provider = AnthropicProvider("key", upstream.url)
    load_rules(simulator.faults, {"script": [{"kind": "gzip_bomb"}, {"kind": "endless"}]})
    tracemalloc.start()
    try:
        for _ in range(2):
            with pytest.raises(ModelFailure, match="longer than"):
                await provider.ask(
                    ModelRequest("claude-haiku-5-5", 9, [{"role": "user", "content": "Hi"}])
                )
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
        await provider.close()
        await upstream.close()
    assert peak_bytes < 4 * BODY_LIMIT
