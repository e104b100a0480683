"""Sums by name, however many there are: they lie in a file of their own that is gone afterwards."""

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager

Amounts = tuple[int, int, int]

_ADD = """
INSERT INTO sums (kind, id, a, b, c) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (kind, id) DO UPDATE SET a = a + excluded.a, b = b + excluded.b, c = c + excluded.c
"""


class Tally:
    """Three sums for each name."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def add(self, rows: Iterable[tuple[str, str, int, int, int]]) -> None:
        """Add (kind, id, a, b, c) to the sums of (kind, id)."""
        self._connection.executemany(_ADD, rows)

    def not_zero(self, limit: int) -> Iterator[tuple[str, str, Amounts]]:
        """The first names, in order, one of whose sums is not 0."""
        found = self._connection.execute(
            "SELECT kind, id, a, b, c FROM sums WHERE a <> 0 OR b <> 0 OR c <> 0"
            " ORDER BY kind, id LIMIT ?",
            (limit,),
        )
        for kind, identifier, *amounts in found:
            yield kind, identifier, (amounts[0], amounts[1], amounts[2])


@contextmanager
def tally() -> Iterator[Tally]:
    """An empty one. SQLite keeps it in memory while it is small, then in a temporary file."""
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode=OFF")
        connection.execute("PRAGMA synchronous=OFF")
        connection.execute(
            "CREATE TABLE sums (kind TEXT, id TEXT, a INTEGER, b INTEGER, c INTEGER,"
            " PRIMARY KEY (kind, id)) WITHOUT ROWID"
        )
        connection.execute("BEGIN")
        yield Tally(connection)
