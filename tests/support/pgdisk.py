"""A PostgreSQL database that runs out of disk on the test's word: its tables refuse whatever would need room.

A server whose disk is full fails the statement that cannot extend a file, with SQLSTATE 53100, and the transaction
with it. Triggers on all tables do the same: at once, or after so many more statements, which may be in mid-transaction.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg

_SETUP = """
CREATE SCHEMA disk;
CREATE SEQUENCE disk.written;
CREATE TABLE disk.room (until BIGINT NOT NULL);
CREATE FUNCTION disk.take() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM disk.room WHERE nextval('disk.written') > until) THEN
        RAISE 'could not extend file: No space left on device' USING ERRCODE = '53100';
    END IF;
    RETURN NULL;
END $$;
DO $$
DECLARE name TEXT;
BEGIN
    FOR name IN SELECT format('%I.%I', schemaname, tablename) FROM pg_tables
                WHERE schemaname IN ('public', 'dbos') LOOP
        EXECUTE 'CREATE TRIGGER disk BEFORE INSERT OR UPDATE ON ' || name
             || ' FOR EACH STATEMENT EXECUTE FUNCTION disk.take()';
    END LOOP;
END $$;
"""


class PostgresDisk:
    """The disk under the migrated database at `url`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connection = psycopg.connect(url, autocommit=True)
        self._connection.execute(_SETUP)
        self._refused = 0

    @property
    def room(self) -> int | None:
        """For so many statements more there was room when it was set; None: there is plenty."""
        found = self._connection.execute("SELECT until - last_value FROM disk.room, disk.written")
        left = found.fetchone()
        return None if left is None else int(left[0])

    @room.setter
    def room(self, statements: int | None) -> None:
        self._refused = self.refused
        self._connection.execute("DELETE FROM disk.room")
        if statements is not None:
            self._connection.execute(
                "INSERT INTO disk.room SELECT last_value + %s FROM disk.written", [statements]
            )

    @property
    def refused(self) -> int:
        """Statements that found no room."""
        left = self.room
        return self._refused + max(-left, 0) if left is not None else self._refused

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


@contextmanager
def postgres_disk(url: str) -> Iterator[PostgresDisk]:
    """The disk of a database that nobody uses yet; there is room again after the block."""
    made = PostgresDisk(url)
    try:
        yield made
    finally:
        made.room = None
        made.close()
