"""Accounts: limits that rise and fall, windows that open, warnings that are given once."""

import pytest

from app.budget.accounts import (
    UNLIMITED_NANO,
    Balance,
    ServiceLimits,
    balance,
    balances,
    open_account,
    set_limit,
    set_service_limits,
)
from app.budget.keys import create_key
from app.budget.ledger import Attempt, Kind, Warned, release, reserve, settle
from app.budget.scopes import SERVICE, Payer, Scope, session_scope, task_scope
from app.domain.errors import NotFound
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import Store, Tx
from tests.support.clock import FakeClock
from tests.support.stores import Look

TASK, SESSION = task_scope("t"), session_scope("acme", "s")
DAY, MONTH = Scope("service_day", "2026-11-22"), Scope("service_month", "2026-11")
DAY_S = 86_400


class Till:
    """Books calls of one task on one budget, and remembers what was warned of."""

    def __init__(self, store: Store, scope: Scope = TASK) -> None:
        self.store, self.scope, self.step = store, scope, 0

    async def limit(self, nano: int, percent: int = 80) -> None:
        """Another limit."""
        await self.store.write(lambda tx: set_limit(tx, self.scope, nano, percent))

    async def hold(self, nano: int) -> str | None:
        """Reserve; the attempt's id, or None when it does not fit."""
        self.step += 1
        attempt = Attempt(Subject("t", "s"), self.step, 1, "m", "p")
        short = await self.store.write(lambda tx: reserve(tx, attempt, [self.scope], nano))
        return attempt.id if short is None else None

    async def spend(self, cost: int, held: int | None = None) -> tuple[Warned, ...]:
        """Reserve (as much as it costs, if not told otherwise) and settle; the warnings."""
        attempt_id = await self.hold(cost if held is None else held)
        assert attempt_id is not None
        settled = await self.store.write(lambda tx: settle(tx, attempt_id, Kind.CONFIRMED, cost))
        assert settled is not None
        return settled.warnings

    async def stands(self) -> tuple[int, int, int]:
        """Limit, spent, reserved."""
        one = await self.store.read(lambda tx: balance(tx, self.scope))
        return one.limit_nano, one.spent_nano, one.reserved_nano


@pytest.fixture
async def till(store: Store) -> Till:
    """A task with a budget of 100."""
    await store.write(lambda tx: open_account(tx, TASK, LOCAL_OWNER, 100))
    return Till(store)


class TestLimits:
    """What a changed limit lets through."""

    async def test_an_account_that_is_there_keeps_its_limit(self, till: Till) -> None:
        """Opening it again changes nothing."""
        await till.store.write(lambda tx: open_account(tx, TASK, LOCAL_OWNER, 5))
        assert await till.stands() == (100, 0, 0)

    async def test_below_what_is_spent_it_is_accepted_and_blocks(self, till: Till) -> None:
        """Not even nothing can be reserved; a higher limit lets calls go on."""
        await till.spend(70)
        await till.limit(60)
        assert await till.stands() == (60, 70, 0)
        assert await till.hold(0) is None
        await till.limit(75)
        assert await till.hold(6) is None
        assert await till.hold(5) is not None

    async def test_a_call_in_flight_ends_in_full_under_a_lower_limit(self, till: Till) -> None:
        """What was held before may be spent; nothing new may be held."""
        first, second = await till.hold(40), await till.hold(30)
        await till.limit(10)
        assert first is not None
        assert second is not None
        await till.store.write(lambda tx: settle(tx, first, Kind.CONFIRMED, 40))
        await till.store.write(lambda tx: release(tx, second))
        assert await till.stands() == (10, 40, 0)
        assert await till.hold(1) is None

    async def test_the_ceiling_of_the_check_shrinks_with_what_is_held(
        self, till: Till, look: Look
    ) -> None:
        """Lowered below what is spent and held, it is that much, until less is left or the limit is back."""
        first, second = await till.hold(40), await till.hold(30)
        assert _ceiling(look) == 100
        await till.limit(10)
        assert _ceiling(look) == 70
        await till.store.write(lambda tx: release(tx, first or ""))
        assert _ceiling(look) == 30
        await till.store.write(lambda tx: settle(tx, second or "", Kind.CONFIRMED, 4))
        assert _ceiling(look) == 10
        await till.limit(20)
        assert _ceiling(look) == 20

    async def test_the_limit_of_an_account_that_is_not_there(self, store: Store) -> None:
        """Nothing is made by changing it, and looking at it says so."""
        await store.write(lambda tx: set_limit(tx, TASK, 10))
        with pytest.raises(NotFound):
            await store.read(lambda tx: balance(tx, TASK))

    async def test_what_a_balance_says(self) -> None:
        """Free is what nobody spent or holds; the error names the amounts and the window's end."""
        one = Balance(DAY, 100, 70, 20)
        assert (one.unspent_nano, one.free_nano) == (30, 10)
        error = one.exhausted(31)
        assert (error.scope, error.scope_id, error.needed_nano) == ("service_day", DAY.id, 31)
        assert (error.limit_nano, error.spent_nano, error.reserved_nano) == (100, 70, 20)
        assert error.resets_at_us == 1_795_392_000_000_000  # 2026-11-23T00:00:00Z


class TestWarnings:
    """Each budget says once that a good part of it is spent."""

    async def test_given_by_the_call_that_reaches_the_threshold(self, till: Till) -> None:
        """One below it says nothing; the one that reaches it does; the next ones do not."""
        assert await till.spend(79) == ()
        assert await till.spend(1) == (Warned(TASK, 100, 80),)
        assert await till.spend(20) == ()

    @pytest.mark.parametrize(("percent", "first"), [(1, 2), (50, 51), (80, 81), (100, 101)])
    async def test_the_threshold_is_rounded_up(self, till: Till, percent: int, first: int) -> None:
        """A fraction of a nano-dollar is not spent before the next whole one is."""
        await till.limit(101, percent)
        assert await till.spend(first - 1) == ()
        assert await till.spend(1) == (Warned(TASK, 101, first),)

    async def test_what_is_held_is_not_spent(self, till: Till) -> None:
        """Reservations and releases warn of nothing."""
        held = await till.hold(100)
        assert held is not None
        released = await till.store.write(lambda tx: release(tx, held))
        assert released is not None
        assert released.warnings == ()

    async def test_a_surplus_is_spent(self, till: Till) -> None:
        """Also where nothing at all had been held for it."""
        assert await till.spend(80, held=0) == (Warned(TASK, 100, 80),)

    async def test_a_call_that_cost_nothing_warns_of_nothing(self, till: Till) -> None:
        """A limit lowered under what is spent is told with the next money, not before."""
        await till.spend(50)
        await till.limit(60)
        assert await till.spend(0) == ()
        assert await till.spend(1) == (Warned(TASK, 60, 51),)

    async def test_another_limit_is_told_again(self, till: Till) -> None:
        """Raised or lowered, it has a threshold of its own."""
        await till.spend(80)
        await till.limit(200)
        assert await till.spend(79) == ()
        assert await till.spend(1) == (Warned(TASK, 200, 160),)
        await till.limit(190)
        assert await till.spend(1) == (Warned(TASK, 190, 161),)

    async def test_the_same_limit_again_is_not(self, till: Till) -> None:
        """A restart sets every limit of the settings once more."""
        await till.spend(80)
        await till.limit(100)
        assert await till.spend(5) == ()

    async def test_a_later_threshold_of_the_same_limit_is(self, till: Till) -> None:
        """What was told was the earlier one."""
        await till.spend(80)
        await till.limit(100, 90)
        assert await till.spend(9) == ()
        assert await till.spend(1) == (Warned(TASK, 100, 90),)


class TestShared:
    """What a task shares with its key and the whole service."""

    SERVICE = ServiceLimits(day_nano=50, month_nano=60, ever_nano=70)

    async def _opened(self, store: Store, *task_ids: str) -> str:
        def op(tx: Tx) -> str:
            for task_id in task_ids:
                open_account(tx, task_scope(task_id), "acme", 100)
            open_account(tx, SESSION, "acme", 90)
            return create_key(tx, "acme", "", day_limit_nano=30, month_limit_nano=40)[0]

        return await store.write(op)

    async def test_every_budget_in_its_order(self, store: Store) -> None:
        """Tasks, session, key, service; each with its limit."""
        key_id = await self._opened(store, "t", "parent", "grandparent")
        payer = Payer("t", "s", "acme", ("parent", "grandparent"), key_id)
        found = await store.write(lambda tx: balances(tx, payer, self.SERVICE))
        scopes = payer.scopes(FakeClock().now_us())
        assert [one.scope for one in found] == list(scopes)
        assert [one.limit_nano for one in found] == [100, 100, 100, 90, 30, 40, 50, 60, 70]

    async def test_what_has_no_limit_is_left_out(self, store: Store) -> None:
        """Neither read nor opened."""
        await self._opened(store, "t")
        payer = Payer("t", "s", "acme")
        found = await store.write(lambda tx: balances(tx, payer, ServiceLimits(month_nano=9)))
        assert [one.scope for one in found] == [TASK, SESSION, MONTH]
        with pytest.raises(NotFound):
            await store.read(lambda tx: balance(tx, DAY))

    @pytest.mark.parametrize(
        "payer",
        [
            Payer("nobody", "s", "acme"),
            Payer("t", "nobody", "acme"),
            Payer("t", "s", "acme", ("nobody",)),
            Payer("t", "s", "acme", (), "nobody"),
        ],
    )
    async def test_what_must_be_there_and_is_not(self, store: Store, payer: Payer) -> None:
        """Task, parent, session and key are made before they pay."""
        await self._opened(store, "t")
        with pytest.raises(NotFound):
            await store.write(lambda tx: balances(tx, payer, ServiceLimits()))

    async def test_a_new_day_begins_empty_and_the_month_goes_on(
        self, store: Store, clock: FakeClock
    ) -> None:
        """What was held yesterday is settled there."""
        await self._opened(store, "t")
        payer, till = Payer("t", "s", "acme"), Till(store, DAY)
        await store.write(lambda tx: balances(tx, payer, self.SERVICE))
        held = await till.hold(20)
        clock.move(DAY_S)
        found = await store.write(lambda tx: balances(tx, payer, self.SERVICE))
        today = {one.scope: one.reserved_nano for one in found}
        assert today[Scope("service_day", "2026-11-23")] == 0
        await store.write(lambda tx: settle(tx, held or "", Kind.CONFIRMED, 15))
        assert await till.stands() == (50, 15, 0)
        assert MONTH in today

    async def test_the_services_limits_reach_the_windows_that_are_open(
        self, store: Store, clock: FakeClock
    ) -> None:
        """Those of now; yesterday's are history. None lifts the limit."""
        payer = Payer("t", "s", "acme")
        await self._opened(store, "t")
        await store.write(lambda tx: balances(tx, payer, self.SERVICE))
        clock.move(DAY_S)
        await store.write(lambda tx: balances(tx, payer, self.SERVICE))
        await store.write(lambda tx: set_service_limits(tx, ServiceLimits(day_nano=7)))
        today = Scope("service_day", "2026-11-23")
        scopes = (DAY, today, MONTH, SERVICE)
        found = await store.read(lambda tx: [balance(tx, scope).limit_nano for scope in scopes])
        assert found == [50, 7, UNLIMITED_NANO, UNLIMITED_NANO]

    async def test_a_windows_warning_has_the_services_threshold(self, store: Store) -> None:
        """The settings say how much is a good part."""
        await self._opened(store, "t")
        service = ServiceLimits(day_nano=50, warn_percent=10)
        await store.write(lambda tx: balances(tx, Payer("t", "s", "acme"), service))
        till = Till(store, DAY)
        assert await till.spend(4) == ()
        assert await till.spend(1) == (Warned(DAY, 50, 5),)


def _ceiling(look: Look) -> int:
    ((nano,),) = look("SELECT ceiling_nano FROM accounts WHERE scope = 'task'")
    return int(nano)
