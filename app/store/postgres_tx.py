"""A transaction on a PostgreSQL connection: named queries, and the facts to tell of once it is durable."""

from collections.abc import Mapping, Sequence
from functools import cache

from psycopg import pq

from app.store.port import Params, Row
from app.store.postgres_link import Link
from app.store.postgres_words import Statement, rows_of, statement
from app.store.queries import load_queries


@cache
def load_statements(folder: str = "sql") -> Mapping[str, Statement]:
    """Every named query in PostgreSQL's words."""
    return {name: statement(name, text) for name, text in load_queries(folder).items()}


class PostgresTx:
    """One operation on one connection."""

    __slots__ = ("_link", "_owes", "_statements", "facts", "now_us")

    def __init__(self, link: Link, statements: Mapping[str, Statement], now_us: int) -> None:
        self._link = link
        self._statements = statements
        self._owes = False
        self.now_us = now_us
        self.facts: list[object] = []

    def one(self, query: str, **params: object) -> Row | None:
        return self.one_each(query, [params])[0]

    def all(self, query: str, **params: object) -> Sequence[Row]:
        (result,) = self._execute(query, [params])
        return rows_of(result)

    def run(self, query: str, **params: object) -> int:
        return self.run_each(query, [params])[0]

    def one_each(self, query: str, many: Sequence[Params]) -> list[Row | None]:
        found = map(rows_of, self._execute(query, many))
        return [rows[0] if rows else None for rows in found]

    def run_each(self, query: str, many: Sequence[Params]) -> list[int]:
        return [result.command_tuples or 0 for result in self._execute(query, many)]

    def later(self, query: str, **params: object) -> None:
        self._link.later(self._statements[query], params)
        self._owes = True

    def after_commit(self, fact: object) -> None:
        self.facts.append(fact)

    def end(self) -> None:
        """The operation is over: run what it put off.

        Raises:
            psycopg.Error: that failed.
        """
        if self._owes:
            self._owes = False
            self._link.flush()

    def _execute(self, query: str, many: Sequence[Params]) -> list[pq.abc.PGresult]:
        self._owes = self._owes and not many
        return self._link.execute_each(self._statements[query], many)
