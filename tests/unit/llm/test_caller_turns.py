"""Calls that stand in each other's way, and calls that are given up: nobody starves, nothing stays held."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from app.budget.accounts import ServiceLimits
from app.budget.scopes import session_scope
from app.domain.task import LOCAL_OWNER, Claim
from app.journal.call_events import (
    AttemptFailed,
    AttemptPresumed,
    AttemptStarted,
    ReservationWaited,
)
from app.llm.call import Call, Parked
from app.llm.reserving import PARK_S
from tests.support.clock import yielded
from tests.support.desk import Desk, call_of, open_desk
from tests.support.provider import Hang, answer, lost, text
from tests.support.seeding import accepted, claim_now, drift, lines_of, row_of

SESSION = session_scope(LOCAL_OWNER, "s")


async def running(desk: Desk, *names: str, **given: Any) -> list[Claim]:
    """Running tasks of one session."""
    for name in names:
        await accepted(desk.store, name, **given)
    claims = await desk.store.write(lambda tx: claim_now(tx, len(names)))
    return sorted(claims, key=lambda claim: claim.subject.task_id)


async def one_call_nano(folder: Path) -> int:
    """What one call reserves."""
    async with open_desk(folder / "probe", answer(text("x"))) as desk:
        (claim,) = await running(desk, "t")
        await desk.ask(call_of(claim))
        (started,) = await desk.events(claim, AttemptStarted)
        return int(started.reserved_nano)


def asking(desk: Desk, call: Call) -> "asyncio.Task[Any]":
    """A call under way."""
    return asyncio.create_task(desk.ask(call))


async def waits(desk: Desk, claim: Claim) -> None:
    """Return once the call stands in a line and has used up a newcomer's second try."""
    async with asyncio.timeout(10):
        while claim.subject.task_id not in desk.turns._places:
            await yielded()
        await desk.store.write(lambda _tx: None)
        await desk.store.write(lambda _tx: None)


async def test_contention_waits_and_goes_on(tmp_path):
    """What another call holds is waited for: when it settles, the next goes on. Nobody is exhausted."""
    price = await one_call_nano(tmp_path)
    hang = Hang()
    async with open_desk(tmp_path / "d", hang, answer(text("second"))) as desk:
        first, second = await running(desk, "a", "b", session_nano=price * 3 // 2)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        two = asking(desk, call_of(second))
        await waits(desk, second)
        assert len(desk.provider.asked) == 1
        (waited,) = await desk.events(second, ReservationWaited)
        assert (waited.scope, waited.needed_nano) == ("session", price)
        assert waited.free_nano < price
        hang.release()
        await one
        found, _, _ = await two
        assert found.content == [text("second")]
        assert await drift(desk.store) == []


async def test_many_get_through_in_the_order_they_came(tmp_path):
    """Twelve calls on money for one at a time: all are answered, first in, first out."""
    price = await one_call_nano(tmp_path)
    names = [f"t{number:02}" for number in range(12)]
    hangs = [Hang() for _ in names]
    async with open_desk(tmp_path / "d", *hangs) as desk:
        claims = await running(desk, *names, session_nano=price * 3 // 2)
        calls = []
        for number, claim in enumerate(claims):
            calls.append(asking(desk, call_of(claim)))
            if number:
                await waits(desk, claim)
            else:
                await hangs[0].entered.wait()
        for hang in hangs:
            async with asyncio.timeout(25):
                await hang.entered.wait()
            hang.release()
        async with asyncio.timeout(25):
            await asyncio.gather(*calls)
        order = [(request.reference or "").partition("/")[0] for request in desk.provider.asked]
        assert order == names
        stands = await row_of(desk.store, "t00")
        assert stands["reserved_nano"] == 0


async def test_a_long_wait_gives_the_slot_back_and_keeps_the_place(tmp_path):
    """Longer than a slot may be held: parked, still first in line, and called when the other ends."""
    price = await one_call_nano(tmp_path)
    hang = Hang()
    async with open_desk(tmp_path / "d", hang, answer(text("b")), park_after_s=0.01) as desk:
        called: list[str] = []
        desk.turns.on_turn = called.append
        first, second = await running(desk, "a", "b", session_nano=price * 3 // 2)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        with pytest.raises(Parked) as parked:
            await desk.ask(call_of(second))
        assert parked.value.reason == "budget_contention"
        assert parked.value.available_at_us == desk.clock.now_us() + int(PARK_S * 1e6)
        assert desk.turns.ahead_of("newcomer", (SESSION,)) == SESSION
        assert desk.turns.ahead_of("b", (SESSION,)) is None
        called.clear()
        hang.release()
        await one
        assert called == ["b"]
        found, _, _ = await desk.ask(call_of(second))
        assert found.content == [text("b")]
        assert desk.turns.ahead_of("newcomer", (SESSION,)) is None


async def test_a_newcomer_waits_behind_the_line(tmp_path):
    """A small call that would fit may not overtake a large one that waits."""
    price = await one_call_nano(tmp_path)
    hang = Hang()
    async with open_desk(tmp_path / "d", hang, answer(text("b")), answer(text("c"))) as desk:
        first, second, third = await running(desk, "a", "b", "c", session_nano=price * 9 // 5)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        two = asking(desk, call_of(second))
        await waits(desk, second)
        three = asking(desk, call_of(third, max_tokens=16))
        await waits(desk, third)
        assert len(desk.provider.asked) == 1
        hang.release()
        await asyncio.gather(one, two, three)
        assert [request.reference for request in desk.provider.asked] == ["a/1/1", "b/1/1", "c/1/1"]


async def test_calls_that_cross_in_two_lines_all_get_through(tmp_path):
    """Some wait for their session, some for the service: whatever the order, all are answered."""
    price = await one_call_nano(tmp_path)
    names = [f"t{number}" for number in range(12)]
    said = [answer(text("x")) for _ in names]
    service = ServiceLimits(ever_nano=price * 7 // 2)
    async with open_desk(tmp_path / "d", *said, park_after_s=30.0, service=service) as desk:
        for number, name in enumerate(names):
            await accepted(
                desk.store, name, session_id=f"s{number % 3}", session_nano=price * 5 // 2
            )
        claims = await desk.store.write(lambda tx: claim_now(tx, len(names)))
        async with asyncio.timeout(20):
            await asyncio.gather(
                *(
                    desk.ask(
                        call_of(
                            claim,
                            max_tokens=(2_048, 900)[number % 2],
                        )
                    )
                    for number, claim in enumerate(claims)
                )
            )
        assert len(desk.provider.asked) == 12
        assert await drift(desk.store) == []


@pytest.mark.parametrize("early", [True, False])
async def test_cancelled_while_reserving_leaves_nothing_held(tmp_path, early):
    """The reservation may still be committed after the cancellation: it is released at once."""
    async with open_desk(tmp_path) as desk:
        (claim,) = await running(desk, "t")
        async with desk.busy_writer():
            call = asking(desk, call_of(claim))
            await yielded(3)
            call.cancel()
            if not early:
                await yielded(5)
        with pytest.raises(asyncio.CancelledError):
            await call
        assert desk.provider.asked == []
        assert (await row_of(desk.store))["reserved_nano"] == 0
        lines = await lines_of(desk.store)
        assert lines["spent_nano"] == 0
        assert (
            await desk.store.read(lambda tx: tx.all("open_reservations_of_task", task_id="t")) == []
        )


async def test_cancelled_in_mid_call_is_presumed_and_wakes_the_next(tmp_path):
    """An interrupted call is booked at its reservation, and who waited for it goes on."""
    price = await one_call_nano(tmp_path)
    async with open_desk(tmp_path / "d", Hang(), answer(text("b"))) as desk:
        first, second = await running(desk, "a", "b", session_nano=price * 5 // 2)
        hang = desk.provider.script[0]
        assert isinstance(hang, Hang)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        two = asking(desk, call_of(second, prompt_tokens=8_000))
        await waits(desk, second)
        one.cancel()
        with pytest.raises(asyncio.CancelledError):
            await one
        (failed,) = await desk.events(first, AttemptFailed)
        assert (failed.decision, failed.kind, failed.charged_nano) == (
            "interrupted",
            "presumed",
            price,
        )
        assert (await lines_of(desk.store, "a"))["presumed_nano"] == price
        async with asyncio.timeout(10):
            await two
        assert desk.provider.asked[1].max_tokens < 2_048
        assert (await row_of(desk.store, "a"))["reserved_nano"] == 0
        assert await desk.events(first, AttemptPresumed) == []


async def test_cancelled_while_waiting_gives_the_place_up(tmp_path):
    """A waiting call that is cancelled leaves its line, and the one behind it is next."""
    price = await one_call_nano(tmp_path)
    hang = Hang()
    async with open_desk(tmp_path / "d", hang, answer(text("c"))) as desk:
        first, second, third = await running(desk, "a", "b", "c", session_nano=price * 3 // 2)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        two = asking(desk, call_of(second))
        await waits(desk, second)
        three = asking(desk, call_of(third))
        await waits(desk, third)
        two.cancel()
        with pytest.raises(asyncio.CancelledError):
            await two
        assert desk.turns.ahead_of("c", (SESSION,)) is None
        hang.release()
        async with asyncio.timeout(10):
            await asyncio.gather(one, three)
        assert [request.reference for request in desk.provider.asked] == ["a/1/1", "c/1/1"]


async def test_cancelled_between_two_attempts_holds_nothing(tmp_path):
    """Cancelled during the wait for another attempt: the first is booked, nothing is held."""
    async with open_desk(tmp_path, lost(retry_after_s=60.0), park_after_s=100.0) as desk:
        (claim,) = await running(desk, "t")
        call = asking(desk, call_of(claim))
        async with asyncio.timeout(10):
            while not await desk.events(claim, AttemptFailed):
                await yielded()
        await yielded(5)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        after = await row_of(desk.store)
        assert after["reserved_nano"] == 0
        assert after["spent_nano"] == (await lines_of(desk.store))["presumed_nano"] > 0


async def test_exhausted_by_spending_while_waiting(tmp_path):
    """Who waits in line while the money is really spent ends as exhausted, not as parked for ever."""
    price = await one_call_nano(tmp_path)
    hang = Hang(answer(text("dear"), no_usage=True))
    async with open_desk(tmp_path / "d", hang) as desk:
        first, second = await running(desk, "a", "b", session_nano=price + 100)
        one = asking(desk, call_of(first))
        await hang.entered.wait()
        two = asking(desk, call_of(second))
        await waits(desk, second)
        hang.release()
        await one
        with pytest.raises(Exception, match="budget of this session"):
            await two
        assert desk.turns.ahead_of("newcomer", (SESSION,)) is None


async def test_a_wake_up_and_a_cancel_at_once_is_a_cancel(tmp_path):
    """Cancelled in the very moment its turn comes, a call is cancelled: it does not go on."""
    price = await one_call_nano(tmp_path)
    for moments in range(6):
        hang = Hang()
        async with open_desk(tmp_path / str(moments), hang, answer(text("b"))) as desk:
            first, second = await running(desk, "a", "b", session_nano=price * 3 // 2)
            one = asking(desk, call_of(first))
            await hang.entered.wait()
            two = asking(desk, call_of(second))
            await waits(desk, second)
            desk.turns.ended((SESSION,))
            await yielded(moments)
            two.cancel()
            with pytest.raises(asyncio.CancelledError):
                await two
            hang.release()
            await one
            assert len(desk.provider.asked) == 1
            assert (await row_of(desk.store, "b"))["reserved_nano"] == 0
