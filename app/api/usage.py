"""GET /usage: what was used and spent, by model, session, key, day or agent; sums over the ledger's lines."""

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from app.api import present
from app.api.guarded import GuardedRoute
from app.api.schemas import Problem, UsageOut
from app.api.services import principal
from app.api.tables import csv_text
from app.domain.clock import rfc3339
from app.domain.errors import SubmissionRefused
from app.domain.money import format_usd
from app.domain.period import DAY_US, instant_us, utc_date
from app.store.port import Row, Tx

router = APIRouter(route_class=GuardedRoute, tags=["usage"])
GROUPS_LIMIT = 10_000
"""Groups in one answer, at most."""
DEFAULT_DAYS = 30
_CSV = "text/csv"
_CSV_HEADERS = {
    "Content-Disposition": 'attachment; filename="usage.csv"',
    "X-Content-Type-Options": "nosniff",
}
_MONEY = ("spent", "confirmed", "estimated", "presumed")
_COUNTS = (*(f"{meter}_tokens" for meter in present.METERS), "web_searches")


class GroupBy(StrEnum):
    """What the lines are grouped by."""

    MODEL = "model"
    SESSION = "session"
    KEY = "key"
    DAY = "day"
    AGENT = "agent"


Instant = Annotated[
    int,
    BeforeValidator(instant_us),
    WithJsonSchema({"type": "string", "examples": ["2026-11-01", "2026-11-01T00:00:00Z"]}),
]


class UsageSumOut(UsageOut):
    """What some calls used and cost, with the fees beside tokens."""

    web_searches: int


class UsageGroupOut(UsageSumOut):
    """One group's sums."""

    key: str | None = Field(
        description="The model, session, API key's id, day in UTC (2026-11-22) or agent; "
        "unset for calls without a key or an agent."
    )


class UsageReportOut(BaseModel):
    """Sums over the settlements of a time, by group and in all."""

    since: datetime = Field(alias="from")
    until: datetime = Field(alias="to", description="Not included.")
    group_by: GroupBy
    groups: list[UsageGroupOut] = Field(
        description="The dearest first; days in their order. Groups without a call are left out."
    )
    totals: UsageSumOut


@router.get(
    "/usage",
    response_model=UsageReportOut,
    responses={
        200: {
            "description": "The sums; with `format=csv` or `Accept: text/csv` one CSV row a group, without totals.",
            "content": {_CSV: {"schema": {"type": "string"}}},
        },
        422: {
            "model": Problem,
            "description": "A time that is none, or more groups than one answer has.",
        },
    },
    summary="What was used and spent",
)
async def get_usage(
    request: Request,
    since: Annotated[
        Instant | None,
        Query(
            alias="from",
            description=f"Calls that were settled at this instant or later; unset: {DEFAULT_DAYS} days before `to`.",
        ),
    ] = None,
    until: Annotated[
        Instant | None,
        Query(alias="to", description="Calls that were settled before this instant; unset: now."),
    ] = None,
    group_by: GroupBy = GroupBy.MODEL,
    shown_as: Annotated[
        Literal["json", "csv"] | None,
        Query(alias="format", description="Goes before the `Accept` header."),
    ] = None,
) -> Response:
    """Calls, tokens and money of your sessions: every number is a sum over settlements in the ledger.

    Times are RFC 3339 instants with their zone, or dates: the beginning of that day in UTC. In CSV, money is
    exact decimal text in USD, and a cell that could be taken for a formula begins with an apostrophe.
    """
    services, who = await principal(request)
    until_us = services.clock.now_us() if until is None else until
    since_us = max(until_us - DEFAULT_DAYS * DAY_US, 0) if since is None else since
    if since_us >= until_us:
        raise _invalid("from", f"must be before `to`, which is {rfc3339(until_us)}")

    def op(tx: Tx) -> Sequence[Row]:
        return tx.all(
            f"usage_by_{group_by}",
            owner=who.owner,
            from_us=since_us,
            to_us=until_us,
            limit=GROUPS_LIMIT + 1,
        )

    async with services.reports:
        rows = await services.store.read(op)
    if len(rows) > GROUPS_LIMIT:
        raise _too_many(group_by)
    if _wants_csv(request, shown_as):
        return Response(_as_csv(group_by, rows), headers=_CSV_HEADERS, media_type=_CSV)
    return present.json(
        {
            "from": rfc3339(since_us),
            "to": rfc3339(until_us),
            "group_by": group_by,
            "groups": [{"key": _name(group_by, row) or None, **_sums([row])} for row in rows],
            "totals": _sums(rows),
        }
    )


def _sums(rows: Sequence[Row]) -> dict[str, Any]:
    searches = sum(row["web_searches"] for row in rows)
    return {**present.usage(rows), "web_searches": searches}


def _name(group_by: GroupBy, row: Row) -> str:
    return utc_date(row["name"]).isoformat() if group_by is GroupBy.DAY else str(row["name"])


def _as_csv(group_by: GroupBy, rows: Sequence[Row]) -> str:
    header = ("key", "calls", *(f"{kind}_usd" for kind in _MONEY), *_COUNTS)
    return csv_text(
        header,
        (
            (
                _name(group_by, row),
                row["calls"],
                *(format_usd(row[f"{kind}_nano"]) for kind in _MONEY),
                *(row[name] for name in _COUNTS),
            )
            for row in rows
        ),
    )


def _wants_csv(request: Request, shown_as: str | None) -> bool:
    if shown_as is not None:
        return shown_as == "csv"
    return _CSV in request.headers.get("accept", "").lower()


def _invalid(field: str, message: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "value_error", "loc": ("query", field), "msg": message}]
    )


def _too_many(group_by: GroupBy) -> SubmissionRefused:
    message = f"By {group_by} there are more than {GROUPS_LIMIT:,} groups. Ask for a shorter time."
    return SubmissionRefused("group_by", message, "too-many-groups")
