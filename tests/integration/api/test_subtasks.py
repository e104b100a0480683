"""Sub-tasks: they draw on their parent's envelope, and there is an end to how many and how deep."""

import asyncio
from typing import Any

import pytest

from app.api.parents import SUBTASK_DEPTH_LIMIT, SUBTASKS_LIMIT
from tests.support.service import HANG, Running

REFUSED = "urn:bursar:problem:parent-refused"
CHEAP = {"complexity": "simple"}
OPEN = [{"kind": "timeout", "repeat": 9, "prompt_contains": name} for name in ("Parent", "Middle")]
"""Their calls hang, so that they are there for their sub-tasks."""


async def parent(bursar: Running, *rules: dict[str, object], **fields: object) -> str:
    """A running task; its own call holds next to nothing of its envelope."""
    bursar.script(*(rules or OPEN))
    given = {**CHEAP, "session_id": "s", "max_tokens": 1, **fields}
    task = await bursar.submit("Parent.", **given)
    await bursar.saw(task["id"], "attempt_started")
    return str(task["id"])


async def refused(bursar: Running, **fields: object) -> dict[str, Any]:
    """The problem of a sub-task that cannot be."""
    answer = await bursar.client.post("/tasks", json={"task": "Child.", **fields})
    problem: dict[str, Any] = answer.json()
    assert (answer.status_code, problem["type"]) == (422, REFUSED), answer.text
    assert problem["errors"][0]["field"] == "parent_id"
    return problem


async def look(bursar: Running, task_id: str) -> dict[str, Any]:
    """The task as it stands."""
    task: dict[str, Any] = (await bursar.client.get(f"/tasks/{task_id}")).json()
    return task


def account(bursar: Running, task_id: str) -> tuple[int, int]:
    """What the task's envelope has paid and holds, in nano-dollars."""
    (row,) = bursar.rows(
        "SELECT spent_nano + surplus_nano AS spent, reserved_nano FROM accounts"
        " WHERE scope = 'task' AND id = ?",
        task_id,
    )
    return row["spent"], row["reserved_nano"]


def nano(usd: float) -> int:
    """An amount of the API as it is kept."""
    return round(usd * 1e9)


async def test_a_childs_calls_are_on_every_ancestors_account(bursar: Running) -> None:
    """Parent and grandparent pay along; each task's own cost is what its own lines say."""
    top = await parent(bursar)
    middle = await bursar.submit("Middle.", parent_id=top, **CHEAP)
    await bursar.saw(middle["id"], "attempt_started")
    child = await bursar.run("Child.", parent_id=middle["id"], **CHEAP)
    assert (child["parent_id"], child["session_id"]) == (middle["id"], "s")
    assert child["cost_usd"] > 0
    assert child["subtasks_cost_usd"] == 0
    for ancestor in (top, middle["id"]):
        shown = await look(bursar, ancestor)
        assert (shown["cost_usd"], shown["subtasks_cost_usd"]) == (0, child["cost_usd"])
        assert account(bursar, ancestor)[0] == nano(child["cost_usd"])
        assert shown["remaining_usd"] < shown["budget_usd"] - child["cost_usd"]
    page = (await bursar.client.get(f"/tasks/{child['id']}/ledger")).json()
    assert [line["scopes"] for line in page["lines"]] == [["task"] * 3 + ["session"]] * 2
    session = (await bursar.client.get("/sessions/s")).json()
    assert session["spent_usd"] == child["cost_usd"]


async def test_the_parents_end_counts_both_apart(bursar: Running) -> None:
    """`cost_usd` is its own, `subtasks_cost_usd` its children's; the session counts every call once."""
    bursar.script({"kind": "latency", "delay_s": 0.3, "prompt_contains": "Parent"})
    top = await bursar.submit("Parent.", session_id="s", **CHEAP)
    children = [await bursar.submit("Child.", parent_id=top["id"], **CHEAP) for _ in range(3)]
    costs = [(await bursar.finished(child["id"]))["cost_usd"] for child in children]
    ended = await bursar.finished(top["id"])
    assert nano(ended["subtasks_cost_usd"]) == sum(map(nano, costs)) > 0
    assert ended["cost_usd"] == ended["cost"]["confirmed_usd"] > 0
    session = (await bursar.client.get("/sessions/s")).json()
    assert nano(session["spent_usd"]) == bursar.simulator.bill.total.nano


async def test_twenty_children_never_pass_the_envelope(bursar: Running) -> None:
    """All at once, each ready to spend more than there is: the simulator's bill stays within the parent's budget."""
    budget = 0.002
    slow: dict[str, object] = {"kind": "latency", "delay_s": 2, "prompt_contains": "Parent"}
    top = await parent(bursar, slow, budget_usd=budget)
    work = 'Child. [[sim {"steps": 3}]]'
    fields = {**CHEAP, "tools": ["text_stats"], "parent_id": top, "budget_usd": 1}
    posts = [
        bursar.client.post("/tasks", json={"task": work, **fields}, headers={"prefer": "wait=30"})
        for _ in range(20)
    ]
    highest = 0
    running = asyncio.gather(*posts)
    while not running.done():
        highest = max(highest, sum(account(bursar, top)))
        await asyncio.wait({running}, timeout=0.02)
    answers = await running
    assert {answer.status_code for answer in answers} <= {200, 402}
    outcomes = [a.json()["outcome"] for a in answers if a.status_code == 200]
    assert set(outcomes) <= {"answered", "budget_exhausted", "truncated"}
    assert "budget_exhausted" in [
        *outcomes,
        *("budget_exhausted" for a in answers if a.status_code == 402),
    ]
    await bursar.finished(top)
    spent, held = account(bursar, top)
    assert bursar.simulator.bill.total.nano == spent
    assert max(highest, spent) <= nano(budget)
    assert (held, spent > nano(budget) / 2) == (0, True)


async def test_a_spent_envelope_refuses_the_next_child(bursar: Running) -> None:
    """402 names the task scope; money that the parent's own call holds is not spent."""
    top = await parent(bursar, budget_usd=0.0015)
    child = await bursar.run("Child.", parent_id=top, **CHEAP, max_tokens=256)
    assert child["outcome"] == "answered"
    answer = await bursar.client.put(f"/tasks/{top}/budget", json={"budget_usd": 0.00002})
    assert answer.status_code == 200
    late = await bursar.client.post("/tasks", json={"task": "Child.", "parent_id": top, **CHEAP})
    problem = late.json()
    assert (late.status_code, problem["scope"], problem["limit_usd"]) == (402, "task", 0.00002)


async def test_depth(bursar: Running) -> None:
    """So many generations under the first one, and no further; a typed refusal."""
    bursar.script(HANG)
    task_id = (await bursar.submit("Parent.", **CHEAP))["id"]
    for _ in range(SUBTASK_DEPTH_LIMIT):
        task_id = (await bursar.submit("Child.", parent_id=task_id, **CHEAP))["id"]
    problem = await refused(bursar, parent_id=task_id)
    assert f"{SUBTASK_DEPTH_LIMIT} levels" in problem["detail"]


async def test_breadth_holds_against_posts_at_once(bursar: Running) -> None:
    """Of a hundred and twenty at the same time a hundred get in, and the rest are told why."""
    bursar.script(HANG)
    top = (await bursar.submit("Parent.", **CHEAP))["id"]
    body = {"task": "Child.", "parent_id": top, **CHEAP}
    answers = await asyncio.gather(*(bursar.client.post("/tasks", json=body) for _ in range(120)))
    taken = [answer for answer in answers if answer.status_code == 202]
    late = [answer.json() for answer in answers if answer.status_code != 202]
    assert len(taken) == SUBTASKS_LIMIT
    assert {problem["type"] for problem in late} == {REFUSED}
    assert bursar.rows("SELECT COUNT(*) AS n FROM tasks WHERE parent_id = ?", top) == [
        {"n": SUBTASKS_LIMIT}
    ]
    other = (await bursar.submit("Another.", **CHEAP))["id"]
    assert (await bursar.submit("Child.", parent_id=other, **CHEAP))["parent_id"] == other


async def test_a_parent_that_has_ended(bursar: Running) -> None:
    """Nothing can be done for it any more, however it ended."""
    done = (await bursar.run(**CHEAP))["id"]
    bursar.script(HANG)
    gone = (await bursar.submit(**CHEAP))["id"]
    await bursar.client.post(f"/tasks/{gone}/cancel")
    await bursar.finished(gone)
    for ended in (done, gone):
        assert "has ended" in (await refused(bursar, parent_id=ended))["detail"]


async def test_a_parent_of_another_session(bursar: Running) -> None:
    """A sub-task is of its parent's session, said or unsaid."""
    top = await parent(bursar)
    assert "session, s" in (await refused(bursar, parent_id=top, session_id="other"))["detail"]
    said = await bursar.submit("Child.", parent_id=top, session_id="s", **CHEAP)
    assert said["session_id"] == "s"
    assert bursar.rows("SELECT id FROM sessions") == [{"id": "s"}]


@pytest.mark.parametrize("parent_id", ["task_none", "task_01a204ceae1b2d9443ba332966b78d00"])
async def test_a_parent_nobody_knows(bursar: Running, parent_id: str) -> None:
    """Refused like any other that cannot be; nothing is kept."""
    await refused(bursar, parent_id=parent_id)
    assert bursar.rows("SELECT id FROM tasks") == []


async def test_a_child_that_waits_for_its_parents_money(bursar: Running) -> None:
    """A paused child goes on when its parent's budget is raised, though nobody touched its own."""
    later: dict[str, object] = {
        "kind": "overloaded",
        "retry_after": 300,
        "prompt_contains": "Parent",
    }
    top = await parent(bursar, later, budget_usd=0.00055)
    await bursar.saw(top, "task_requeued")  # it waits, and holds nothing
    work = 'Child. [[sim {"steps": 9}]]'
    fields = {**CHEAP, "tools": ["text_stats"], "on_budget": "pause", "budget_usd": 1}
    child = await bursar.submit(work, parent_id=top, **fields)
    await bursar.saw(child["id"], "task_paused")
    shown = await look(bursar, child["id"])
    assert (shown["paused"]["scope"], shown["paused"]["limit_usd"]) == ("task", 0.00055)
    await bursar.client.put(f"/tasks/{top}/budget", json={"budget_usd": 1})
    assert (await bursar.finished(child["id"], within_s=5))["outcome"] == "answered"
