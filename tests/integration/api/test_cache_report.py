"""What a task and its session say of prompt caching, from their ledger lines."""

from pathlib import Path

import pytest

from app.simulator.prices import PRICES, Meters
from tests.support.service import started

SONNET = "claude-sonnet-5-5"
SYSTEM = "You are careful. " * 600
LOOP = 'What is 2 + 2? [[sim {"steps": 3, "tools": ["calculator"], "inputs": [{"expression": "2+2"}]}]]'


async def test_a_loop_says_what_caching_saved(tmp_path: Path) -> None:
    """To the nano-dollar what its calls would have cost without, by the simulator's own meters and prices."""
    async with started(tmp_path) as bursar:
        task = await bursar.run(LOOP, model=SONNET, system=SYSTEM, tools=["calculator"])
        lines = bursar.simulator.bill.lines
        ledger = (await bursar.client.get(f"/tasks/{task['id']}/ledger")).json()["lines"]
        session = (await bursar.client.get(f"/sessions/{task['session_id']}/usage")).json()
    price = PRICES[SONNET]
    plain = [
        price.times_mtok(Meters(input=line.meters.prompt, output=line.meters.output))
        for line in lines
    ]
    saved_nano = sum(-(-cost // 1_000_000) for cost in plain) - sum(line.nano for line in lines)
    assert task["status"] == "succeeded"
    assert task["cache"]["saved_usd"] == pytest.approx(saved_nano / 1e9, abs=1e-12)
    assert task["cache"]["saved_usd"] > 0
    read = sum(line.meters.cache_read for line in lines)
    prompt = sum(line.meters.prompt for line in lines)
    assert task["cache"]["read_share"] == round(read / prompt, 4) > 0.5
    assert session["cache"] == task["cache"]
    told = sum(line["cache_saved_usd"] for line in ledger)
    assert told == pytest.approx(task["cache"]["saved_usd"], abs=1e-12)


async def test_a_write_that_nobody_read_is_a_loss(tmp_path: Path) -> None:
    """It is told as one: a quarter of the input price of what was written."""
    async with started(tmp_path) as bursar:
        task = await bursar.run(model=SONNET, system=SYSTEM, tools=["calculator"])
        (line,) = bursar.simulator.bill.lines
    assert line.meters.cache_write_5m > 0
    assert task["cache"]["saved_usd"] == pytest.approx(-line.meters.cache_write_5m * 0.5e-6)
    assert task["cache"]["read_share"] == 0


async def test_without_caching_nothing_is_saved(tmp_path: Path) -> None:
    """Nor written: the setting is off."""
    async with started(tmp_path, prompt_caching=False) as bursar:
        task = await bursar.run(LOOP, model=SONNET, system=SYSTEM, tools=["calculator"])
        assert all(line.meters.cache_write_5m == 0 for line in bursar.simulator.bill.lines)
    assert task["cache"] == {"read_share": 0, "saved_usd": 0}
