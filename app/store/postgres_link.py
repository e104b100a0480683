"""One PostgreSQL connection: named statements, prepared once, and its errors in the service's words.

It speaks libpq directly: a statement of the ledger takes a fraction of the CPU that a cursor would take, and
statements that do not wait for each other go out in one message.
Parameters are sent as text: instants and money are declared as numbers by their names, of everything else the
server infers the type from the statement. One plan a query, whatever the values are.
"""

import select
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import conninfo, errors, pq

from app.domain.clock import SystemClock
from app.domain.errors import StoreCorrupt, StoreError, StoreFull, StoreUnavailable
from app.domain.record import record
from app.store.postgres_words import Sent, Statement, sent

_SHUT_S = 0.5
"""How long a failure to connect is the answer for everybody."""
_NETWORK: dict[str, Any] = {
    "keepalives": 1,
    "keepalives_idle": 5,  # seconds
    "keepalives_interval": 2,  # seconds
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,  # milliseconds
    "application_name": "bursar",
    "sslmode": "prefer",
}
_SESSION = """
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SET bytea_output = 'hex';
SET statement_timeout = {limits.statement_ms};
SET lock_timeout = {limits.lock_ms};
SET idle_in_transaction_session_timeout = {limits.idle_ms};
SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'
"""
_DONE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_CORRUPT = {"XX001", "XX002"}
_STALE_PLAN = "0A000"
"""A table was changed by a newer version: what is prepared must be prepared again, on another connection."""


@record(frozen=True, slots=True)
class Limits:
    """How long a connection waits for what."""

    connect_s: int = 5
    statement_ms: int = 20_000
    """For the server's work on one statement."""
    answer_ms: int = 25_000
    """For its answer; then it counts as gone."""
    lock_ms: int = 10_000
    """For the other replicas' batches of writes."""
    idle_ms: int = 5_000
    """For the next statement of a transaction: a process that froze keeps its locks for less than others wait."""
    lost_s: float = 10.0
    """While closing, for the answer to a COMMIT that was lost with its connection."""


_DEFAULT = Limits()


class Link:
    """An open connection in autocommit; one thread uses it at a time.

    Raises:
        StoreError: nobody answers, or not to us.
    """

    def __init__(self, url: str, limits: Limits = _DEFAULT) -> None:
        self.place = place_of(url)
        self.patience_ms = limits.answer_ms
        self._prepared: set[bytes] = set()
        self._later: list[Sent] = []
        self._stale = False
        network = {**_NETWORK, "connect_timeout": limits.connect_s}
        try:
            given = conninfo.conninfo_to_dict(url)
            asked = conninfo.make_conninfo(**{**network, **given})
            self._connection = psycopg.connect(asked, autocommit=True)
        except psycopg.Error as error:
            raise store_error(error, self.place) from error
        self._pg = self._connection.pgconn
        self._poll = select.poll()
        self._poll.register(self._pg.socket, select.POLLIN)
        try:
            self.simple(_SESSION.format(limits=limits))
            encoding = self._pg.parameter_status(b"server_encoding")
        except psycopg.Error as error:
            self.close()
            raise store_error(error, self.place) from error
        if encoding != b"UTF8":
            self.close()
            message = (
                f"{self.place} must be encoded in UTF8, and is in {(encoding or b'?').decode()}."
            )
            raise StoreUnavailable(message)

    @property
    def usable(self) -> bool:
        """Connected, in no transaction, and good for another one."""
        return (
            not self._stale
            and self.connected
            and self._pg.transaction_status == pq.TransactionStatus.IDLE
        )

    @property
    def connected(self) -> bool:
        """The server has not gone away, as far as we have heard."""
        return bool(self._pg.status == pq.ConnStatus.OK)

    @property
    def told_pid(self) -> int:
        """Which process of the server answers here, as we were told when we logged in; a pooler says anything."""
        return self._pg.backend_pid

    @property
    def failed(self) -> bool:
        """A statement of the transaction failed, and nothing more can be done in it."""
        return bool(self._pg.transaction_status == pq.TransactionStatus.INERROR)

    def simple(self, text: str) -> pq.abc.PGresult:
        """Run statements without parameters, in one message; the last one's result.

        Raises:
            psycopg.Error: one of them failed; those after it did not run.
        """
        self._pg.send_query(text.encode())
        result = self._answer()
        self._check(result)
        return result

    def execute_each(
        self, wanted: Statement, many: Sequence[Mapping[str, object]]
    ) -> list[pq.abc.PGresult]:
        """Run what was put off, then a statement once for each of `many`, in one message; the latter's results.

        Raises:
            psycopg.Error: one failed; those after it did not run.
            KeyError, TextError, UnicodeError, TypeError: parameters that cannot be sent.
        """
        if not many:
            return []
        going = [*self._later, *(sent(wanted, params) for params in many)]
        self._later = []
        return self._go(going)[-len(many) :]

    def later(self, wanted: Statement, params: Mapping[str, object]) -> None:
        """Put a statement off until the next one is run, or until `flush`: its result is of no interest.

        Raises:
            KeyError, TextError, UnicodeError, TypeError: parameters that cannot be sent.
        """
        self._later.append(sent(wanted, params))

    def flush(self) -> None:
        """Run what was put off.

        Raises:
            psycopg.Error: one of them failed.
        """
        going, self._later = self._later, []
        self._go(going)

    def forget(self) -> list[Statement]:
        """Never run what was put off; returns it."""
        going, self._later = self._later, []
        return [wanted for wanted, _, _ in going]

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _go(self, going: list[Sent]) -> list[pq.abc.PGresult]:
        """Send all of it at once, and wait for the answers."""
        pg = self._pg
        if len(going) == 1 and going[0][0].name in self._prepared:
            wanted, values, formats = going[0]
            pg.send_query_prepared(wanted.name, values, formats)
            result = self._answer()
            self._check(result)
            return [result]
        if not going:
            return []
        pg.enter_pipeline_mode()
        asked: list[bytes | None] = []  # the names of what is prepared, between what is executed
        for wanted, values, formats in going:
            if wanted.name not in self._prepared and wanted.name not in asked:
                asked.append(wanted.name)
                pg.send_prepare(wanted.name, wanted.text, wanted.types)
            asked.append(None)
            pg.send_query_prepared(wanted.name, values, formats)
        pg.pipeline_sync()
        results = self._answers(len(asked))
        for name, result in zip(asked, results, strict=True):
            if name is not None and result.status in _DONE:
                self._prepared.add(name)
        for result in results:
            self._check(result)
        return [result for name, result in zip(asked, results, strict=True) if name is None]

    def _answers(self, count: int) -> list[pq.abc.PGresult]:
        """The results of a pipeline, failed ones too."""
        found: list[pq.abc.PGresult] = []
        try:
            for _ in range(count):
                found.append(self._answer())  # noqa: PERF401  (what came before an error counts)
            self._receive()  # the mark at its end
            self._pg.exit_pipeline_mode()
        except psycopg.Error:
            for result in found:
                self._check(result)  # the server may have said why it hangs up
            raise
        return found

    def _answer(self) -> pq.abc.PGresult:
        """The last result of what was sent in one message."""
        found = None
        try:
            while (result := self._receive()) is not None:
                found = result
        except psycopg.Error:
            if found is None or found.status in _DONE:
                raise  # else the server has said why it hangs up
        if found is None:
            raise psycopg.OperationalError("no answer")
        return found

    def _receive(self) -> pq.abc.PGresult | None:
        while self._pg.is_busy():
            if not self._poll.poll(self.patience_ms):
                self.close()
                raise psycopg.OperationalError(f"no answer within {self.patience_ms / 1_000:g} s")
            self._pg.consume_input()
        return self._pg.get_result()

    def _check(self, result: pq.abc.PGresult) -> None:
        if result.status not in _DONE:
            error = errors.error_from_result(result)
            self._stale = self._stale or error.sqlstate == _STALE_PLAN
            raise error


def place_of(url: str) -> str:
    """The database as it may be shown: without user, password and options."""
    try:
        given = conninfo.conninfo_to_dict(url)
    except psycopg.Error:
        return "The PostgreSQL database"
    host = given.get("host") or given.get("hostaddr") or "the local socket"
    port = given.get("port") or 5432
    return f"The PostgreSQL database {given.get('dbname') or 'of the user'} at {host}:{port}"


def is_own_fault(error: psycopg.Error) -> bool:
    """Only the operation's own statements can cause it; its neighbours in the batch can go on."""
    if error.sqlstate is None or error.sqlstate == _STALE_PLAN:
        return False
    own = psycopg.IntegrityError | psycopg.ProgrammingError | psycopg.DataError
    return isinstance(error, own | errors.QueryCanceled | errors.InFailedSqlTransaction)


def store_error(error: psycopg.Error, place: str) -> StoreError:
    """PostgreSQL's errors in the service's words."""
    said = (str(error).strip().splitlines() or ["no reason given"])[0].strip()
    if isinstance(error, errors.DiskFull):
        return StoreFull(f"No space left for {place[0].lower()}{place[1:]}.")
    if error.sqlstate in _CORRUPT:
        return StoreCorrupt(f"{place} is damaged ({said}). Restore a backup.")
    return StoreUnavailable(f"{place} cannot be used right now ({said}).")


class Door:
    """Opens connections to one database; while nobody answers, callers hear so at once instead of trying, too."""

    def __init__(self, url: str, limits: Limits = _DEFAULT) -> None:
        self.place = place_of(url)
        self._url = url
        self._limits = limits
        self._clock = SystemClock()
        self._refusal: StoreError | None = None
        self._shut_until_s = 0.0

    def open(self) -> Link:
        """A new connection.

        Raises:
            StoreError: nobody answers, or not to us; or so it was a moment ago.
        """
        refusal = self._refusal
        if refusal is not None and self._clock.monotonic_s() < self._shut_until_s:
            raise type(refusal)(str(refusal)) from refusal
        try:
            link = Link(self._url, self._limits)
        except StoreError as error:
            self._refusal = error
            self._shut_until_s = self._clock.monotonic_s() + _SHUT_S
            raise
        self._refusal = None
        return link
