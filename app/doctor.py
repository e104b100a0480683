"""Examine a data directory: the books held against themselves."""

from dataclasses import dataclass
from pathlib import Path

from app.budget.audit import Drift, audit
from app.domain.money import format_usd
from app.store.snapshot import examine_file, snapshot


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `drifts` has one sentence for each balance that is not the sum of its lines."""

    accounts: int
    lines: int
    drifts: tuple[str, ...]


def examine(place: Path | str) -> Report:
    """Read the database at `place` (see `snapshot`), also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, it is damaged, or it cannot be read.
    """
    if isinstance(place, Path):
        examine_file(place)
    with snapshot(place) as tx:
        found = audit(tx)
    return Report(found.account_count, found.line_count, tuple(map(_sentence, found.drifts)))


def _sentence(drift: Drift) -> str:
    where = f"{drift.scope.kind} {drift.scope.id}: {drift.amount.removesuffix('_nano')} is"
    if not drift.amount.endswith("_nano"):
        return f"{where} {drift.balance}, its lines sum up to {drift.summed}"
    balance, summed = format_usd(drift.balance), format_usd(drift.summed)
    return f"{where} {balance} USD, its lines sum up to {summed} USD"
