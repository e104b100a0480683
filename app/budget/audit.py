"""Hold the accounts against the lines: every balance must be the sum of what was booked on it."""

from collections import defaultdict
from dataclasses import dataclass

import orjson

from app.budget.scopes import Scope
from app.store.port import Tx

_AMOUNTS = ("spent_nano", "reserved_nano", "surplus_nano")


@dataclass(frozen=True, slots=True)
class Drift:
    """A balance that is not the sum of its lines. Nano-dollars."""

    scope: Scope
    amount: str
    """`spent_nano`, `reserved_nano` or `surplus_nano`."""
    balance: int
    summed: int


@dataclass(frozen=True, slots=True)
class Audit:
    """What was looked at and found."""

    account_count: int
    line_count: int
    drifts: tuple[Drift, ...]


def audit(tx: Tx) -> Audit:
    """Recompute every balance; lines on an account that does not exist are drifts, too."""
    sums: dict[Scope, dict[str, int]] = defaultdict(lambda: dict.fromkeys(_AMOUNTS, 0))
    line_count = 0
    for row in tx.all("sums_by_scopes"):
        line_count += row["line_count"]
        for kind, identifier in orjson.loads(row["scopes"]):
            total = sums[Scope(kind, identifier)]
            for amount in _AMOUNTS:
                total[amount] += row[amount]
    accounts = {Scope(row["scope"], row["id"]): row for row in tx.all("all_accounts")}
    drifts = []
    for scope in sorted(accounts.keys() | sums.keys(), key=lambda s: (s.kind, s.id)):
        account = accounts.get(scope)
        for amount in _AMOUNTS:
            balance = 0 if account is None else account[amount]
            if balance != sums[scope][amount]:
                drifts.append(Drift(scope, amount, balance, sums[scope][amount]))
    return Audit(len(accounts), line_count, tuple(drifts))
