"""Examine a data directory: the books held against themselves."""

from dataclasses import dataclass
from pathlib import Path

from app.budget.audit import audit
from app.domain.money import format_usd
from app.store.snapshot import snapshot


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `drifts` has one sentence for each balance that is not the sum of its lines."""

    accounts: int
    lines: int
    drifts: tuple[str, ...]


def examine(place: Path | str) -> Report:
    """Read the database at `place` (see `snapshot`), also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    with snapshot(place) as tx:
        found = audit(tx)
    drifts = tuple(
        f"{drift.scope.kind} {drift.scope.id}: {drift.amount.removesuffix('_nano')} is "
        f"{format_usd(drift.balance)} USD, its lines sum up to {format_usd(drift.summed)} USD"
        for drift in found.drifts
    )
    return Report(found.account_count, found.line_count, drifts)
