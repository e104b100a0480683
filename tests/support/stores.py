"""Every adapter of the store, for tests that run on each of them. A new adapter is one more name here."""

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import psycopg

from app.domain.clock import Clock
from app.store.port import ListenedStore
from app.store.postgres import PostgresStore
from app.store.postgres_schema import prepare
from app.store.sqlite import SqliteStore
from app.store.sqlite_file import DATABASE_NAME
from tests.support.postgres import Server

ADAPTERS = ("postgres", "sqlite")


Look = Callable[[str], list[tuple[Any, ...]]]
"""What a SELECT finds in the test's database, read past the store."""


class MakeStore(Protocol):
    """Opens the store that belongs to the folder: an empty one for a new folder, else as it was left."""

    def __call__(self, folder: Path, clock: Clock) -> ListenedStore: ...

    def look(self, folder: Path, statement: str) -> list[tuple[Any, ...]]:
        """What a SELECT finds in it, read past the store."""
        ...

    def everything(self, folder: Path) -> bytes:
        """All that is kept."""
        ...


class OpenStore(Protocol):
    """Opens the test's one store, again after it was closed."""

    def __call__(self, clock: Clock | None = None) -> ListenedStore: ...


class Embedded:
    """SQLite, in the folder."""

    def __call__(self, folder: Path, clock: Clock) -> ListenedStore:
        return SqliteStore(folder / "data", clock)

    def look(self, folder: Path, statement: str) -> list[tuple[Any, ...]]:
        """As `MakeStore` has it."""
        path = folder / "data" / DATABASE_NAME
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            return connection.execute(statement).fetchall()

    def everything(self, folder: Path) -> bytes:
        """As `MakeStore` has it."""
        return b"".join(file.read_bytes() for file in (folder / "data").iterdir())


class SharedDatabase:
    """One migrated database for all tests: emptying it is far cheaper than making another."""

    def __init__(self, connection: psycopg.Connection[Any], url: str) -> None:
        self.url = url
        self._connection = connection
        found = connection.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        self._names = [name for (name,) in found if name != "schema_migrations"]
        self._empty = "; ".join(f"DELETE FROM {name}" for name in self._names)  # noqa: S608
        self._folder: Path | None = None

    def empty(self) -> None:
        """Cut whoever is still connected, and delete every row."""
        self._connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        self._connection.execute(self._empty.encode())

    def __call__(self, folder: Path, clock: Clock) -> ListenedStore:
        """As `MakeStore` has it; one folder at a time."""
        if folder != self._folder:
            self.empty()
            self._folder = folder
        return PostgresStore(self.url, clock)

    def look(self, folder: Path, statement: str) -> list[tuple[Any, ...]]:
        """As `MakeStore` has it."""
        return self._connection.execute(statement.encode()).fetchall()

    def everything(self, folder: Path) -> bytes:
        """As `MakeStore` has it."""
        found = [self.look(folder, f"SELECT t::TEXT FROM {name} AS t") for name in self._names]  # noqa: S608
        return repr(found).encode()


@contextmanager
def shared_database(server: Server) -> Iterator[SharedDatabase]:
    """A new database of that server."""
    url = server.create()
    prepare(url)
    with psycopg.connect(url, autocommit=True) as connection:
        yield SharedDatabase(connection, url)
