"""Another run of a failed task: what it begins with, and who may have it."""

import asyncio
from typing import Any

import pytest

from app.domain.clock import US_PER_S
from app.domain.errors import NotFound, StaleLease, SubmissionRefused, TaskNotFailed
from app.domain.task import LOCAL_OWNER, Claim, Conclusion, Outcome, TaskError, TaskStatus
from app.journal.events import TaskRetried
from app.journal.journal import fence, read_all
from app.queue import verbs
from app.queue.erasing import erase
from app.queue.retrying import Changes, needs, retry, used_steps
from app.store.port import Tx
from tests.support.seeding import accepted, claimed, row_of, spec

AS_IT_WAS = Changes()
FAILED = Conclusion(
    Outcome.UPSTREAM_FAILED, "half", partial=True, error=TaskError("overloaded", "Too busy.")
)


async def failed(office: Any, conclusion: Conclusion = FAILED, **given: Any) -> Claim:
    """A task whose first run failed."""
    claim = await claimed(office.store, **given)
    await office.store.write(lambda tx: verbs.finish(tx, claim.subject, conclusion))
    return claim


async def again(office: Any, changes: Changes = AS_IT_WAS, owner: str = LOCAL_OWNER) -> None:
    """Retry it."""
    await office.store.write(lambda tx: retry(tx, owner, "t", changes))


async def test_it_waits_its_turn_again(office):
    """Queued, without an outcome, result or error; due now, with a deadline that starts anew."""
    first = await failed(office, deadline_s=60, priority=2)
    office.clock.move(1_000)
    await again(office)
    row = await row_of(office.store)
    assert (row["status"], row["outcome"], row["finished_at_us"]) == ("queued", None, None)
    assert (row["result_json"], row["result_partial"], row["error_json"]) == (None, 0, None)
    assert row["deadline_at_us"] == office.clock.now_us() + 60 * US_PER_S
    (claim,) = await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    assert claim.subject.run == first.subject.run + 1
    assert (claim.spec, claim.priority) == (first.spec, 2)


async def test_the_journal_goes_on(office):
    """One more event says how it had failed, and what it may now."""
    claim = await failed(office, max_steps=4)
    await again(office, Changes(max_steps=9, deadline_s=30))
    entry = (await read_all(office.store, claim.subject))[-1]
    assert entry.event == TaskRetried(
        outcome="upstream_failed",
        steps=0,
        max_steps=9,
        deadline_at_us=office.clock.now_us() + 30 * US_PER_S,
    )
    (second,) = await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    assert (second.spec.max_steps, second.spec.deadline_s) == (9, 30)


async def test_it_has_its_place_by_the_retry(office):
    """Not by its first acceptance: those that have waited meanwhile go first."""
    await failed(office)
    office.clock.move(10)
    await accepted(office.store, "waiting")
    office.clock.move(1)
    await again(office)
    claims = await office.store.write(lambda tx: verbs.claim(tx, "w", 9))
    assert [claim.subject.task_id for claim in claims] == ["waiting", "t"]


async def test_of_many_retries_one_counts(office):
    """Two hundred at once make one new run; the others hear how the task stands."""
    claim = await failed(office)
    results = await asyncio.gather(*(again(office) for _ in range(200)), return_exceptions=True)
    refused = [error for error in results if error is not None]
    assert len(refused) == 199
    assert all(isinstance(error, TaskNotFailed) and error.status == "queued" for error in refused)
    names = [entry.event.name for entry in await read_all(office.store, claim.subject)]
    assert names.count("task_retried") == 1


@pytest.mark.parametrize("how", ["queued", "running", "cancelling", "cancelled", "succeeded"])
async def test_only_a_failed_task(office, how):
    """However else it stands, the refusal says so and nothing changes."""
    claim = await claimed(office.store)

    def op(tx: Tx) -> None:
        match how:
            case "queued":
                verbs.give_back(tx, claim.subject, "drain", tx.now_us)
            case "cancelling" | "cancelled":
                verbs.cancel(tx, LOCAL_OWNER, "t")
                if how == "cancelled":
                    verbs.finish(tx, claim.subject, Conclusion(Outcome.CANCELLED))
            case "succeeded":
                verbs.finish(tx, claim.subject, Conclusion(Outcome.ANSWERED, "42"))
            case _:
                pass

    await office.store.write(op)
    before: Any = await row_of(office.store)
    with pytest.raises(TaskNotFailed, match=f"it is {how}"):
        await again(office)
    after: Any = await row_of(office.store)
    assert tuple(after) == tuple(before)


async def test_nobody_elses(office):
    """Another owner's task is not there."""
    await failed(office)
    for owner, task_id in (("stranger", "t"), (LOCAL_OWNER, "none")):
        with pytest.raises(NotFound):
            await office.store.write(lambda tx, o=owner, i=task_id: retry(tx, o, i, AS_IT_WAS))


async def test_not_what_was_erased(office):
    """There is nothing left to go on from."""
    await failed(office)
    await office.store.write(lambda tx: erase(tx, LOCAL_OWNER, "t"))
    with pytest.raises(TaskNotFailed, match="erased"):
        await again(office)


@pytest.mark.parametrize(("given", "good"), [(None, False), (2, False), (3, False), (4, True)])
async def test_used_up_steps_need_more(office, given, good):
    """However it failed, the next run must be allowed another step."""
    claim = await claimed(office.store, max_steps=3)

    def op(tx: Tx) -> None:
        tx.run("record_step", id="t", run=claim.subject.run, step=3)
        verbs.finish(tx, claim.subject, FAILED)

    await office.store.write(op)
    if good:
        await again(office, Changes(max_steps=given))
        return
    with pytest.raises(SubmissionRefused) as caught:
        await again(office, Changes(max_steps=given))
    assert (caught.value.field, caught.value.kind) == ("max_steps", "retry-needs-more")


@pytest.mark.parametrize(
    ("outcome", "classify", "answers", "used"),
    [
        (Outcome.REFUSED, False, 3, 3),
        (Outcome.REFUSED, True, 3, 2),
        (Outcome.UPSTREAM_FAILED, True, 0, 0),
        (Outcome.MAX_STEPS, True, 4, 3),
        (Outcome.MAX_STEPS, True, 3, 3),
        (Outcome.MAX_STEPS, False, 3, 3),
        (Outcome.MAX_STEPS, False, 2, 2),
    ],
)
def test_a_second_opinion_is_no_step(outcome, classify, answers, used):
    """The classifier's answer is counted with the answers, not with the steps of the task."""
    assert used_steps(outcome, spec(max_steps=3, classify=classify), answers) == used


async def test_the_old_run_has_no_say(office):
    """A run that the task's end had overtaken can neither end the next one nor write for it."""
    claim = await failed(office)
    await again(office)

    def late(tx: Tx) -> None:
        fence(tx, claim.subject)

    with pytest.raises(StaleLease):
        await office.store.write(late)
    await office.store.write(lambda tx: verbs.claim(tx, "w", 1))
    with pytest.raises(StaleLease):
        await office.store.write(lambda tx: verbs.finish(tx, claim.subject, FAILED))
    assert (await row_of(office.store))["status"] == TaskStatus.RUNNING


async def test_crashes_are_counted_anew(office):
    """What crashed too often may crash as often again."""
    claim = await claimed(office.store)

    def op(tx: Tx) -> None:
        verbs.give_back(tx, claim.subject, "restart", tx.now_us, crashed=True)
        (second,) = verbs.claim(tx, "w", 1)
        verbs.finish(tx, second.subject, Conclusion(Outcome.CRASHED_REPEATEDLY))

    await office.store.write(op)
    assert (await row_of(office.store))["crash_count"] == 1
    await again(office)
    assert (await row_of(office.store))["crash_count"] == 0


async def test_a_cancel_of_the_next_run(office):
    """Waiting again it can be cancelled, and then it is not retried any more."""
    await failed(office)
    await again(office)
    await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    with pytest.raises(TaskNotFailed, match="it is cancelled"):
        await again(office)


@pytest.mark.parametrize("outcome", [o for o in Outcome if o.status is TaskStatus.FAILED])
def test_every_failure_has_its_advice(outcome):
    """What a retry needs, in words; steps that are used up are always named."""
    needed, advice = needs(outcome, 3, 10)
    assert advice.endswith(".")
    assert ("budget" in needed) == (outcome is Outcome.BUDGET_EXHAUSTED)
    assert "max_steps" not in needed
    needed, advice = needs(outcome, 10, 10)
    assert "max_steps" in needed
    assert "steps" in advice
