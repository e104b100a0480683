"""The ledger against a plain model of it, on every store; and a bank checker under concurrency."""

import asyncio
import random
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from app.budget.accounts import Balance, balance, open_account, set_limit
from app.budget.ledger import Attempt, Kind, Settled, open_attempts, release, reserve, settle
from app.budget.scopes import SERVICE, Scope, session_scope, task_scope
from app.domain.clock import SystemClock
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import Operation, T, Tx
from tests.conformance.conftest import ADAPTERS, AnyStore
from tests.support.clock import yielded
from tests.support.seeding import drift

amounts = st.integers(0, 120)
limits = st.integers(0, 400)


class Refused(Exception):  # noqa: N818
    """The reservation does not fit: undoes the operation, as the ledger asks of its callers."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.scope = scope


@dataclass
class Account:
    """The model's account."""

    limit: int
    spent: int = 0
    surplus: int = 0
    reserved: int = 0

    def fits(self, amount: int) -> bool:
        """Whether one more reservation stays within the limit."""
        return self.spent + self.surplus + self.reserved + amount <= self.limit


@dataclass(frozen=True)
class Hold:
    """The model's reservation."""

    attempt: Attempt
    scopes: tuple[Scope, ...]
    amount: int


def hold(attempt: Attempt, scopes: tuple[Scope, ...], amount: int) -> Operation[None]:
    """Reserve, or leave everything as it was."""

    def op(tx: Tx) -> None:
        short = reserve(tx, attempt, scopes, amount)
        if short is not None:
            raise Refused(short)

    return op


def balances(scopes: Any) -> Operation[list[Balance]]:
    """All of these balances, in one snapshot."""
    wanted = tuple(scopes)
    return lambda tx: [balance(tx, scope) for scope in wanted]


class LedgerMachine(RuleBasedStateMachine):
    """Random histories of a ledger; after every step it must stand where the model stands."""

    adapter = ""
    held = Bundle("held")
    ended = Bundle("ended")
    tasks = Bundle("tasks")

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.loop = asyncio.new_event_loop()
        self.store: AnyStore = ADAPTERS[self.adapter](Path(self.folder.name), SystemClock())
        self.accounts: dict[Scope, Account] = {}
        self.open: dict[str, Hold] = {}
        self.count = 0

    def do(self, op: Operation[T]) -> T:
        """One transaction."""
        return self.loop.run_until_complete(self.store.write(op))

    def teardown(self) -> None:
        self.loop.run_until_complete(self.store.close())
        self.loop.close()
        self.folder.cleanup()

    def opened(self, scope: Scope, limit: int) -> None:
        """Make the account on both sides, unless it is there."""
        self.do(lambda tx: open_account(tx, scope, LOCAL_OWNER, limit))
        self.accounts.setdefault(scope, Account(limit))

    @initialize(limit=limits)
    def start(self, limit: int) -> None:
        self.opened(SERVICE, 3 * limit)

    @rule(target=tasks, session=st.sampled_from("ab"), limit=limits, session_limit=limits)
    def new_task(self, session: str, limit: int, session_limit: int) -> Subject:
        subject = Subject(f"t{len(self.accounts)}", session)
        self.opened(session_scope(LOCAL_OWNER, session), session_limit)
        self.opened(task_scope(subject.task_id), limit)
        return subject

    @rule(target=held, subject=tasks, amount=amounts)
    def reserve(self, subject: Subject, amount: int) -> Hold | None:
        scopes = (
            task_scope(subject.task_id),
            session_scope(LOCAL_OWNER, subject.session_id),
            SERVICE,
        )
        short = next((s for s in scopes if not self.accounts[s].fits(amount)), None)
        self.count += 1
        made = Hold(Attempt(subject, self.count, 1, "m", "p"), scopes, amount)
        if short is not None:
            with pytest.raises(Refused) as refused:
                self.do(hold(made.attempt, scopes, amount))
            assert refused.value.scope == short
            return None
        self.do(hold(made.attempt, scopes, amount))
        for scope in scopes:
            self.accounts[scope].reserved += amount
        for stands in self.do(balances(scopes)):
            assert stands.spent_nano + stands.reserved_nano <= stands.limit_nano
        self.open[made.attempt.id] = made
        return made

    def book(self, done: Hold, kind: Kind, cost: int | None) -> None:
        """Settle on both sides."""
        charged = done.amount if cost is None else cost
        surplus = max(charged - done.amount, 0)
        for scope in done.scopes:
            account = self.accounts[scope]
            account.reserved -= done.amount
            account.spent += charged - surplus
            account.surplus += surplus
        task = self.accounts[done.scopes[0]]
        del self.open[done.attempt.id]
        settled = self.do(lambda tx: settle(tx, done.attempt.id, kind, cost))
        assert settled is not None
        booked = Settled(charged, surplus, task.spent + task.surplus, done.amount)
        assert replace(settled, warnings=()) == booked

    @rule(target=ended, done=consumes(held), share=st.integers(0, 100))
    def settle_confirmed(self, done: Hold | None, share: int) -> Hold | None:
        if done is not None:
            self.book(done, Kind.CONFIRMED, done.amount * share // 100)
        return done

    @rule(target=ended, done=consumes(held), more=st.integers(1, 50))
    def settle_above_the_reservation(self, done: Hold | None, more: int) -> Hold | None:
        if done is not None:
            self.book(done, Kind.CONFIRMED, done.amount + more)
        return done

    @rule(target=ended, done=consumes(held), kind=st.sampled_from([Kind.ESTIMATED, Kind.PRESUMED]))
    def settle_at_the_reservation(self, done: Hold | None, kind: Kind) -> Hold | None:
        if done is not None:
            self.book(done, kind, None)
        return done

    @rule(target=ended, done=consumes(held))
    def release(self, done: Hold | None) -> Hold | None:
        if done is not None:
            for scope in done.scopes:
                self.accounts[scope].reserved -= done.amount
            del self.open[done.attempt.id]
            task = self.accounts[done.scopes[0]]
            settled = self.do(lambda tx: release(tx, done.attempt.id))
            assert settled == Settled(0, 0, task.spent + task.surplus, done.amount)
        return done

    @rule(done=ended, cost=amounts)
    def end_again(self, done: Hold | None, cost: int) -> None:
        if done is not None:
            assert self.do(lambda tx: settle(tx, done.attempt.id, Kind.CONFIRMED, cost)) is None
            assert self.do(lambda tx: release(tx, done.attempt.id)) is None

    @rule(attempt_id=st.sampled_from(["", "nobody/1/1"]))
    def end_what_never_was(self, attempt_id: str) -> None:
        assert self.do(lambda tx: settle(tx, attempt_id, Kind.PRESUMED)) is None
        assert self.do(lambda tx: release(tx, attempt_id)) is None

    @rule(data=st.data(), limit=limits)
    def change_limit(self, data: st.DataObject, limit: int) -> None:
        scope = data.draw(st.sampled_from(sorted(self.accounts, key=lambda s: (s.kind, s.id))))
        self.do(lambda tx: set_limit(tx, scope, limit))
        self.accounts[scope].limit = limit

    @invariant()
    def stands_as_the_model(self) -> None:
        for stands in self.do(balances(self.accounts)):
            account = self.accounts[stands.scope]
            assert stands.limit_nano == account.limit
            assert stands.spent_nano == account.spent + account.surplus
            assert stands.reserved_nano == account.reserved
        assert self.loop.run_until_complete(drift(self.store)) == []

    @invariant()
    def open_reservations_are_known(self) -> None:
        subjects = {made.attempt.subject for made in self.open.values()}
        found = [a for s in subjects for a in self.do(lambda tx, s=s: open_attempts(tx, s))]  # type: ignore[misc]
        assert {attempt.id for attempt in found} == set(self.open)
        for scope, account in self.accounts.items():
            assert account.reserved == sum(
                made.amount for made in self.open.values() if scope in made.scopes
            )


@pytest.mark.parametrize("adapter", sorted(ADAPTERS))
def test_ledger_stands_where_the_model_stands(adapter):
    """Random reservations, settlements, releases and limits: the balances are the model's."""
    machine = type("Machine", (LedgerMachine,), {"adapter": adapter})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=40,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


WORKERS = 64
RESERVATIONS = 2_000


class Bank:
    """Customers that reserve and settle, and a checker that looks at all balances all the time."""

    def __init__(self, store: AnyStore, reservations: int) -> None:
        self.store = store
        self.reservations = reservations
        self.dearest = 300 * RESERVATIONS // reservations
        """The accounts are as tight whatever the number: what is settled sums up to the same."""
        self.random = random.Random(7)  # noqa: S311  (chance, not secrets)
        self.subjects = [Subject(f"t{n}", f"s{n % 4}") for n in range(16)]
        self.sessions = [session_scope(LOCAL_OWNER, f"s{n}") for n in range(4)]
        self.asked = self.made = self.refused = self.samples = self.spent = 0
        self.violations: list[str] = []

    def open(self, tx: Tx) -> None:
        """Accounts of which every scope is the tight one now and then."""
        open_account(tx, SERVICE, LOCAL_OWNER, 400_000)
        for scope in self.sessions:
            open_account(tx, scope, LOCAL_OWNER, 100_500)
        for subject in self.subjects:
            open_account(tx, task_scope(subject.task_id), LOCAL_OWNER, 25_800)

    async def customer(self) -> None:
        """Reserve, hold a moment, end; until enough was reserved."""
        while self.made < self.reservations:
            self.asked += 1
            subject = self.random.choice(self.subjects)
            scopes = (
                task_scope(subject.task_id),
                session_scope(LOCAL_OWNER, subject.session_id),
                SERVICE,
            )
            attempt = Attempt(subject, self.asked, 1, "m", "p")
            amount = self.random.randint(1, 9_000)
            try:
                await self.store.write(hold(attempt, scopes, amount))
            except Refused:
                self.refused += 1
                await yielded(self.random.randint(1, 5))
                continue
            self.made += 1
            await yielded(self.random.randint(0, 5))
            await self.end(attempt.id, amount)

    async def end(self, attempt_id: str, amount: int) -> None:
        """Settle for little, so that the money lasts; sometimes release, sometimes twice."""
        cost = self.random.randint(0, min(amount, self.dearest))
        if self.random.random() < 0.3:
            await self.store.write(lambda tx: release(tx, attempt_id))
            return
        await asyncio.gather(
            *(
                self.store.write(lambda tx: settle(tx, attempt_id, Kind.CONFIRMED, cost))
                for _ in range(self.random.randint(1, 2))
            )
        )
        self.spent += cost

    async def check(self) -> None:
        """One look at everything: no account above its limit, no reservation on some scopes only."""
        tasks = [task_scope(subject.task_id) for subject in self.subjects]
        stands = await self.store.read(balances([SERVICE, *self.sessions, *tasks]))
        self.samples += 1
        for one in stands:
            if one.spent_nano + one.reserved_nano > one.limit_nano:
                self.violations.append(f"above its limit: {one}")
        held = {one.scope: one.reserved_nano for one in stands}
        for number, session in enumerate(self.sessions):
            if held[session] != sum(held[task] for task in tasks[number::4]):
                self.violations.append(f"held on some scopes only: {session}")
        if held[SERVICE] != sum(held[session] for session in self.sessions):
            self.violations.append("held on some scopes only: service")


@pytest.mark.parametrize(
    "reservations",
    [
        RESERVATIONS,
        pytest.param(100_000, marks=[pytest.mark.long, pytest.mark.timeout(1_800)]),
    ],
)
async def test_bank_of_sixty_four_customers_never_overshoots(store, reservations):
    """Thousands of reservations by 64 customers at once: no sampled instant shows an account above its limit."""
    bank = Bank(store, reservations)
    await store.write(bank.open)
    customers = asyncio.gather(*(bank.customer() for _ in range(WORKERS)))
    while not customers.done():
        await bank.check()
    await customers
    await bank.check()
    assert bank.violations == []
    assert bank.made >= reservations
    assert bank.refused > 100
    assert bank.samples > 20
    (service,) = await store.read(balances([SERVICE]))
    assert (service.spent_nano, service.reserved_nano) == (bank.spent, 0)
    assert await drift(store) == []


async def test_the_schema_refuses_what_the_guard_would_let_through(store):
    """The CHECK is the second line: balances above the limit cannot be written at all."""
    scope = Scope("task", "t")

    def op(tx: Tx) -> None:
        open_account(tx, scope, LOCAL_OWNER, 10)
        assert tx.run("hold", scope="task", id="t", amount_nano=11) == 0
        tx.run("book", scope="task", id="t", held_nano=1, spent_nano=0, surplus_nano=0)

    with pytest.raises(Exception, match="CHECK constraint failed: reserved_nano >= 0"):
        await store.write(op)


async def test_a_second_reservation_of_one_attempt_is_refused(store):
    """An attempt has one reservation, whatever happens."""
    subject = Subject("t", "s")
    attempt = Attempt(subject, 1, 1, "m", "p")
    scopes = (task_scope(subject.task_id),)
    await store.write(lambda tx: open_account(tx, scopes[0], LOCAL_OWNER, 100))
    await store.write(hold(attempt, scopes, 10))
    with pytest.raises(Exception, match="UNIQUE constraint failed"):
        await store.write(hold(attempt, scopes, 10))
    (stands,) = await store.read(balances(scopes))
    assert stands.reserved_nano == 10
