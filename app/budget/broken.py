"""Money that is no whole number of nano-dollars: SQLite keeps whatever a foreign hand has written into a column."""

from collections.abc import Iterator, Sequence

from app.domain.record import record
from app.store.port import Row, Tx

LIMIT = 100
"""Of one sort, at most, are named."""
_LARGE = float(1 << 62)
_LINE = ("amount_nano", "surplus_nano", "cache_saved_nano", "presumed_nano")


@record(frozen=True, slots=True)
class Broken:
    """An amount that is a fraction, text or bytes."""

    where: str
    column: str
    value: str
    """As it is written, shortened."""


def whole(value: object) -> int:
    """The amount that a value is taken for, to go on with."""
    if type(value) is int:
        return value
    return int(value) if isinstance(value, float) and abs(value) < _LARGE else 0


def are_whole(row: Row, columns: Sequence[str]) -> bool:
    """All of them are, or nothing at all. A sum is not, when anything that went into it is not."""
    return all(row[column] is None or type(row[column]) is int for column in columns)


def broken_in(row: Row, columns: Sequence[str], where: str) -> Iterator[Broken]:
    """Those columns of the row that are none."""
    for column in columns:
        if not are_whole(row, [column]):
            yield Broken(where, column, f"{row[column]!r:.40}")


def broken_lines(tx: Tx, after: str, upto: str) -> Iterator[Broken]:
    """Lines of the tasks above the key `after`, up to the key `upto`."""
    for row in tx.all("broken_lines", after=after, upto=upto, limit=LIMIT):
        yield from broken_in(
            row, _LINE, f"{row['entry']} {row['task_id']}/{row['step']}/{row['attempt']}"
        )


def broken_elsewhere(tx: Tx) -> Iterator[Broken]:
    """Beside the lines and the accounts: sums of sessions, limits of keys, what paused tasks wait for."""
    for row in tx.all("broken_amounts", limit=LIMIT):
        yield Broken(row["place"], row["name"], f"{row['amount']!r:.40}")
