"""A transaction on an SQLite connection: named queries, and the facts to tell of once it is durable."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from operator import itemgetter
from typing import Any

from app.store.port import Params, Row
from app.store.queries import PARAMETER, bare, load_queries

_Values = Callable[[Params], Sequence[Any]]
"""Takes a statement's values out of its parameters, in order: SQLite looks each name up at a fifth of the
statement's price."""
Statement = tuple[str, _Values]
Statements = Mapping[str, Statement]


class SqliteTx:
    """One operation on one connection, by way of a cursor of it: a statement ends when the next one begins."""

    __slots__ = ("_cursor", "_execute", "_statements", "facts", "now_us")

    def __init__(
        self, cursor: sqlite3.Cursor, now_us: int, statements: Statements | None = None
    ) -> None:
        self._cursor = cursor
        self._execute = cursor.execute
        self._statements = load_statements() if statements is None else statements
        self.now_us = now_us
        self.facts: list[object] = []

    def one(self, query: str, **params: object) -> Row | None:
        text, values = self._statements[query]
        row: Row | None = self._execute(text, values(params)).fetchone()
        return row

    def all(self, query: str, **params: object) -> Sequence[Row]:
        text, values = self._statements[query]
        return self._execute(text, values(params)).fetchall()

    def run(self, query: str, **params: object) -> int:
        text, values = self._statements[query]
        return self._execute(text, values(params)).rowcount

    def one_each(self, query: str, many: Sequence[Params]) -> list[Row | None]:
        text, values = self._statements[query]
        return [self._execute(text, values(each)).fetchone() for each in many]

    def run_each(self, query: str, many: Sequence[Params]) -> list[int]:
        text, values = self._statements[query]
        return [self._execute(text, values(each)).rowcount for each in many]

    def later(self, query: str, **params: object) -> None:
        text, values = self._statements[query]
        self._execute(text, values(params))

    def after_commit(self, fact: object) -> None:
        self.facts.append(fact)


@cache
def load_statements() -> Statements:
    """The service's statements."""
    return {name: statement(query) for name, query in load_queries().items()}


def statement(query: str) -> Statement:
    """The query, whose parameters are written `:like_this`, in SQLite's words."""
    text = bare(query)
    return PARAMETER.sub("?", text), _values(PARAMETER.findall(text))


def _values(names: Sequence[str]) -> _Values:
    if len(names) > 1:
        return itemgetter(*names)
    return lambda params: [params[name] for name in names]
