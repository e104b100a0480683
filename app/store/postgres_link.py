"""One PostgreSQL connection: named statements, prepared once, and its errors in the service's words.

It speaks libpq directly: a statement of the ledger takes a fraction of the CPU that a cursor would take.
Parameters are sent as text: instants and money are declared as numbers by their names, of everything else the
server infers the type from the statement. One plan a query, whatever the values are.
"""

import re
import select
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import psycopg
from psycopg import conninfo, errors, pq

from app.domain.clock import SystemClock
from app.domain.errors import StoreCorrupt, StoreError, StoreFull, StoreUnavailable

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
_PARAMETER = re.compile(r"(?<![:\w]):([a-z][a-z0-9_]*)")
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_DONE = (pq.ExecStatus.TUPLES_OK, pq.ExecStatus.COMMAND_OK)
_TEXT, _BINARY = 0, 1
_NUMBERS = {20, 21, 23, 1700}
"""Types of whole numbers; the sum of such is `numeric`, and whole as well."""
_BIGINT, _BYTEA = 20, 17
_CORRUPT = {"XX001", "XX002"}
_STALE_PLAN = "0A000"
"""A table was changed by a newer version: what is prepared must be prepared again, on another connection."""


@dataclass(frozen=True, slots=True)
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


class TextError(ValueError):
    """Text that PostgreSQL cannot keep."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A query in PostgreSQL's words: `$1`, `$2`, … and the names of what goes there."""

    name: bytes
    text: bytes
    parameters: tuple[str, ...]

    @property
    def types(self) -> list[int]:
        """What each parameter is; 0 where the server is to say."""
        return [_BIGINT if name.endswith(("_us", "_nano")) else 0 for name in self.parameters]


def statement(name: str, query: str) -> Statement:
    """The named query, whose parameters are written `:like_this`."""
    names: list[str] = []

    def numbered(found: re.Match[str]) -> str:
        if found[1] not in names:
            names.append(found[1])
        return f"${names.index(found[1]) + 1}"

    text = _PARAMETER.sub(numbered, _COMMENT.sub("", query)).strip()
    return Statement(name.encode(), text.encode(), tuple(names))


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
    def failed(self) -> bool:
        """A statement of the transaction failed, and nothing more can be done in it."""
        return bool(self._pg.transaction_status == pq.TransactionStatus.INERROR)

    def simple(self, text: str) -> pq.abc.PGresult:
        """Run statements without parameters, in one message; the last one's result.

        Raises:
            psycopg.Error: one of them failed; those after it did not run.
        """
        self._pg.send_query(text.encode())
        return self._answer()

    def execute(self, wanted: Statement, params: Mapping[str, object]) -> pq.abc.PGresult:
        """Run a statement.

        Raises:
            psycopg.Error: it failed.
            KeyError, TextError, UnicodeError, TypeError: parameters that cannot be sent.
        """
        values = [_sent(params[name]) for name in wanted.parameters]
        if wanted.name not in self._prepared:
            self._pg.send_prepare(wanted.name, wanted.text, wanted.types)
            self._answer()
            self._prepared.add(wanted.name)
        formats = [
            _BINARY if isinstance(params[name], bytes) else _TEXT for name in wanted.parameters
        ]
        sent = cast("list[bytes]", values)  # None is NULL; the driver's types do not say so
        self._pg.send_query_prepared(wanted.name, sent, formats)
        return self._answer()

    def close(self) -> None:
        """Hang up."""
        self._connection.close()

    def _answer(self) -> pq.abc.PGresult:
        """Wait for what was sent; its last result."""
        pg, found = self._pg, None
        try:
            while True:
                while pg.is_busy():
                    self._wait()
                    pg.consume_input()
                result = pg.get_result()
                if result is None:
                    break
                found = result
        except psycopg.Error:
            if found is None or found.status in _DONE:
                raise  # else the server has said why it hangs up
        if found is None:
            raise psycopg.OperationalError("no answer")
        if found.status not in _DONE:
            error = errors.error_from_result(found)
            self._stale = self._stale or error.sqlstate == _STALE_PLAN
            raise error
        return found

    def _wait(self) -> None:
        if not self._poll.poll(self.patience_ms):
            self.close()
            raise psycopg.OperationalError(f"no answer within {self.patience_ms / 1_000:g} s")


def rows_of(result: pq.abc.PGresult) -> list[dict[str, Any]]:
    """What a statement found."""
    columns = range(result.nfields)
    names = [(result.fname(column) or b"").decode() for column in columns]
    readers = [_reader(result.ftype(column)) for column in columns]
    found = []
    for number in range(result.ntuples):
        row: dict[str, Any] = {}
        for column in columns:
            value = result.get_value(number, column)
            row[names[column]] = None if value is None else readers[column](value)
        found.append(row)
    return found


def _reader(oid: int) -> Any:
    if oid in _NUMBERS:
        return int
    return _bytes if oid == _BYTEA else bytes.decode


def _bytes(value: bytes) -> bytes:
    return bytes.fromhex(value[2:].decode())


def _sent(value: object) -> bytes | None:
    match value:
        case None | bytes():
            return value
        case int():
            return b"%d" % value
        case str():
            text = value.encode()
            if b"\x00" in text:
                raise TextError("PostgreSQL keeps no text with a NUL character.")
            return text
        case _:
            raise TypeError(f"no parameter for a statement: {type(value).__name__}")


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
