"""A transaction on an SQLite connection: named queries, and the facts to tell of once it is durable."""

import sqlite3
from collections.abc import Sequence

from app.store.port import Params, Row


class SqliteTx:
    """One operation on one connection."""

    __slots__ = ("_connection", "_queries", "facts", "now_us")

    def __init__(
        self, connection: sqlite3.Connection, queries: dict[str, str], now_us: int
    ) -> None:
        self._connection = connection
        self._queries = queries
        self.now_us = now_us
        self.facts: list[object] = []

    def one(self, query: str, **params: object) -> Row | None:
        row: Row | None = self._connection.execute(self._queries[query], params).fetchone()
        return row

    def all(self, query: str, **params: object) -> Sequence[Row]:
        return self._connection.execute(self._queries[query], params).fetchall()

    def run(self, query: str, **params: object) -> int:
        return self._connection.execute(self._queries[query], params).rowcount

    def one_each(self, query: str, many: Sequence[Params]) -> list[Row | None]:
        return [self._connection.execute(self._queries[query], each).fetchone() for each in many]

    def run_each(self, query: str, many: Sequence[Params]) -> list[int]:
        return [self._connection.execute(self._queries[query], each).rowcount for each in many]

    def later(self, query: str, **params: object) -> None:
        self._connection.execute(self._queries[query], params)

    def after_commit(self, fact: object) -> None:
        self.facts.append(fact)
