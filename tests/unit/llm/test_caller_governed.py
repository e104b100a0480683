"""A call that has to wait at the governor: it holds no money meanwhile, and can be stopped at any time."""

import asyncio
from pathlib import Path

import pytest

from app.budget.accounts import set_limit
from app.budget.scopes import task_scope
from app.domain.errors import BudgetExhausted
from app.journal.call_events import AttemptStarted
from app.llm.call import Parked
from app.llm.governor.governor import GovernorLimits, pool_of
from app.llm.governor.lane import Reason, Told
from tests.support.clock import yielded
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import HAIKU, Hang, answer, status, text
from tests.support.seeding import claimed, drift, row_of

ONE = GovernorLimits(start=1, most=1)


def in_flight(desk: Desk) -> int:
    """Calls that have left."""
    return sum(road.lane.concurrency.in_flight for road in desk.governor.roads())


async def test_no_reservation_is_held_while_a_call_waits(tmp_path: Path) -> None:
    """Only what has left, or is about to, is reserved for; the turn comes when the other call ends."""
    hang = Hang()
    async with open_desk(tmp_path, hang, answer(text("second")), lets=ONE) as desk:
        first, second = await claimed(desk.store, "a"), await claimed(desk.store, "b")
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        two = asyncio.create_task(desk.ask(call_of(second)))
        await yielded(5)
        assert (await row_of(desk.store, "b"))["reserved_nano"] == 0
        assert await desk.events(second, AttemptStarted) == []
        hang.release()
        await one
        found, _, _ = await two
        assert found.content == [text("second")]
        assert in_flight(desk) == 0
        assert await drift(desk.store) == []


async def test_a_wait_that_is_too_long_parks_the_task(tmp_path: Path) -> None:
    """After a 429 that names a minute the next task gives its worker's slot back, with the reason."""
    refused = status(429, "rate_limit_error", retry_after_s=60.0)
    async with open_desk(tmp_path, refused) as desk:
        first, second = await claimed(desk.store, "a"), await claimed(desk.store, "b")
        with pytest.raises(Parked, match="retry_wait"):
            await desk.ask(call_of(first))
        with pytest.raises(Parked, match="rate_limited"):
            await desk.ask(call_of(second))
        assert len(desk.provider.asked) == 1
        assert await desk.events(second, AttemptStarted) == []


async def test_a_cancelled_wait_books_nothing(tmp_path: Path) -> None:
    """Nothing was reserved, so nothing is to be settled; the next call finds room."""
    hang = Hang()
    async with open_desk(tmp_path, hang, lets=ONE) as desk:
        first, second = await claimed(desk.store, "a"), await claimed(desk.store, "b")
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        two = asyncio.create_task(desk.ask(call_of(second)))
        await yielded(5)
        two.cancel()
        await asyncio.wait({two})
        assert two.cancelled()
        assert await desk.events(second, AttemptStarted) == []
        hang.release()
        await one
        assert in_flight(desk) == 0


async def test_a_call_that_cannot_be_paid_leaves_its_room_to_others(tmp_path: Path) -> None:
    """Let in, and then refused by the budget: the room is free at once."""
    async with open_desk(tmp_path, answer(text("ok")), lets=ONE) as desk:
        poor, rich = await claimed(desk.store, "a"), await claimed(desk.store, "b")
        await desk.store.write(lambda tx: set_limit(tx, task_scope("a"), 1, 80))
        with pytest.raises(BudgetExhausted):
            await desk.ask(call_of(poor))
        assert in_flight(desk) == 0
        await desk.ask(call_of(rich))


async def test_an_interrupted_call_gives_its_room_back(tmp_path: Path) -> None:
    """A cancel in mid-call: booked as lost, and no longer in flight."""
    hang = Hang()
    async with open_desk(tmp_path, hang, answer(text("ok")), lets=ONE) as desk:
        first, second = await claimed(desk.store, "a"), await claimed(desk.store, "b")
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        one.cancel()
        await asyncio.wait({one})
        assert in_flight(desk) == 0
        await desk.ask(call_of(second))
        assert desk.provider.asked[-1].model == HAIKU


async def test_a_probe_does_not_wait_for_money(tmp_path: Path) -> None:
    """All the others wait for its answer: who can pay at once probes instead, and it keeps its place in the line."""
    hang = Hang()
    lines = {"session_nano": 2_000_000}  # pays for one call at a time
    async with open_desk(tmp_path, hang, park_after_s=1_000.0) as desk:
        first = await claimed(desk.store, "a", **lines)
        second = await claimed(desk.store, "b", **lines)
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        desk.governor.hear(pool_of(HAIKU), Told(Reason.OUTAGE, 0.0))
        async with asyncio.timeout(10):
            with pytest.raises(Parked, match="budget_contention"):
                await desk.ask(call_of(second))
        assert "b" in desk.turns.standing()
        (road,) = desk.governor.roads()
        assert road.lane.breaker.wait_s(desk.governor.now_s()) == 0
        hang.release()
        await one


async def test_who_waits_for_money_is_in_nobodys_way(tmp_path: Path) -> None:
    """It gives its permit back: a call of another session leaves meanwhile, and it leaves when there is money again."""
    hang, two_at_a_time = Hang(), GovernorLimits(start=2, most=2)
    lines = {"session_nano": 2_000_000}  # pays for one call at a time
    script = (hang, answer(text("another session's")), answer(text("second")))
    async with open_desk(tmp_path, *script, park_after_s=1_000.0, lets=two_at_a_time) as desk:
        first = await claimed(desk.store, "a", **lines)
        second = await claimed(desk.store, "b", **lines)
        other = await claimed(desk.store, "c", session_id="other")
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        two = asyncio.create_task(desk.ask(call_of(second)))
        while in_flight(desk) != 1 or "b" not in desk.turns.standing():
            await yielded()
        async with asyncio.timeout(10):
            found, _, _ = await desk.ask(call_of(other))
            assert found.content == [text("another session's")]
            hang.release()
            await one
            found, _, _ = await two
        assert found.content == [text("second")]
        assert in_flight(desk) == 0
        assert await drift(desk.store) == []


async def test_who_was_called_to_the_money_waits_for_its_permit(tmp_path: Path) -> None:
    """A rate limit shut the model's way meanwhile: it goes back to the queue with nothing reserved, and keeps its place in the line."""
    hang = Hang()
    lines = {"session_nano": 2_000_000}
    async with open_desk(tmp_path, hang) as desk:
        first = await claimed(desk.store, "a", **lines)
        second = await claimed(desk.store, "b", **lines)
        one = asyncio.create_task(desk.ask(call_of(first)))
        await hang.entered.wait()
        two = asyncio.create_task(desk.ask(call_of(second)))
        while in_flight(desk) != 1 or "b" not in desk.turns.standing():
            await yielded()
        desk.governor.hear(pool_of(HAIKU), Told(Reason.RATE_LIMITED, 60.0))
        hang.release()
        await one
        with pytest.raises(Parked, match="rate_limited"):
            await two
        assert (await row_of(desk.store, "b"))["reserved_nano"] == 0
        assert "b" in desk.turns.standing()
