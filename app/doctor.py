"""Hold the books against themselves: every balance recomputed from the ledger's lines."""

from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import StoreUnavailable
from app.domain.money import format_usd
from app.store.queries import load_queries
from app.store.sqlite_file import DATABASE_NAME, connect


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
        count = "SELECT (SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM ledger_lines)"
        accounts, lines = connection.execute(count).fetchone()
        found = connection.execute(load_queries()["balance_drift"]).fetchall()
    finally:
        connection.close()
    drifts = []
    for row in found:
        for what in ("spent", "reserved", "surplus"):
            balance, summed = row[f"{what}_nano"], row[f"lines_{what}_nano"]
            if balance != summed:
                drifts.append(
                    f"{row['scope']} {row['id']}: {what} is {format_usd(balance)} USD, "
                    f"its lines sum up to {format_usd(summed)} USD"
                )
    return Report(accounts, lines, tuple(drifts))
