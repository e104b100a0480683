"""A transaction on a PostgreSQL connection: named queries, and the facts to tell of once it is durable."""

from collections.abc import Mapping, Sequence
from functools import cache

from app.store.port import Row
from app.store.postgres_link import Link, Statement, rows_of, statement
from app.store.queries import load_queries


@cache
def load_statements() -> Mapping[str, Statement]:
    """Every named query in PostgreSQL's words."""
    return {name: statement(name, text) for name, text in load_queries().items()}


class PostgresTx:
    """One operation on one connection."""

    __slots__ = ("_link", "_statements", "facts", "now_us")

    def __init__(self, link: Link, statements: Mapping[str, Statement], now_us: int) -> None:
        self._link = link
        self._statements = statements
        self.now_us = now_us
        self.facts: list[object] = []

    def one(self, query: str, **params: object) -> Row | None:
        found = rows_of(self._link.execute(self._statements[query], params))
        return found[0] if found else None

    def all(self, query: str, **params: object) -> Sequence[Row]:
        return rows_of(self._link.execute(self._statements[query], params))

    def run(self, query: str, **params: object) -> int:
        return self._link.execute(self._statements[query], params).command_tuples or 0

    def after_commit(self, fact: object) -> None:
        self.facts.append(fact)
