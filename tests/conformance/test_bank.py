"""A bank under rush: 64 customers, budgets of every kind, two midnights, and a checker that never looks away."""

import asyncio
import random
from collections import Counter
from collections.abc import Iterable

import pytest

from app.budget.accounts import Balance, ServiceLimits, balance, balances, open_account
from app.budget.keys import create_key
from app.budget.ledger import Attempt, Kind, release, reserve, settle
from app.budget.scopes import Payer, Scope, session_scope, task_scope
from app.domain.errors import NotFound
from app.domain.task import Subject
from app.store.port import ListenedStore, Operation, Tx
from tests.support.clock import START_US, FakeClock, yielded
from tests.support.seeding import drift
from tests.support.stores import ADAPTERS, OpenStore

WORKERS = 64
RESERVATIONS = 2_000
DAY_S = 86_400
FIRST_US = START_US + 7 * DAY_S * 1_000_000
"""Noon of the first of DAYS."""
DAYS = ("2026-11-29", "2026-11-30", "2026-12-01")
MONTHS = {"2026-11": DAYS[:2], "2026-12": DAYS[2:]}
OWNERS = ("acme", "zeta")
SERVICE = ServiceLimits(day_nano=155_000, month_nano=210_000)
SESSION_NANO, TASK_NANO = 80_000, 25_800
KEY_DAY_NANO, KEY_MONTH_NANO = 90_000, 112_000
KINDS = ("task", "session", "key_day", "key_month", "service_day", "service_month")


class Full(Exception):  # noqa: N818
    """The reservation does not fit: undoes the operation, as the ledger asks of its callers."""

    def __init__(self, scope: Scope) -> None:
        super().__init__(scope)
        self.scope = scope


def taking(attempt: Attempt, payer: Payer, amount: int) -> Operation[list[Scope]]:
    """Reserve on every budget of the payer, or leave everything as it was; returns on which."""

    def op(tx: Tx) -> list[Scope]:
        scopes = [one.scope for one in balances(tx, payer, SERVICE)]
        short = reserve(tx, attempt, scopes, amount)
        if short is not None:
            raise Full(short)
        return scopes

    return op


def looking(scopes: Iterable[Scope]) -> Operation[dict[Scope, Balance]]:
    """How all of these stand, in one snapshot; windows that nobody has used yet are empty."""
    wanted = list(scopes)

    def op(tx: Tx) -> dict[Scope, Balance]:
        found = {}
        for scope in wanted:
            try:
                found[scope] = balance(tx, scope)
            except NotFound:
                found[scope] = Balance(scope, 0, 0, 0)
        return found

    return op


class Bank:
    """Customers that reserve and settle, and a checker that looks at all balances all the time."""

    def __init__(self, store: ListenedStore, clock: FakeClock, reservations: int) -> None:
        self.store, self.clock = store, clock
        self.reservations = reservations
        self.dearest = 300 * RESERVATIONS // reservations
        """The accounts are as tight whatever the number: what is settled sums up to the same."""
        self.random = random.Random(7)  # noqa: S311  (chance, not secrets)
        self.payers: list[Payer] = []
        self.asked = self.made = self.samples = 0
        self.refused = Counter[str]()
        self.spent = Counter[Scope]()
        self.violations: list[str] = []
        self.midnights = [reservations // 3, reservations * 2 // 3]
        """After how many reservations the day ends."""
        self.across = 0
        """Reservations that were settled on another day than they were made."""

    def open(self, tx: Tx) -> None:
        """Two keys with two sessions each, four tasks a session; every budget is the tight one at times."""
        for owner in OWNERS:
            key_id, _ = create_key(
                tx, owner, "", day_limit_nano=KEY_DAY_NANO, month_limit_nano=KEY_MONTH_NANO
            )
            for session in ("a", "b"):
                open_account(tx, session_scope(owner, session), owner, SESSION_NANO)
                for number in range(4):
                    payer = Payer(f"{owner}-{session}-{number}", session, owner, (), key_id)
                    open_account(tx, task_scope(payer.task_id), owner, TASK_NANO)
                    self.payers.append(payer)

    async def customer(self) -> None:
        """Reserve, hold a moment, end; until enough was reserved."""
        while self.made < self.reservations:
            self.asked += 1
            payer = self.random.choice(self.payers)
            subject = Subject(payer.task_id, payer.session_id, payer.owner)
            attempt = Attempt(subject, self.asked, 1, "m", "p", payer.key_id or "")
            amount = self.random.randint(1, 9_000)
            try:
                scopes = await self.store.write(taking(attempt, payer, amount))
            except Full as full:
                self.refused[full.scope.kind] += 1
                await yielded(self.random.randint(1, 5))
                continue
            self.made += 1
            day = self.clock.now_us() // (DAY_S * 1_000_000)
            if self.midnights and self.made >= self.midnights[0]:
                self.clock.move(DAY_S)
                del self.midnights[0]
            await yielded(self.random.randint(0, 5))
            await self.end(attempt.id, scopes, amount)
            self.across += day != self.clock.now_us() // (DAY_S * 1_000_000)

    async def end(self, attempt_id: str, scopes: list[Scope], amount: int) -> None:
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
        for scope in scopes:
            self.spent[scope] += cost

    def sums(self) -> list[tuple[Scope, list[Scope]]]:
        """What must always be the sum of what: each reservation is on all of its budgets, or on none."""
        found = list[tuple[Scope, list[Scope]]]()
        for payer in self.payers[::4]:
            tasks = [task_scope(f"{payer.owner}-{payer.session_id}-{n}") for n in range(4)]
            found.append((session_scope(payer.owner, payer.session_id), tasks))
        key_ids = [payer.key_id for payer in self.payers[::8]]
        for month, days in MONTHS.items():
            for key_id in key_ids:
                of_days = [Scope("key_day", f"{key_id}/{day}") for day in days]
                found.append((Scope("key_month", f"{key_id}/{month}"), of_days))
            of_keys = [Scope("key_month", f"{key_id}/{month}") for key_id in key_ids]
            found.append((Scope("service_month", month), of_keys))
            found.append((Scope("service_month", month), [Scope("service_day", d) for d in days]))
        return found

    async def check(self) -> None:
        """One look at everything: no budget above its limit, every sum right, every window in its place."""
        sums = self.sums()
        scopes = dict.fromkeys(scope for whole, parts in sums for scope in (whole, *parts))
        stands = await self.store.read(looking(scopes))
        self.samples += 1
        for one in stands.values():
            if one.spent_nano + one.reserved_nano > one.limit_nano:
                self.violations.append(f"above its limit: {one}")
        for whole, parts in sums:
            self.compare(stands, [whole], parts)
        sessions = [scope for scope in scopes if scope.kind == "session"]
        months = [Scope("service_month", month) for month in MONTHS]
        self.compare(stands, sessions, months)

    def compare(self, stands: dict[Scope, Balance], these: list[Scope], those: list[Scope]) -> None:
        """The sums of both are the same, of what is held and of what is spent."""
        held = [sum(stands[scope].reserved_nano for scope in side) for side in (these, those)]
        spent = [sum(stands[scope].spent_nano for scope in side) for side in (these, those)]
        if held[0] != held[1] or spent[0] != spent[1]:
            self.violations.append(f"{these} and {those}: held {held}, spent {spent}")


@pytest.mark.parametrize(
    ("make_store", "reservations"),
    [
        ("sqlite", RESERVATIONS),
        ("postgres", 500),
        *(
            pytest.param(name, 100_000, marks=[pytest.mark.long, pytest.mark.timeout(3_600)])
            for name in ADAPTERS
        ),
    ],
    indirect=["make_store"],
)
async def test_bank_of_sixty_four_customers_never_overshoots(
    open_store: OpenStore, reservations: int
) -> None:
    """Thousands of reservations by 64 customers at once: no sampled instant shows a budget above its limit."""
    clock = FakeClock(FIRST_US)
    store = open_store(clock)
    bank = Bank(store, clock, reservations)
    await store.write(bank.open)
    customers = asyncio.gather(*(bank.customer() for _ in range(WORKERS)))
    while not customers.done():
        await bank.check()
    await customers
    await bank.check()
    assert bank.violations == []
    assert bank.made >= reservations
    assert bank.samples > 20
    assert bank.across > 0
    assert set(bank.refused) == set(KINDS), "every kind of budget was the tight one at times"
    stands = await store.read(looking(bank.spent))
    assert {one.scope: one.spent_nano for one in stands.values()} == bank.spent
    assert sum(one.reserved_nano for one in stands.values()) == 0
    assert {scope.kind for scope in bank.spent} == set(KINDS)
    assert await drift(store) == []
