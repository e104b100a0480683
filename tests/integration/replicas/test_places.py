"""Free slots and the tickets they get: none stays empty beside a task that may run, and rows decide who is first."""

import asyncio

import psycopg

from app.domain.clock import SystemClock
from app.domain.task import LOCAL_OWNER, Conclusion, Outcome
from app.queue import verbs
from app.queue.caps import Caps
from app.queue.dispatch import priority_of
from app.queue.sweep import RECHECK_S
from tests.support.office import until
from tests.support.seeding import accepted, row_of

_CLOCK = SystemClock()


async def test_a_row_that_cannot_be_read_costs_no_slot(office):
    """A newer version accepted it: here its ticket ends in an error, and the slot that waits gets the next one's."""
    await accepted(office.store, "a")
    with psycopg.connect(office.url) as connection:
        connection.execute(b"""UPDATE tasks SET spec = replace(spec, '"normal"', '"someday"')""")
    queue = office.queue("alive", slots=1)
    await queue.start()
    slot, seen = asyncio.create_task(queue.next()), set()

    async def failed() -> bool:
        seen.add(await office.status("a"))
        return "ERROR" in seen

    await until(failed)
    await accepted(office.store, "b")
    async with asyncio.timeout(20):
        claim = await slot
    assert claim is not None
    assert claim.subject.task_id == "b"
    queue.ended(claim)
    await queue.stop()
    await queue.close()


async def test_who_may_start_again_is_not_kept_waiting_for_a_ticket_that_was_seen(office):
    """It waited for a slot and was seen there, then came while its session was full: there is room, so it runs."""
    queue = office.queue("busy", slots=2, caps=Caps(session=1))
    await queue.start()
    claims = {}
    async with asyncio.timeout(30):
        for task_id, session_id in (("x", "other"), ("a", "s")):
            await accepted(office.store, task_id, session_id=session_id)
            claim = await queue.next()
            claims[claim.subject.task_id] = claim
        await accepted(office.store, "b", session_id="s")
        while "b" not in queue._sweep._seen:
            await _CLOCK.sleep(0.05)

    async def end(task_id: str) -> None:
        subject = claims[task_id].subject
        await office.store.write(
            lambda tx: verbs.finish(tx, subject, Conclusion(Outcome.ANSWERED, "x"))
        )
        queue.ended(claims[task_id])

    await end("x")
    slot = asyncio.create_task(queue.next())
    await until(lambda: office.stands("b", "SUCCESS"))
    assert "b" not in queue._sweep._seen, f"looked for again after {RECHECK_S} s only"
    await end("a")
    async with asyncio.timeout(30):
        claim = await slot
    assert claim.subject.task_id == "b"
    queue.ended(claim)
    await queue.stop()
    await queue.close()


async def test_who_moves_up_for_a_cancelled_one_gets_a_ticket_for_its_new_place(office):
    """Else it stays behind the first one of every session that comes later."""
    queue = office.queue("api", slots=0)
    await queue.start()
    await accepted(office.store, "a1", session_id="s")
    await accepted(office.store, "a2", session_id="s")
    await until(lambda: office.stands("a2", "ENQUEUED"))
    assert (await row_of(office.store, "a2"))["turn_called"] == -2
    await queue.stop()
    await queue.close()
    await office.store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "a1"))
    row = await row_of(office.store, "a2")
    assert row["turn_called"] == 0
    await office.sweep.once(0)
    found = office.look("SELECT priority FROM dbos.workflow_status WHERE workflow_uuid = 'a2'")
    assert found == [(priority_of(row["rank_us"]),)]
