"""A service that is stopped for longer than its lease and goes on: alone with its data, it has lost nothing."""

from pathlib import Path

import pytest

from tests.acceptance.books import check_all, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults, submit
from tests.support.process import service, simulator

_TASKS, _STALLS = 12, 4
_STALL_S = 1.2
_SHORT_LEASE = {"BURSAR_HEARTBEAT_S": "0.1", "BURSAR_LEASE_S": "0.3", "BURSAR_WORKERS": "8"}
_BODY = {
    "task": 'Work it out. [[sim {"steps": 6, "parallel": 2}]]',
    "complexity": "simple",
    "tools": ["calculator", "text_stats"],
}


@pytest.mark.timeout(120)
async def test_stopped_past_the_lease_and_on_again(tmp_path: Path) -> None:
    """SIGSTOP for four leases, again and again under load: each task ends in its first run, each call is paid once."""
    async with (
        simulator(tmp_path) as upstream,
        service(tmp_path, str(upstream.base_url), **_SHORT_LEASE) as bursar,
    ):
        await set_faults(
            upstream, random=[{"kind": "latency", "probability": 1, "delay_s": [0.1, 0.4]}]
        )
        await bursar.start()
        async with bursar.client() as client:
            accepted = [await submit(client, _BODY) for _ in range(_TASKS)]
            for _ in range(_STALLS):
                await bursar.child.stall(_STALL_S)
                await bursar.child.lines(3)
            tasks = await all_ended(client, accepted)
            metrics = (await client.get("/metrics")).text
        left = await bursar.stop()
        assert (left.code, left.err) == (0, "")
        books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, set(accepted))
    assert {task["outcome"] for task in tasks} == {"answered"}
    assert {row["run_count"] for row in books.tasks.values()} == {1}
    assert {line["kind"] for line in books.settlements.values()} == {"confirmed"}
    assert "bursar_leases_lost_total 0.0" in metrics
    assert "lease_lost" not in left.out
