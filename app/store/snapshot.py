"""One instant of an embedded database, to be looked at from outside the service."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.domain.clock import SystemClock
from app.domain.errors import StoreUnavailable
from app.store.queries import load_queries
from app.store.sqlite_file import DATABASE_NAME, connect, store_error
from app.store.sqlite_tx import SqliteTx


@contextmanager
def snapshot(folder: Path) -> Iterator[SqliteTx]:
    """Read the database in `folder`, also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    path = folder / DATABASE_NAME
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    with closing(connect(path, read_only=True)) as connection:
        try:
            connection.execute("BEGIN")
            yield SqliteTx(connection, load_queries(), SystemClock().now_us())
        except sqlite3.Error as error:
            raise store_error(error, path) from error
