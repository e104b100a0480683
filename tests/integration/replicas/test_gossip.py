"""What one process has met upstream reaches the others: as a hint, so that they need not find out by themselves."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from app import settings
from app.domain.clock import SystemClock
from app.journal.hints import Hint, UpstreamHint, hint_texts, parse_hint
from app.llm.governor.governor import Governor
from app.llm.governor.lane import Reason
from app.llm.governor.report import report
from app.main import running
from app.settings import Role
from app.store.sqlite import SqliteStore
from app.worker.gossip import LONGEST_S, Gossip
from tests.support.service import BASE_URL, Running, started

HAIKU_POOL = "claude-haiku-5-5"


@pytest.fixture
async def bursar(tmp_path: Path, replica_url: str) -> AsyncIterator[Running]:
    """A process that takes tasks in and runs them."""
    async with started(tmp_path / "a", database_url=replica_url, park_after_s=1.0) as opened:
        yield opened


@asynccontextmanager
async def neighbour(tmp_path: Path, url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Another process on the same database."""
    given: dict[str, Any] = {"simulator": "on", "data_dir": tmp_path / "b", "database_url": url}
    chosen = settings.load(_env_file=None, **given)
    async with running(chosen, role=Role.API) as service:
        transport = httpx.ASGITransport(app=service.app)
        async with httpx.AsyncClient(transport=transport, base_url=BASE_URL) as client:
            yield client


async def both_listen(bursar: Running) -> None:
    """Return once the two processes hear each other."""
    while True:
        (row,) = bursar.rows(
            "SELECT COUNT(*) AS n FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'bursar-listener' AND state = 'idle' AND query LIKE 'LISTEN%'"
        )
        if row["n"] == 2:
            return
        await SystemClock().sleep(0.02)


async def pool_of(client: httpx.AsyncClient) -> dict[str, Any]:
    """What the process knows of the model, once it knows anything."""
    while True:
        for pool in (await client.get("/upstream")).json()["pools"]:
            found: dict[str, Any] = pool
            return found
        await SystemClock().sleep(0.02)


async def test_a_429_reaches_the_other_process(
    bursar: Running, tmp_path: Path, replica_url: str
) -> None:
    """It has made no call, and knows how long none is to be made."""
    async with neighbour(tmp_path, replica_url) as other:
        await both_listen(bursar)
        bursar.script({"kind": "rate_limit", "retry_after": "200"})
        task = await bursar.submit(complexity="simple")
        await bursar.saw(task["id"], "task_requeued")
        found = await pool_of(other)
        assert found["pool"] == HAIKU_POOL
        assert 100 < found["blocked_s"] <= 200
        assert (found["rate_limited_count"], found["in_flight"]) == (0, 0)


async def test_an_open_breaker_reaches_the_other_process(
    bursar: Running, tmp_path: Path, replica_url: str
) -> None:
    """Ten calls of one process found the provider down: the other one asks with one call at a time, too."""
    async with neighbour(tmp_path, replica_url) as other:
        await both_listen(bursar)
        bursar.script({"kind": "overloaded", "repeat": 1_000})
        for _ in range(12):
            await bursar.submit(complexity="simple")
        found = await pool_of(other)
        assert found["breaker"] in {"open", "half_open"}
        assert found["outage_count"] == 1


def test_hints_carry_what_was_met_beside_the_tasks() -> None:
    """One text for both; names may have any character; our own are not for us."""
    met = UpstreamHint("a model/of = mine", "rate_limited", 12.5)
    (text,) = hint_texts("me", ["t2", "t1"], [met])
    assert parse_hint(text, "me") is None
    assert parse_hint(text, "you") == Hint(frozenset({"t1", "t2"}), (met,))
    (alone,) = hint_texts("me", [], [met])
    assert parse_hint(alone, "you") == Hint(frozenset(), (met,))
    assert parse_hint("me t1 ^broken ^pool=reason=x", "you") == Hint(frozenset({"t1"}))


async def test_what_is_heard_is_bounded(tmp_path: Path) -> None:
    """A hint of another version, or a wrong one, holds nobody back for long."""
    governor = Governor(SystemClock())
    store = SqliteStore(tmp_path, SystemClock())
    gossip = Gossip(store, governor, SystemClock())
    for hint in (
        UpstreamHint("p", "a_reason_of_tomorrow", 10.0),
        UpstreamHint("p", Reason.RATE_LIMITED, float("nan")),
        UpstreamHint("p", Reason.RATE_LIMITED, -1.0),
    ):
        gossip.hear(hint)
    assert report(governor) == []
    gossip.hear(UpstreamHint("p", Reason.RATE_LIMITED, 1e9))
    (pool,) = report(governor)
    assert 0 < pool.blocked_s <= LONGEST_S
    await store.close()
