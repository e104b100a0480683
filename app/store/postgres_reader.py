"""Reading from PostgreSQL: snapshots, on a connection for each thread that reads."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from time import monotonic

import psycopg

from app.store.port import Operation, T, Tx
from app.store.postgres_link import Door, Link, store_error
from app.store.postgres_schema import NOW_US, refuse_other_versions
from app.store.postgres_tx import PostgresTx, load_statements
from app.store.postgres_words import Statement

_LONG_MS = 3_600_000
_IDLE_MS = 60_000
"""It holds no lock; a busy machine may take its time between two pages."""
_PATIENT = (
    f"SET statement_timeout = {_LONG_MS}; SET idle_in_transaction_session_timeout = {_IDLE_MS}"
)
_ONLY_HERE = "sql_postgres"
"""The folder of what is read from outside the service, and from PostgreSQL only."""
_BEGIN = f"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT {NOW_US}"


@contextmanager
def snapshot_at(url: str) -> Iterator[Tx]:
    """One instant of a database, from outside the service; nothing is changed.

    Raises:
        StoreError: it cannot be read, or its schema is not this version's.
    """
    with closing(Link(url)) as link:
        try:
            refuse_other_versions(link)
            link.simple(_PATIENT)  # it may have to look at everything
            link.patience_ms = _LONG_MS
            now_us = int(link.simple(_BEGIN).get_value(0, 0) or 0)
            yield PostgresTx(link, {**load_statements(), **load_statements(_ONLY_HERE)}, now_us)
        except psycopg.Error as error:
            raise store_error(error, link.place) from error


class Readers:
    """The connections of the threads that read, each opened when its thread has something to read."""

    def __init__(
        self,
        door: Door,
        statements: Mapping[str, Statement],
        told: Callable[[int, float], int],
    ) -> None:
        self._door = door
        self._statements = statements
        self._told = told
        self._local = threading.local()
        self._links: set[Link] = set()

    def read(self, op: Operation[T]) -> T:
        """Run `op` on a snapshot; called on a thread that reads.

        Raises:
            StoreError: the database cannot be read.
        """
        try:
            link, now_us = self._begin()
            try:
                tx = PostgresTx(link, self._statements, now_us)
                value = op(tx)
                tx.end()
                return value
            finally:
                link.forget()
                self._end(link)
        except psycopg.Error as error:
            raise store_error(error, self._door.place) from error

    def close(self) -> None:
        """Hang up everywhere; nobody reads any more."""
        for link in self._links:
            link.close()

    def _begin(self) -> tuple[Link, int]:
        link: Link | None = getattr(self._local, "link", None)
        fresh = link is None
        if link is None:
            link = self._open()
        asked_s = monotonic()
        try:
            found = link.simple(_BEGIN)
        except psycopg.Error:
            self._drop(link)
            if fresh:
                raise
            link = self._open()  # it was lost while nobody used it
            found = link.simple(_BEGIN)
        return link, self._told(int(found.get_value(0, 0) or 0), asked_s)

    def _end(self, link: Link) -> None:
        with suppress(psycopg.Error):  # what was read is right, whatever happens now
            link.simple("ROLLBACK" if link.failed else "COMMIT")
        if not link.usable:
            self._drop(link)

    def _open(self) -> Link:
        self._local.link = link = self._door.open()
        self._links.add(link)
        return link

    def _drop(self, link: Link) -> None:
        self._local.link = None
        self._links.discard(link)
        link.close()
