"""GET /upstream and its metrics: what the service knows of its provider's limits."""

from pathlib import Path
from typing import Any

from app.simulator.limits import Limits
from tests.support.keys import come_as, made_key
from tests.support.service import HANG, Running, started


async def _pools(bursar: Running) -> list[dict[str, Any]]:
    answer = await bursar.client.get("/upstream")
    assert answer.status_code == 200, answer.text
    pools: list[dict[str, Any]] = answer.json()["pools"]
    return pools


async def _metric(bursar: Running, line: str) -> str:
    """The value of this sample."""
    text = (await bursar.client.get("/metrics")).text
    (value,) = [one.rpartition(" ")[2] for one in text.splitlines() if one.startswith(line)]
    return value


async def test_nothing_is_known_before_the_first_call(bursar: Running) -> None:
    """A limit that nobody named is none."""
    assert await _pools(bursar) == []


async def test_limits_are_learned_from_the_first_answer(bursar: Running) -> None:
    """What the headers of a real answer said, and what is left of it."""
    task = await bursar.run(complexity="simple")
    (pool,) = await _pools(bursar)
    assert (pool["pool"], pool["models"]) == ("claude-haiku-5-5", [task["model"]])
    assert (pool["breaker"], pool["in_flight"], pool["waiting"]) == ("closed", 0, 0)
    limits = {one["kind"]: (one["per_minute"], one["remaining"]) for one in pool["limits"]}
    known = Limits()
    assert limits["requests"][0] == known.requests
    assert limits["output_tokens"][0] == known.output_tokens
    assert set(limits) == {"requests", "input_tokens", "output_tokens", "tokens"}
    sample = 'bursar_rate_limit{kind="requests",model="claude-haiku-5-5"}'
    assert float(await _metric(bursar, sample)) == known.requests


async def test_a_call_under_way_shows(bursar: Running) -> None:
    """In flight while it is, and not afterwards."""
    bursar.script(HANG)
    task = await bursar.submit(complexity="simple")
    await bursar.saw(task["id"], "attempt_started")
    (pool,) = await _pools(bursar)
    assert pool["in_flight"] == 1
    await bursar.client.post(f"/tasks/{task['id']}/cancel")
    await bursar.finished(task["id"])
    (pool,) = await _pools(bursar)
    assert pool["in_flight"] == 0


async def test_a_429_is_waited_out_by_all(tmp_path: Path) -> None:
    """The next task does not meet it: it is given back with the reason, and the wait shows everywhere."""
    async with started(tmp_path, park_after_s=1.0) as bursar:
        bursar.script({"kind": "rate_limit", "retry_after": "600"})
        first = await bursar.submit(complexity="simple")
        assert (await bursar.saw(first["id"], "task_requeued"))["data"]["reason"] == "retry_wait"
        second = await bursar.submit(complexity="simple")
        assert (await bursar.saw(second["id"], "task_requeued"))["data"]["reason"] == "rate_limited"
        assert "attempt_started" not in [e["type"] for e in await bursar.events(second["id"])]
        (pool,) = await _pools(bursar)
        assert 500 < pool["blocked_s"] <= 600
        assert (pool["waiting"], pool["rate_limited_count"], pool["parked_count"]) == (1, 1, 1)
        limited = 'bursar_upstream_rate_limited_total{model="claude-haiku-5-5"}'
        assert float(await _metric(bursar, limited)) == 1
        other = await bursar.run(complexity="medium")
        assert other["status"] == "succeeded", "another model has limits of its own"
        cancelled = await bursar.client.post(f"/tasks/{second['id']}/cancel")
        assert cancelled.json()["status"] == "cancelled"
        pools = {pool["pool"]: pool for pool in await _pools(bursar)}
        assert pools["claude-haiku-5-5"]["waiting"] == 0


async def test_an_outage_shows(bursar: Running) -> None:
    """Twelve tasks find the provider overloaded: the breaker opens, and says since when and until when."""
    bursar.script({"kind": "overloaded", "repeat": 1_000})
    tasks = [await bursar.submit(complexity="simple") for _ in range(12)]
    for task in tasks:
        await bursar.saw(task["id"], "task_requeued")
    (pool,) = await _pools(bursar)
    assert pool["breaker"] in {"open", "half_open"}
    assert pool["outage_s"] > 0
    assert pool["outage_count"] == 1
    assert float(await _metric(bursar, "bursar_breaker_state")) > 0


async def test_it_is_for_owners_only(bursar: Running) -> None:
    """Once there are keys, nobody looks without one; every owner sees the same, and nothing of the others."""
    _, key = await made_key(bursar, "acme")
    assert (await bursar.client.get("/upstream")).status_code == 401
    come_as(bursar, key)
    assert await _pools(bursar) == []
