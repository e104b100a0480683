"""The time of day, anywhere."""

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Annotated
from zoneinfo import ZoneInfo

from pydantic import Field

from app.domain.clock import Clock
from app.tools.errors import ToolError
from app.tools.port import Tool

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def current_time_tool(clock: Clock) -> Tool:
    """Runs in a thread, not inline: the first use of a zone reads its file."""

    def current_time(timezone: Annotated[str, Field(max_length=64)] = "UTC") -> dict[str, str]:
        """Tell the current date, time and weekday.

        Args:
            timezone: IANA name such as Europe/Paris or America/New_York.
        """
        zone = _zone(timezone)
        now = (_EPOCH + timedelta(microseconds=clock.now_us())).astimezone(zone)
        return {
            "time": now.isoformat(timespec="seconds"),
            "weekday": _WEEKDAYS[now.weekday()],
            "timezone": timezone,
        }

    return Tool.from_function(current_time, idempotent=True, source="bursar")


def _zone(name: str) -> tzinfo:
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # unknown; not a clean path; a folder
        message = f"unknown timezone {name!r}: use an IANA name such as Europe/Paris"
        raise ToolError(message) from None
