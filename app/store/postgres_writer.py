"""The one connection of a process that writes. Its work is done on one thread, batch by batch.

All replicas' batches are serialised by one advisory lock: an operation sees every write before it, and
nothing comes between what it reads and what it writes, as in the embedded store.
"""

from collections.abc import Callable, Mapping
from contextlib import suppress
from time import monotonic
from typing import Any

import psycopg

from app.domain.errors import StoreError
from app.store.port import Operation
from app.store.postgres_link import Door, Link, is_own_fault, store_error
from app.store.postgres_listener import CHANNEL
from app.store.postgres_schema import LOCK, NOW_US
from app.store.postgres_tx import PostgresTx
from app.store.postgres_words import Statement, statement

_BEGIN = f"""
BEGIN; SELECT pg_advisory_xact_lock({LOCK});
INSERT INTO commits (writer, batch, at_us) VALUES ('{{writer}}', {{batch}}, {NOW_US})
ON CONFLICT (writer) DO UPDATE SET batch = EXCLUDED.batch, at_us = EXCLUDED.at_us
RETURNING at_us
"""  # noqa: S608  (nothing in it is anybody's but ours)
_SAVEPOINT = statement("savepoint", "SAVEPOINT operation")
_RELEASE = statement("release", "RELEASE operation")
Result = tuple[Any, BaseException | None]
Batch = tuple[list[Result], list[object]]
"""A result for each operation, and what is to be told once it is durable."""

Told = Callable[[int, float], int]
"""What instant it is, by the database's answer to a question of then (monotonic seconds): its own, but for tests."""
Announcement = Callable[[str, list[Any]], list[str]]
"""What texts the other replicas are told with a commit: by whom it is, and of these facts. On the writer's thread."""


class Undecided(Exception):  # noqa: N818
    """The answer to a COMMIT was lost: whether the batch was kept must be looked up."""

    def __init__(self, number: int, outcome: Batch, cause: StoreError) -> None:
        super().__init__(str(cause))
        self.number = number
        self.outcome = outcome
        self.cause = cause


class Writer:
    """Opens its connection when there is something to write, again whenever it was lost."""

    def __init__(
        self,
        door: Door,
        name: str,
        statements: Mapping[str, Statement],
        told: Told,
        announce: Announcement | None = None,
    ) -> None:
        self._door = door
        self._name = name
        self._statements = statements
        self._told = told
        self._announce = announce
        self._number = 0
        self._link: Link | None = None

    def commit(self, operations: list[Operation[Any]]) -> Batch:
        """One transaction for all of `operations`, each undone alone when it raises.

        Raises:
            Undecided: they ran, and nobody knows whether they were kept.
        """
        self._number += 1
        try:
            link, now_us = self._begin()
            if len(operations) == 1:
                outcome = self._run_alone(link, operations[0], now_us)
            else:
                outcome = self._run_together(link, operations, now_us)
        except BaseException as error:  # noqa: BLE001  (every caller must hear of it)
            self._undo()
            return [(None, self._in_our_words(error))] * len(operations), []
        if outcome[0][0][1] is None or len(operations) > 1:
            try:
                self._end(link, outcome[1])
            except psycopg.Error as error:
                cause = store_error(error, link.place)
                decided = link.usable  # it was an answer, and it says no
                self._undo()
                if not decided:
                    raise Undecided(self._number, outcome, cause) from error
                return [(None, cause)] * len(operations), []
        return outcome

    def decide(self, number: int) -> bool:
        """Whether the batch of that number was kept. Whoever held the lock for it has ended by then.

        Raises:
            StoreError: it cannot be said yet.
        """
        link = self._connected()
        try:
            link.simple(f"BEGIN; SELECT pg_advisory_xact_lock({LOCK})")
            found = link.simple(f"SELECT batch FROM commits WHERE writer = '{self._name}'")  # noqa: S608
            kept = found.ntuples > 0 and int(found.get_value(0, 0) or 0) >= number
        except psycopg.Error as error:
            raise store_error(error, link.place) from error
        finally:
            self._undo()
        return kept

    def close(self) -> None:
        """Hang up."""
        if self._link is not None:
            self._link.close()
            self._link = None

    def _connected(self) -> Link:
        if self._link is None:
            self._link = self._door.open()
        return self._link

    def _begin(self) -> tuple[Link, int]:
        """Take the lock; the instant is read after it, so that instants follow the order of commits."""
        begin, asked_s = _BEGIN.format(writer=self._name, batch=self._number), monotonic()
        fresh = self._link is None
        link = self._connected()
        try:
            found = link.simple(begin)
        except psycopg.Error:
            if fresh or link.connected:
                raise
            self.close()  # it was lost while nobody used it: nothing was begun on it
            link = self._connected()
            found = link.simple(begin)
        return link, self._told(int(found.get_value(0, 0) or 0), asked_s)

    def _run_alone(self, link: Link, op: Operation[Any], now_us: int) -> Batch:
        tx = PostgresTx(link, self._statements, now_us)
        value, error = self._run_one(link, op, tx)
        if error is not None:
            self._undo()
            return [(None, error)], []
        return [(value, None)], tx.facts

    def _run_together(self, link: Link, operations: list[Operation[Any]], now_us: int) -> Batch:
        results, facts = list[Result](), list[object]()
        for op in operations:
            link.later(_SAVEPOINT, {})
            tx = PostgresTx(link, self._statements, now_us)
            value, error = self._run_one(link, op, tx)
            if error is None:
                facts.extend(tx.facts)
            results.append((value, error))
            put_off = link.forget()
            if _SAVEPOINT not in put_off:  # else it ran no statement
                if error is not None:
                    link.simple("ROLLBACK TO operation")
                link.later(_RELEASE, {})
            elif _RELEASE in put_off:
                link.later(_RELEASE, {})
        link.forget()
        return results, facts

    def _run_one(self, link: Link, op: Operation[Any], tx: PostgresTx) -> Result:
        """What the operation says, or the error that is its own."""
        try:
            value = op(tx)
            tx.end()
        except psycopg.Error as error:
            if not is_own_fault(error):
                raise  # the database's trouble is everybody's
            timed_out = isinstance(error, psycopg.errors.QueryCanceled)
            return None, store_error(error, link.place) if timed_out else error
        except Exception as error:  # noqa: BLE001  (it belongs to this operation's caller)
            return None, error
        if link.failed:
            return None, psycopg.errors.InFailedSqlTransaction(
                "a statement's error was passed over"
            )
        return value, None

    def _end(self, link: Link, facts: list[object]) -> None:
        """Commit, and with it tell whoever listens what the facts are about."""
        told = ""
        if facts and self._announce is not None:
            texts = self._announce(self._name, facts)
            told = "".join(f"SELECT pg_notify('{CHANNEL}', {_quoted(text)}); " for text in texts)
        said = link.simple(f"{told}COMMIT").command_status
        if said != b"COMMIT":
            raise psycopg.InternalError(f"COMMIT answered {(said or b'nothing').decode()}")

    def _undo(self) -> None:
        """End the transaction that goes on, if any; a connection that does not is given up."""
        link = self._link
        if link is None:
            return
        link.forget()
        if not link.usable and link.connected:
            with suppress(psycopg.Error):  # then it is not usable, and closed below
                link.simple("ROLLBACK")
        if not link.usable:
            self.close()

    def _in_our_words(self, error: BaseException) -> BaseException:
        if not isinstance(error, psycopg.Error):
            return error
        return store_error(error, self._door.place)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
