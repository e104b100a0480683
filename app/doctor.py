"""Examine a data directory: the books held against themselves."""

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from app.budget.audit import audit
from app.domain.clock import SystemClock
from app.domain.errors import StoreUnavailable
from app.domain.money import format_usd
from app.store.queries import load_queries
from app.store.sqlite_file import DATABASE_NAME, connect, store_error
from app.store.sqlite_tx import SqliteTx


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `drifts` has one sentence for each balance that is not the sum of its lines."""

    accounts: int
    lines: int
    drifts: tuple[str, ...]


def examine(folder: Path) -> Report:
    """Read the database in `folder`, also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    path = folder / DATABASE_NAME
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    connection = connect(path, read_only=True)
    try:
        connection.execute("BEGIN")  # one snapshot for everything
        found = audit(SqliteTx(connection, load_queries(), SystemClock().now_us()))
    except sqlite3.Error as error:
        raise store_error(error, path) from error
    finally:
        connection.close()
    drifts = tuple(
        f"{drift.scope.kind} {drift.scope.id}: {drift.amount.removesuffix('_nano')} is "
        f"{format_usd(drift.balance)} USD, its lines sum up to {format_usd(drift.summed)} USD"
        for drift in found.drifts
    )
    return Report(found.account_count, found.line_count, drifts)
