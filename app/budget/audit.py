"""Hold the accounts against the lines: every balance must be the sum of what was booked on it.

Both are read in pages, and the sums lie on disk where they are many: any number of tasks takes the same memory.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence

import orjson

from app.budget.broken import (
    LIMIT,
    Broken,
    are_whole,
    broken_elsewhere,
    broken_in,
    broken_lines,
    whole,
)
from app.budget.scopes import Scope, session_scope
from app.domain.record import record
from app.store.port import Row, Tx
from app.store.tally import Tally, tally

_AMOUNTS = ("spent_nano", "reserved_nano", "surplus_nano")
_BALANCES = (*_AMOUNTS, "limit_nano", "ceiling_nano", "warn_at_nano")
_SUMMED = (*_AMOUNTS, "amount_nano", "cache_saved_nano", "presumed_nano")
_KINDS = ("confirmed_nano", "estimated_nano", "presumed_nano")
_METERS = ("input", "output", "cache_read", "cache_write_5m", "cache_write_1h")
_USED = (
    "calls",
    "spent_nano",
    *_KINDS,
    *(f"{meter}_tokens" for meter in _METERS),
    "cache_saved_nano",
)
PAGE_LIMIT = 1_000
"""Tasks whose lines are read at once, and accounts."""
DRIFT_LIMIT = 1_000
"""Accounts with a drift that are named, at most."""


@record(frozen=True, slots=True)
class Drift:
    """A balance that is not the sum of its lines. Nano-dollars."""

    scope: Scope
    amount: str
    """`spent_nano`, `reserved_nano` or `surplus_nano`; of a session's usage also calls, tokens and kinds of money."""
    balance: int
    summed: int


@record(frozen=True, slots=True)
class Audit:
    """What was looked at and found."""

    account_count: int
    line_count: int
    drifts: tuple[Drift, ...]
    broken: tuple[Broken, ...] = ()


def audit(tx: Tx) -> Audit:
    """Recompute every balance; lines on an account that does not exist are drifts, too."""
    broken: list[Broken] = []
    with tally() as differences:
        line_count = _add_lines(tx, differences, broken)
        account_count = _subtract_balances(tx, differences, broken)
        drifts = (*_drifts(tx, differences), *_session_usage(tx))
    return Audit(account_count, line_count, drifts, (*broken, *broken_elsewhere(tx)))


def _add_lines(tx: Tx, differences: Tally, broken: list[Broken]) -> int:
    line_count, after = 0, ""
    while (upto := _page_end(tx, after)) is not None:
        sums: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        sound = True
        for row in tx.all("sums_by_scopes", after=after, upto=upto):
            line_count += row["line_count"]
            sound = sound and are_whole(row, _SUMMED)
            for kind, identifier in orjson.loads(row["scopes"]):
                total = sums[kind, identifier]
                for place, amount in enumerate(_AMOUNTS):
                    total[place] += whole(row[amount])
        if not sound and len(broken) < LIMIT:
            broken += broken_lines(tx, after, upto)
        differences.add((*name, total[0], total[1], total[2]) for name, total in sums.items())
        after = upto
    return line_count


def _page_end(tx: Tx, after: str) -> str | None:
    row = tx.one("end_of_lines_page", after=after, limit=PAGE_LIMIT)
    return None if row is None else row["task_id"]


def _subtract_balances(tx: Tx, differences: Tally, broken: list[Broken]) -> int:
    account_count, scope, identifier = 0, "", ""
    while page := _accounts(tx, scope, identifier):
        account_count += len(page)
        scope, identifier = page[-1]["scope"], page[-1]["id"]
        for row in page:
            if not are_whole(row, _BALANCES) and len(broken) < 2 * LIMIT:
                broken += broken_in(row, _BALANCES, f"account {row['scope']} {row['id']}")
        differences.add((row["scope"], row["id"], *_negative(row)) for row in page)
    return account_count


def _negative(row: Row) -> tuple[int, int, int]:
    spent, reserved, surplus = (-whole(row[amount]) for amount in _AMOUNTS)
    return spent, reserved, surplus


def _accounts(tx: Tx, scope: str, identifier: str) -> Sequence[Row]:
    return tx.all("accounts_page", scope=scope, id=identifier, limit=PAGE_LIMIT)


def _drifts(tx: Tx, differences: Tally) -> Iterator[Drift]:
    for kind, identifier, off in differences.not_zero(DRIFT_LIMIT):
        account = tx.one("read_account", scope=kind, id=identifier)
        for amount, difference in zip(_AMOUNTS, off, strict=True):
            if difference:
                balance = 0 if account is None else whole(account[amount])
                yield Drift(Scope(kind, identifier), amount, balance, balance + difference)


def _session_usage(tx: Tx) -> Iterator[Drift]:
    """The sums that are kept for each session and model."""
    for off in tx.all("session_usage_drifts"):
        named = {"owner": off["owner"], "session_id": off["session_id"]}
        rows = tx.all("totals_of_session", **named)
        kept = next((row for row in rows if row["model"] == off["model"]), None)
        for column in _USED:
            difference = whole(off[column])
            if difference:
                has = 0 if kept is None else whole(kept[column])
                scope = session_scope(off["owner"], off["session_id"])
                yield Drift(scope, f"{off['model']}: {column}", has, has - difference)
