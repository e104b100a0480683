"""Between the named queries and PostgreSQL: its statements, what is sent with them, what comes back."""

import re
from collections.abc import Mapping
from typing import Any, cast

from psycopg import pq

from app.domain.record import record
from app.store.queries import PARAMETER, bare

_TEXT, _BINARY = 0, 1
_NUMBERS = {20, 21, 23, 1700}
"""Types of whole numbers; the sum of such is `numeric`, and whole as well."""
_BIGINT, _BYTEA = 20, 17


class TextError(ValueError):
    """Text that PostgreSQL cannot keep."""


@record(frozen=True, slots=True)
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

    text = PARAMETER.sub(numbered, bare(query))
    return Statement(name.encode(), text.encode(), tuple(names))


Sent = tuple[Statement, list[bytes], list[int]]
"""A statement on its way: with its values, and whether each is text or bytes."""


def sent(wanted: Statement, params: Mapping[str, object]) -> Sent:
    """The statement with the parameters it names.

    Raises:
        KeyError, TextError, UnicodeError, TypeError: parameters that cannot be sent.
    """
    given = [params[name] for name in wanted.parameters]
    formats = [_BINARY if isinstance(value, bytes) else _TEXT for value in given]
    values = cast(
        "list[bytes]", [_wire(value) for value in given]
    )  # None is NULL, whatever the types say
    return wanted, values, formats


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


def _wire(value: object) -> bytes | None:
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
