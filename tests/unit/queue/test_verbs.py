"""The verbs that move a task: each change with its event, illegal ones refused."""

import asyncio
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.domain.errors import NotFound, StaleLease, TaskFinished
from app.domain.task import (
    LOCAL_OWNER,
    Complexity,
    Conclusion,
    Outcome,
    Subject,
    TaskError,
    TaskStatus,
)
from app.journal.events import TaskFinished as Finished
from app.journal.journal import read_all
from app.queue import verbs
from app.queue.spec import spec_of
from app.store.port import Tx
from tests.support.seeding import accepted, claim_now, claimed, row_of, scopes_of, spec
from tests.unit.queue.walking import open_walk

ANSWERED = Conclusion(Outcome.ANSWERED, "42")


async def names(office: Any, subject: Subject) -> list[str]:
    """The names of the task's events."""
    return [entry.event.name for entry in await read_all(office.store, subject)]


async def whole_row(office: Any) -> tuple[Any, ...]:
    """Every column of the task."""
    row: Any = await row_of(office.store)
    return tuple(row)


def test_a_spec_survives_its_row():
    """What was submitted comes back from the row exactly; unknown fields of a newer version do not hurt."""
    asked = spec(
        text="ä\x00\n",
        complexity=Complexity.COMPLEX,
        tools=("a", "b"),
        metadata={"k": "v"},
        system="be kind",
        max_tokens_explicit=True,
    )
    data = orjson.loads(orjson.dumps(asked))
    assert spec_of(orjson.dumps({**data, "colour": "red"}).decode()) == asked


async def test_claims_go_by_priority_then_age(office):
    """More urgent first, then older, whatever the order of submission."""
    order = [(5, "late"), (0, "normal-1"), (-3, "urgent"), (0, "normal-2"), (5, "later")]
    for priority, name in order:
        await accepted(office.store, name, priority=priority)
        office.clock.move(1)
    claims = await office.store.write(lambda tx: claim_now(tx, 3))
    assert [claim.subject.task_id for claim in claims] == ["urgent", "normal-1", "normal-2"]
    rest = await office.store.write(lambda tx: claim_now(tx, 9))
    assert [claim.subject.task_id for claim in rest] == ["late", "later"]
    assert await office.store.write(lambda tx: claim_now(tx, 9)) == []


async def test_claims_of_many_at_once_share_nothing(office):
    """However many claim at the same time, every task is claimed once."""
    for number in range(30):
        await accepted(office.store, f"t{number:02}")
    found = await asyncio.gather(
        *(office.store.write(lambda tx: claim_now(tx, 4)) for _ in range(12))
    )
    taken = [claim.subject.task_id for claims in found for claim in claims]
    assert taken == [f"t{number:02}" for number in range(30)]


async def test_a_claim_is_a_new_run(office):
    """Each claim counts the run up; the old run's number no longer holds."""
    first = await claimed(office.store)
    assert first.subject.run == 1
    assert first.spec == spec()
    assert await office.store.write(
        lambda tx: verbs.give_back(tx, first.subject, "drain", tx.now_us)
    )
    (second,) = await office.store.write(lambda tx: claim_now(tx, 1))
    assert second.subject.run == 2
    assert not await office.store.write(
        lambda tx: verbs.give_back(tx, first.subject, "drain", tx.now_us)
    )
    with pytest.raises(StaleLease):
        await office.store.write(lambda tx: verbs.finish(tx, first.subject, ANSWERED))
    assert (await row_of(office.store))["status"] == "running"
    assert await names(office, first.subject) == [
        "task_accepted",
        "task_claimed",
        "task_requeued",
        "task_claimed",
    ]


async def test_given_back_for_later_is_not_claimed_before(office):
    """A task that waits until an instant is left alone until then."""
    claim = await claimed(office.store)
    at_us = office.clock.now_us() + 5_000_000
    await office.store.write(lambda tx: verbs.give_back(tx, claim.subject, "retry_wait", at_us))
    assert await office.store.write(lambda tx: claim_now(tx, 1)) == []
    office.clock.move(5)
    (again,) = await office.store.write(lambda tx: claim_now(tx, 1))
    assert again.subject.run == 2


async def test_finishing_says_everything(office):
    """The row and the event have status, outcome, result and cost."""
    claim = await claimed(office.store)
    office.clock.move(3)
    partial = Conclusion(
        Outcome.TRUNCATED, "half", partial=True, error=TaskError("truncated", "cut")
    )
    attempt = Attempt(claim.subject, 1, 1, "m", "p")

    def paid(tx: Tx) -> None:
        assert reserve(tx, attempt, scopes_of(claim.subject), 100) is None
        settle(tx, attempt.id, Kind.CONFIRMED, 77)

    await office.store.write(paid)
    await office.store.write(lambda tx: verbs.finish(tx, claim.subject, partial))
    row = await row_of(office.store)
    assert (row["status"], row["outcome"], row["result_partial"]) == ("failed", "truncated", 1)
    assert orjson.loads(row["result_json"]) == "half"
    assert orjson.loads(row["error_json"]) == {"type": "truncated", "message": "cut"}
    assert row["finished_at_us"] == office.clock.now_us()
    assert row["lease_owner"] is None
    (end,) = [
        entry.event
        for entry in await read_all(office.store, claim.subject)
        if isinstance(entry.event, Finished)
    ]
    assert (end.cost_nano, end.partial, end.result_bytes, end.duration_s) == (77, True, 4, 3.0)


@pytest.mark.parametrize("outcome", list(Outcome))
async def test_nothing_leaves_a_terminal_status(office, outcome):
    """An ended task is not ended again, not claimed, not cancelled, not given back."""
    claim = await claimed(office.store)
    subject = claim.subject
    await office.store.write(lambda tx: verbs.finish(tx, subject, Conclusion(outcome)))
    before = await whole_row(office)
    with pytest.raises(StaleLease):
        await office.store.write(lambda tx: verbs.finish(tx, subject, ANSWERED))
    with pytest.raises(TaskFinished):
        await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert not await office.store.write(lambda tx: verbs.give_back(tx, subject, "drain", tx.now_us))
    office.clock.move(10_000)
    assert await office.store.write(lambda tx: claim_now(tx, 9)) == []
    assert await office.store.write(lambda tx: verbs.expire(tx, 9)) == 0
    after = await whole_row(office)
    assert after == before


async def test_cancel_of_a_waiting_task_is_its_end(office):
    """Cancelled before anybody claimed it: at once, with both events."""
    subject = await accepted(office.store)
    status = await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert status is TaskStatus.CANCELLED
    row = await row_of(office.store)
    assert (row["status"], row["outcome"]) == ("cancelled", "cancelled")
    assert await names(office, subject) == ["task_accepted", "cancel_requested", "task_finished"]


async def test_cancel_of_a_running_task_is_a_request(office):
    """Running, it is asked to stop; asking again changes nothing; it cannot go back to the queue."""
    claim = await claimed(office.store)
    for _ in range(2):
        status = await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
        assert status is TaskStatus.CANCELLING
    assert (await names(office, claim.subject)).count("cancel_requested") == 1
    assert not await office.store.write(
        lambda tx: verbs.give_back(tx, claim.subject, "drain", tx.now_us)
    )
    await office.store.write(
        lambda tx: verbs.finish(tx, claim.subject, Conclusion(Outcome.CANCELLED))
    )
    assert (await row_of(office.store))["status"] == "cancelled"


@pytest.mark.parametrize(("task_id", "owner"), [("nobody", LOCAL_OWNER), ("t", "stranger")])
async def test_cancel_of_what_is_not_yours_is_not_found(office, task_id, owner):
    """A stranger's task and no task at all look the same."""
    await accepted(office.store)
    with pytest.raises(NotFound):
        await office.store.write(lambda tx: verbs.cancel(tx, owner, task_id))
    assert (await row_of(office.store))["status"] == "queued"


async def test_deadlines_pass_while_waiting(office):
    """A waiting task whose deadline passed ends as such; the others wait on; the bound holds."""
    for number in range(4):
        await accepted(office.store, f"t{number}", deadline_s=5.0 if number < 3 else 50.0)
    office.clock.move(4.999)
    assert await office.store.write(lambda tx: verbs.expire(tx, 2)) == 0
    office.clock.move(0.001)
    assert await office.store.write(lambda tx: verbs.expire(tx, 2)) == 2
    assert await office.store.write(lambda tx: verbs.expire(tx, 2)) == 1
    row = await row_of(office.store, "t0")
    assert (row["status"], row["outcome"]) == ("failed", "deadline")
    assert orjson.loads(row["error_json"])["type"] == "deadline"
    assert (await row_of(office.store, "t3"))["status"] == "queued"


steps = st.lists(
    st.sampled_from(["claim", "give_back", "finish", "cancel", "expire", "stale"]), max_size=12
)


@given(steps)
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_order_of_verbs_keeps_the_drawing(steps):
    """Whatever is asked in whatever order, a task moves only along the arrows, and its events agree."""
    asyncio.run(_walk(steps))


ARROWS = {
    "queued": {"queued", "running", "failed", "cancelled"},
    "running": {"running", "queued", "succeeded", "cancelling"},
    "cancelling": {"cancelling", "succeeded"},
    "succeeded": {"succeeded"},
    "failed": {"failed"},
    "cancelled": {"cancelled"},
}


async def _walk(asked: list[str]) -> None:
    async with open_walk() as walk:
        status = "queued"
        for verb in asked:
            await walk.do(verb)
            after = await walk.status()
            assert after in ARROWS[status], (status, verb, after)
            status = after
        assert await walk.ends() == int(TaskStatus(status).terminal)
