"""Interleavings that a review found: each once left a task without an end."""

import asyncio

from app.domain.task import LOCAL_OWNER, TaskStatus
from app.journal.events import TaskFinished, ToolFinished
from app.llm.provider import ModelAnswer
from app.queue import verbs
from tests.support.clock import yielded
from tests.support.desk import open_desk
from tests.support.provider import Hang, answer, calls, text, tool_use
from tests.support.seeding import accepted, claim_now


async def test_the_first_in_line_is_served_though_more_urgent_tasks_stand_behind_it(open_works):
    """A parked head whose turn has come gets a slot before those that cannot pass it anyway."""
    hang = Hang(answer(text("first")))
    rest = [answer(text("more")) for _ in range(9)]
    async with open_works(hang, *rest, park_after_s=0.01, slots=2) as works:
        await works.accept("a", session_nano=2_000_000)
        await works.start()
        await hang.entered.wait()
        await works.accept("h", priority=9)
        await works.until("h", "running")
        await works.until("h", "queued")  # parked: it keeps its place at the head
        urgent = [f"p{number}" for number in range(8)]
        for task_id in urgent:
            await works.accept(task_id, priority=0)
        await yielded(50)
        hang.release()
        for task_id in ("a", "h", *urgent):
            assert (await works.ended(task_id))["outcome"] == "answered"


async def test_whose_turn_has_come_is_claimed_first(tmp_path):
    """Called, the least urgent and youngest task goes before all that stand behind it in the line."""
    async with open_desk(tmp_path) as desk:
        await accepted(desk.store, "urgent", priority=0)
        await accepted(desk.store, "head", priority=9)
        await desk.store.write(lambda tx: tx.run("make_available", id="head", now_us=tx.now_us))
        (first,) = await desk.store.write(lambda tx: claim_now(tx, 1))
        assert first.subject.task_id == "head"
        await desk.store.write(lambda tx: verbs.give_back(tx, first.subject, "drain", tx.now_us))
        (second,) = await desk.store.write(lambda tx: claim_now(tx, 1))
        assert second.subject.task_id == "urgent", "a call is good for one claim"


async def test_a_cancel_while_the_end_cannot_be_written_still_ends_the_task(open_works):
    """The store fails when the end is to be recorded, and just then somebody cancels."""

    async def store_fails_from_here(_request: object) -> ModelAnswer:
        works.desk.store.failures_left = 10_000
        return answer(text("an answer that was paid for"))

    async with open_works(store_fails_from_here, slots=1) as works:
        await works.accept()
        await works.start()
        async with asyncio.timeout(10):
            while not works.desk.store.failed:
                await yielded()
        asked = await works.desk.store.inner.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
        assert asked is TaskStatus.CANCELLING
        await yielded(20)
        works.desk.store.failures_left = 0
        row = await works.ended()
        assert row["outcome"] == "answered", "the answer was there before the cancel"
        assert len(works.events(TaskFinished)) == 1
        assert len(works.desk.provider.asked) == 1


async def test_a_credential_in_a_tools_exception_reaches_nobody(open_works):
    """Neither the model nor the journal sees it."""
    secret = "sk-" + "a1b2c3d4" * 4

    async def refused() -> str:
        raise RuntimeError(f"refused: {secret}")

    async with open_works(calls(tool_use("c1")), answer(text("ok")), slots=1) as works:
        works.probe.body = refused
        await works.accept()
        await works.start()
        await works.ended()
        (finished,) = works.events(ToolFinished)
        assert finished.outcome == "error"
        assert secret not in finished.error_message
        assert secret.encode() not in b"".join(works.desk.provider.sent)
