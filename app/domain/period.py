"""Points in time as people write them: an RFC 3339 instant, or a date for the beginning of that day in UTC."""

import re
from datetime import UTC, date, datetime, time, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_INSTANT = re.compile(
    r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}(\.\d{1,6})?(Z|[+-]\d{2}:\d{2})", re.ASCII
)
_EXPECTED = (
    "must be a date such as 2026-11-22 (its beginning in UTC) or an RFC 3339 instant with its zone, such as "
    "2026-11-22T12:00:00Z (in a URL, the + of a zone is written %2B)"
)
DAY_US = 86_400 * 1_000_000


def instant_us(text: str) -> int:
    """The instant that `text` names, in microseconds since the epoch.

    Raises:
        ValueError: it names none, or one before 1970 or after 9999; the message says what is expected.
    """
    found = _parsed(text.upper())
    if found is None:
        raise ValueError(_EXPECTED)
    # Compared as aware instants: a zone can move the year 9999 past the end of the calendar.
    if not _EPOCH <= found <= _END:
        raise ValueError("must be between the years 1970 and 9999")
    return (found - _EPOCH) // _MICROSECOND


def utc_date(day: int) -> date:
    """The date of a day that is counted from the epoch, as `at_us / DAY_US` does."""
    return (_EPOCH + timedelta(days=day)).date()


def _parsed(text: str) -> datetime | None:
    try:
        if _DATE.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        return datetime.fromisoformat(text) if _INSTANT.fullmatch(text) else None
    except ValueError:  # a 13th month, a 61st second
        return None
