"""A conversation that the provider summarizes: paid for to the nano-dollar, bounded beforehand, resumed from the journal."""

from pathlib import Path
from typing import Any

import pytest

from app.simulator.compaction import SUMMARY
from tests.support.service import Running, started

SONNET = "claude-sonnet-5-5"
SCRIPT = '[[sim {"steps": 3, "tools": ["text_stats"], "inputs": [{"text": "a b"}]}]]'
LONG = f"What is it? {SCRIPT} " + "word " * 48_000
ASKED: dict[str, Any] = {
    "model": SONNET,
    "tools": ["text_stats"],
    "max_tokens": 1_000,
    "compact_above_tokens": 50_000,
}


async def _ledger(
    bursar: Running, task_id: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    lines = (await bursar.client.get(f"/tasks/{task_id}/ledger")).json()["lines"]
    held = [line for line in lines if line["entry"] == "reservation"]
    return held, [line for line in lines if line["entry"] == "settlement"]


@pytest.mark.parametrize("stream_above", [8_192, 1], ids=["plain", "streamed"])
async def test_a_summary_is_reserved_paid_and_kept(tmp_path: Path, stream_above: int) -> None:
    """One pass more on the first call's line; later prompts are short, and nothing was edited on this side."""
    async with started(tmp_path, stream_above_tokens=stream_above, session_budget_usd=50) as bursar:
        task = await bursar.run(LONG, **ASKED, budget_usd=10)
        held, settled = await _ledger(bursar, task["id"])
        bill = list(bursar.simulator.bill.lines)
        events = await bursar.events(task["id"])
    assert task["status"] == "succeeded"
    assert task["compact_above_tokens"] == 50_000
    assert [round(line["amount_usd"] * 1e9) for line in settled] == [line.nano for line in bill]
    assert all(line["kind"] == "confirmed" and line["surplus_usd"] == 0 for line in settled)
    assert held[0]["amount_usd"] > 1.4
    assert held[1]["amount_usd"] < 0.5
    assert settled[0]["tokens"]["input"] + settled[0]["tokens"]["cache_write_5m"] > 60_000
    assert all(line.meters.prompt < 5_000 for line in bill[1:])
    started_with = [e for e in events if e["type"] == "attempt_started"]
    assert "compact_above_tokens" in str(started_with[0])


async def test_a_budget_that_does_not_pay_for_a_summary_pays_for_the_question(
    tmp_path: Path,
) -> None:
    """It is asked without, as long as it fits."""
    async with started(tmp_path) as bursar:
        task = await bursar.run(LONG, **ASKED, budget_usd=4, max_steps=1)
        (line,) = bursar.simulator.bill.lines
        short = await bursar.run(LONG, **ASKED, budget_usd=2, max_steps=1)
        other = list(bursar.simulator.bill.lines)[-1]
    assert (task["outcome"], short["outcome"]) == ("max_steps", "max_steps")
    assert line.meters.output > len(SUMMARY) // 4 - 5
    assert other.meters.output < line.meters.output


async def test_it_is_refused_where_it_has_no_bound(tmp_path: Path) -> None:
    """With a closing turn, whose price could not be held back."""
    async with started(tmp_path) as bursar:
        body = {"task": "Hello", "on_budget": "finalize", "compact_above_tokens": 50_000}
        answer = await bursar.client.post("/tasks", json=body)
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:bursar:problem:compaction-unbounded"
