"""Five hundred tasks of every kind while everything goes wrong: the upstream's bill against our ledger."""

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance import mix
from tests.acceptance.books import Books, check_all, read_books
from tests.acceptance.client import Task, all_ended, bill_of, requests_of, set_faults
from tests.support.process import service, simulator

_TASKS = 500
_WAVE = 125
_QUICK = {
    "BURSAR_PARK_AFTER_S": "0.5",
    "BURSAR_LOG_LEVEL": "WARNING",
    # The last few tasks would wait out what looks like an outage, half a minute each: nobody's answer calls them.
    "BURSAR_RETRY_BUDGET_TOKENS": "100000",
    "BURSAR_RETRY_PROBE_S": "1",
}


async def _submit_all(
    client: httpx.AsyncClient, wave: list[tuple[str, dict[str, Any]]]
) -> dict[str, str]:
    """Task id → kind, of those that were accepted. A spent session is the only reason to refuse."""

    async def one(name: str, body: dict[str, Any]) -> tuple[str, str] | None:
        answer = await client.post("/tasks", json=body)
        if answer.status_code == 402:
            assert answer.json()["scope"] == "session"
            return None
        assert answer.status_code == 202, answer.text
        task_id = answer.json()["id"]
        if name == "cancelled":
            ask = await client.post(f"/tasks/{task_id}/cancel")
            assert ask.status_code in {200, 202, 409}, ask.text
        return task_id, name

    answers = await asyncio.gather(*(one(name, body) for name, body in wave))
    return dict(answer for answer in answers if answer is not None)


@pytest.mark.timeout(120)
async def test_five_hundred_mixed_tasks(tmp_path: Path) -> None:
    """Bill equals ledger where confirmed, stays below it everywhere, and nothing exceeds a budget."""
    async with (
        simulator(tmp_path) as upstream,
        service(tmp_path, str(upstream.base_url), **_QUICK) as bursar,
    ):
        await set_faults(upstream, random=mix.FAULTS, seed=20)
        await bursar.start()
        tasks: dict[str, Task] = {}
        names: dict[str, str] = {}
        sent: dict[int, dict[str, Any]] = {}
        async with bursar.client() as client:
            for number in range(mix.TIGHT_SESSIONS):
                budget = {"budget_usd": mix.TIGHT_BUDGET_USD}
                put = await client.put(f"/sessions/tight-{number}/budget", json=budget)
                assert put.status_code == 200
            for wave in mix.waves(_TASKS, _WAVE):
                accepted = await _submit_all(client, wave)
                names |= accepted
                tasks |= {task["id"]: task for task in await all_ended(client, accepted)}
                sent |= {r["number"]: r for r in await requests_of(upstream)}
        left = await bursar.stop()
        assert (left.code, left.err) == (0, "")
        books = read_books(bursar.database, await bill_of(upstream))
    check_all(books, set(names))
    _check_requests(books, sent)
    _check_outcomes(tasks, names)
    _check_api(books, tasks)
    _check_it_was_hard(books, sent)


def _check_requests(books: Books, sent: dict[int, dict[str, Any]]) -> None:
    """Every request was reserved for, and no reference left twice, faults included."""
    assert sorted(sent) == list(range(1, len(sent) + 1)), "requests were missed"
    references = Counter(r["headers"]["x-bursar-attempt"] for r in sent.values())
    assert references.most_common(1)[0][1] == 1
    assert set(references) <= set(books.reservations)


def _check_outcomes(tasks: dict[str, Task], names: dict[str, str]) -> None:
    wrong = [
        (names[task_id], task["outcome"], task["error"])
        for task_id, task in tasks.items()
        if not mix.may_end(names[task_id], task["outcome"])
    ]
    assert wrong == []
    seen = {(names[task_id], task["outcome"]) for task_id, task in tasks.items()}
    unseen = {n for n, kind in mix.KINDS.items() if not any((n, end) in seen for end in kind.ends)}
    assert unseen == set(), "these never ended as they should"


def _check_api(books: Books, tasks: dict[str, Task]) -> None:
    """What the API said at a task's end is what the ledger has."""
    booked: Counter[str] = Counter()
    for line in books.settlements.values():
        booked[line["task_id"]] += line["amount_nano"] + line["surplus_nano"]
    for task_id, task in tasks.items():
        assert round(task["cost_usd"] * 1e9) == booked[task_id]
        assert task["cost_usd"] == round(sum(task["cost"].values()), 9)
        assert task["reserved_usd"] == 0
        assert task["partial"] <= (task["result"] is not None)


def _check_it_was_hard(books: Books, sent: dict[int, dict[str, Any]]) -> None:
    """Every fault struck, every kind of line was written, calls waited for other calls' money."""
    struck = {request["fault"] for request in sent.values()}
    assert {rule["kind"] for rule in mix.FAULTS} - struck == {"latency"}
    kinds = Counter(line["kind"] for line in books.settlements.values())
    assert min(kinds["confirmed"], kinds["estimated"], kinds["presumed"]) > 10
    assert len(books.releases) > 10
    waited = [e for es in books.events.values() for e in es if e["type"] == "reservation_waited"]
    assert waited
