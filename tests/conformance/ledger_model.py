"""What the ledger must do, told once more in dicts and ints, by another road than the code under test."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from math import ceil

from app.budget.scopes import Payer

Name = tuple[str, str]
"""A budget's kind and id."""
NO_LIMIT = 10**15
"""What stands for "no limit any more" on a window that is open: a million dollars."""


@dataclass
class Account:
    """A budget and what has become of it."""

    limit: int
    warn_at: int
    spent: int = 0
    surplus: int = 0
    reserved: int = 0
    told: bool = False

    @property
    def paid(self) -> int:
        """Everything that was booked."""
        return self.spent + self.surplus


@dataclass(frozen=True)
class Ended:
    """What the end of a reservation does."""

    charged: int
    surplus: int
    task_paid: int
    held: int
    warned: list[tuple[Name, int, int]]
    """Name, limit and what is paid, of each budget that is told to run out."""


@dataclass
class Model:
    """All budgets. `now_us` is moved by whoever moves the clock."""

    now_us: int
    accounts: dict[Name, Account] = field(default_factory=dict)
    keys: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    """Limits per day and month."""
    service: tuple[int | None, int | None, int | None] = (None, None, None)
    """Limits per day, per month, for ever."""
    percent: int = 80
    held: dict[str, tuple[list[Name], int]] = field(default_factory=dict)
    """Open reservations by attempt: where, how much."""
    lost: dict[str, tuple[list[Name], int]] = field(default_factory=dict)
    """Calls that were presumed spent, and may be confirmed."""
    line_count: int = 0

    def open(self, name: Name, limit: int, percent: int = 80) -> None:
        """A budget, unless it is there."""
        self.accounts.setdefault(name, Account(limit, warning_at(limit, percent)))

    def change(self, name: Name, limit: int, percent: int = 80) -> None:
        """Another limit, if there is such a budget. What was told is told again only of another limit."""
        account = self.accounts.get(name)
        if account is None:
            return
        warn_at = warning_at(limit, percent)
        account.told = account.told and limit == account.limit and account.paid >= warn_at
        account.limit, account.warn_at = limit, warn_at

    def change_key(self, key_id: str, day: int | None, month: int | None) -> None:
        """Other limits of a key, also of its windows of now."""
        self.keys[key_id] = (day, month)
        for name, limit in zip(self.key_windows(key_id), (day, month), strict=True):
            self.change(name, NO_LIMIT if limit is None else limit)

    def change_service(
        self, limits: tuple[int | None, int | None, int | None], percent: int
    ) -> None:
        """Other limits of the service, also of its windows of now."""
        self.service, self.percent = limits, percent
        for name, limit in zip(self.service_windows(), limits, strict=True):
            self.change(name, NO_LIMIT if limit is None else limit, percent)

    def key_windows(self, key_id: str) -> list[Name]:
        """The key's day and month of now."""
        return [("key_day", f"{key_id}/{self.day()}"), ("key_month", f"{key_id}/{self.month()}")]

    def service_windows(self) -> list[Name]:
        """The service's day and month of now, and the one without an end."""
        return [
            ("service_day", self.day()),
            ("service_month", self.month()),
            ("service", "service"),
        ]

    def day(self) -> str:
        """Today, UTC."""
        return datetime.fromtimestamp(self.now_us // 1_000_000, UTC).strftime("%Y-%m-%d")

    def month(self) -> str:
        """This month, UTC."""
        return datetime.fromtimestamp(self.now_us // 1_000_000, UTC).strftime("%Y-%m")

    def budgets_of(self, payer: Payer) -> Iterator[tuple[Name, Account]]:
        """What a call draws on now, in order; windows that nobody has used yet are not kept."""
        for task_id in (payer.task_id, *payer.ancestors):
            yield ("task", task_id), self.accounts["task", task_id]
        session = ("session", f"{payer.owner}/{payer.session_id}")
        yield session, self.accounts[session]
        shared: list[tuple[Name, int | None]] = []
        if payer.key_id is not None:
            windows = self.key_windows(payer.key_id)
            for name, limit in zip(windows, self.keys[payer.key_id], strict=True):
                # A limit that was lifted: the window goes on being counted.
                shared.append(
                    (name, NO_LIMIT if limit is None and name in self.accounts else limit)
                )
        shared += zip(self.service_windows(), self.service, strict=True)
        for name, limit in shared:
            if limit is not None:
                new = Account(limit, warning_at(limit, self.percent))
                yield name, self.accounts.get(name, new)

    def reserve(self, attempt_id: str, payer: Payer, amount: int) -> Name | None:
        """Hold on every budget; or on none, and say which is the first that cannot."""
        budgets = list(self.budgets_of(payer))
        for name, account in budgets:
            if account.paid + account.reserved + amount > account.limit:
                return name
        for name, account in budgets:
            account.reserved += amount
            self.accounts[name] = account
        self.held[attempt_id] = ([name for name, _ in budgets], amount)
        self.line_count += 1
        return None

    def confirm(self, attempt_id: str, cost: int) -> tuple[int, int, int] | None:
        """The answer came after all: what was presumed, what it cost, and how much of that is above."""
        if attempt_id not in self.lost:
            return None
        names, amount = self.lost.pop(attempt_id)
        surplus = max(cost - amount, 0)
        for name in names:
            self.accounts[name].spent += cost - surplus - amount
            self.accounts[name].surplus += surplus
        return amount, cost, surplus

    def end(self, attempt_id: str, cost: int | None, *, presumed: bool = False) -> Ended | None:
        """Free what was held and book what it cost, at most what was held if that is not known."""
        if attempt_id not in self.held:
            return None
        names, amount = self.held.pop(attempt_id)
        if presumed:
            self.lost[attempt_id] = (names, amount)
        charged = amount if cost is None else cost
        surplus = max(charged - amount, 0)
        warned = []
        for name in names:
            account = self.accounts[name]
            account.reserved -= amount
            account.spent += charged - surplus
            account.surplus += surplus
            if charged and not account.told and account.paid >= account.warn_at:
                account.told = True
                warned.append((name, account.limit, account.paid))
        self.line_count += 1
        return Ended(charged, surplus, self.accounts[names[0]].paid, amount, warned)


def warning_at(limit: int, percent: int) -> int:
    """The smallest amount that is at least `percent` of the limit."""
    return ceil(Fraction(limit * percent, 100))
