"""One instant of a database, to be looked at from outside the service."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from app.domain.clock import SystemClock
from app.domain.errors import StoreUnavailable
from app.store.port import Tx
from app.store.sqlite_file import DATABASE_NAME, connect, examine, store_error
from app.store.sqlite_tx import SqliteTx


def examine_file(folder: Path) -> None:
    """Look at every page of the database in `folder`, also while a service uses it.

    Raises:
        StoreError: there is none, or it is damaged.
    """
    path = folder / DATABASE_NAME
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    with closing(connect(path, read_only=True)) as connection:
        try:
            examine(connection, path)
        except sqlite3.Error as error:
            raise store_error(error, path) from error


@contextmanager
def snapshot(place: Path | str) -> Iterator[Tx]:
    """Read the database in a folder, or at PostgreSQL's address, also while a service uses it; nothing is changed.

    Raises:
        StoreError: there is none, or it cannot be read.
    """
    if isinstance(place, str):
        from app.store.postgres_reader import snapshot_at  # noqa: PLC0415  (the driver, where it is used)

        with snapshot_at(place) as tx:
            yield tx
        return
    path = place / DATABASE_NAME
    if not path.is_file():
        raise StoreUnavailable(f"There is no database at {path}.")
    with closing(connect(path, read_only=True)) as connection:
        try:
            connection.execute("BEGIN")
            yield SqliteTx(connection.cursor(), SystemClock().now_us())
        except sqlite3.Error as error:
            raise store_error(error, path) from error
