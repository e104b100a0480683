"""A cancel through one process of what another one runs, in whatever state: it ends as cancelled, and nothing begins after it."""

import asyncio
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from app.domain.clock import US_PER_S, SystemClock
from tests.acceptance.books import Row, check_all, check_requests, read_books
from tests.acceptance.client import all_ended, bill_of, set_faults, submit, witness
from tests.support.fleet import Fleet, Replica, fleet
from tests.support.process import simulator

_SLOTS = 4
_TASKS = 6
"""More than there are slots: some wait in the queue."""
_ROUNDS = 15
_LONG = {
    "task": 'Work it out. [[sim {"steps": 8, "parallel": 2}]]',
    "complexity": "simple",
    "tools": ["calculator", "text_stats"],
}
_MOMENTS = ("task_claimed", "tool_finished", "attempt_started")
_BEGUN = {"task_claimed", "attempt_started", "tool_started"}
_WENT_ON = {"model_answered", "tool_finished"}
"""What had begun before a cancel may still be written down after it: an answer that is there is paid for."""
WAITING, CLAIMED, IN_CALL, BETWEEN = "waiting", "claimed", "in a call", "between steps"


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A simulator whose answers take a moment."""
    async with simulator(tmp_path) as running:
        await set_faults(running, random=[{"kind": "latency", "delay_s": 0.1, "probability": 1}])
        yield running


async def _round(api: httpx.AsyncClient, worker: Replica, moment: str) -> tuple[list[str], int]:
    """At that moment of one of the tasks its worker stands still: all are cancelled, then it goes on; and when it does."""
    after = len(worker.child.out)
    ids = [await submit(api, _LONG) for _ in range(_TASKS)]
    await worker.child.line(lambda line: f'"event":"{moment}"' in line, after=after, timeout_s=60)
    worker.child.send(signal.SIGSTOP)
    try:
        answers = [await api.post(f"/tasks/{task_id}/cancel") for task_id in ids]
    finally:
        worker.child.send(signal.SIGCONT)
    went_on_us = SystemClock().now_us()
    for answer in answers:
        assert answer.status_code in {200, 202}, answer.text
        assert answer.json()["status"] in {"cancelled", "cancelling"}
    ended = await all_ended(api, ids)
    assert {task["outcome"] for task in ended} == {"cancelled"}
    assert {task["reserved_usd"] for task in ended} == {0}
    return ids, went_on_us


def _state(events: list[Row]) -> str:
    """Where the task was when its cancel was acknowledged; nothing may have begun after that."""
    kinds = [event["type"] for event in events]
    at = kinds.index("cancel_requested")
    assert not _BEGUN & set(kinds[at:]), f"begun after the cancel: {kinds[at:]}"
    before = [kind for kind in kinds[:at] if kind in _BEGUN | _WENT_ON]
    last = before[-1] if before else ""
    return {"": WAITING, "task_claimed": CLAIMED, "attempt_started": IN_CALL}.get(last, BETWEEN)


@pytest.mark.timeout(300)
async def test_a_cancel_in_every_state(
    tmp_path: Path, replica_url: str, upstream: httpx.AsyncClient
) -> None:
    """In the queue, claimed and not begun, in a model call, between steps: no call without a reservation from before."""
    settings = {"BURSAR_WORKERS": str(_SLOTS), "BURSAR_SESSION_BUDGET_USD": "500"}
    accepted, seen, taken_s = set[str](), Counter[str](), list[float]()
    async with (
        witness(upstream) as requests,
        fleet(tmp_path, replica_url, str(upstream.base_url), **settings) as replicas,
    ):
        api, (worker,) = await asyncio.gather(replicas.start("api"), replicas.workers(1))
        async with replicas.client(api) as client:
            for number in range(_ROUNDS):
                ids, went_on_us = await _round(client, worker, _MOMENTS[number % len(_MOMENTS)])
                accepted |= set(ids)
                events = read_books(replica_url, await bill_of(upstream)).events
                states = {task_id: _state(events[task_id]) for task_id in ids}
                seen.update(states.values())
                running = [task_id for task_id, state in states.items() if state != WAITING]
                taken_s += [_ended_after_s(events[task_id], went_on_us) for task_id in running]
                if len(seen) == 4:
                    break
        await _stop_all(replicas)
        sent = await requests.all()
    assert set(seen) == {WAITING, CLAIMED, IN_CALL, BETWEEN}
    books = read_books(replica_url, await bill_of(upstream))
    check_all(books, accepted)
    check_requests(books, sent)
    taken_s.sort()
    p50, p99 = (taken_s[int(len(taken_s) * share)] for share in (0.5, 0.99))
    times = f"those that ran ended after p50 {p50:.3f} s, p99 {p99:.3f} s, max {taken_s[-1]:.3f} s"
    sys.stdout.write(f"{len(accepted)} tasks cancelled: {dict(seen)}; {times}\n")


def _ended_after_s(events: list[Row], went_on_us: int) -> float:
    """How long it took the worker to confirm, from when it went on; the database and the test have one clock."""
    kinds = [event["type"] for event in events]
    asked, end = (events[kinds.index(kind)] for kind in ("cancel_requested", "task_finished"))
    return float(end["at_us"] - max(asked["at_us"], went_on_us)) / US_PER_S


async def _stop_all(replicas: Fleet) -> None:
    for replica in replicas.all:
        assert (await replicas.stop(replica)).code == 0
