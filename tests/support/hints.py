"""Notifications of a database that can be lost on purpose: PostgreSQL promises nothing about them."""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

from app.store.postgres_listener import CHANNEL
from app.store.postgres_schema import LOCK

_SETUP = """
CREATE SCHEMA hints;
CREATE TABLE hints.lost AS SELECT 1 AS yes WHERE false;
CREATE FUNCTION hints.pg_notify(channel text, payload text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM hints.lost) THEN
        PERFORM pg_catalog.pg_notify(channel, payload);
    END IF;
END $$;
"""
_LAST = "nobody"


class Hints:
    """Of the database at `url`, for whoever connects from now on; `heard` is what has come through."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(_SETUP)
        name = url.rpartition("/")[2]
        path = f"ALTER DATABASE {name} SET search_path = hints, pg_catalog, public"
        self._connection.execute(path.encode())
        self._connection.execute(f"LISTEN {CHANNEL}".encode())

    @property
    def heard(self) -> list[str]:
        """What listeners have been told since this was last asked."""
        return [told.payload for told in self._connection.notifies(timeout=0)]

    def lose(self) -> None:
        """Nobody hears anything any more, and what has been said before is forgotten."""
        with self._connection.transaction():  # while nobody commits
            self._connection.execute(f"SELECT pg_advisory_xact_lock({LOCK})".encode())
            self._connection.execute("INSERT INTO hints.lost VALUES (1)")
        self._connection.execute(f"SELECT pg_catalog.pg_notify('{CHANNEL}', '{_LAST}')".encode())
        for told in self._connection.notifies(timeout=60):
            if told.payload == _LAST:
                return
        raise AssertionError("even the last word was lost")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def hints(url: str) -> Iterator[Hints]:
    """The notifications of a database that nobody else has opened yet."""
    made = Hints(url)
    try:
        yield made
    finally:
        made.close()
