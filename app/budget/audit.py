"""Hold the accounts against the lines: every balance must be the sum of what was booked on it."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import orjson

from app.budget.scopes import Scope, session_scope
from app.store.port import Tx

_AMOUNTS = ("spent_nano", "reserved_nano", "surplus_nano")
_KINDS = ("confirmed_nano", "estimated_nano", "presumed_nano")
_METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_USED = ("calls", "spent_nano", *_KINDS, *(f"{meter}_tokens" for meter in _METERS))


@dataclass(frozen=True, slots=True)
class Drift:
    """A balance that is not the sum of its lines. Nano-dollars."""

    scope: Scope
    amount: str
    """`spent_nano`, `reserved_nano` or `surplus_nano`; of a session's usage also calls, tokens and kinds of money."""
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
    return Audit(len(accounts), line_count, (*drifts, *_session_usage(tx)))


def _session_usage(tx: Tx) -> Iterator[Drift]:
    """The sums that are kept for each session and model."""
    for off in tx.all("session_usage_drifts"):
        named = {"owner": off["owner"], "session_id": off["session_id"]}
        rows = tx.all("totals_of_session", **named)
        kept = next((row for row in rows if row["model"] == off["model"]), None)
        for column in _USED:
            if off[column]:
                has = 0 if kept is None else kept[column]
                scope = session_scope(off["owner"], off["session_id"])
                yield Drift(scope, f"{off['model']}: {column}", has, has - off[column])
