"""What a client may send: the bodies of requests, field by field."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, WithJsonSchema

from app.domain.money import MAX_USD
from app.domain.task import AskedComplexity, Bound, BudgetPolicy, Urgency

TEXT_LIMIT_BYTES = 256 * 1024


SESSION_ID = r"^[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}$"


NAME = r"^[A-Za-z0-9][A-Za-z0-9._:@/-]{0,127}$"


_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)


_EPOCH = datetime.fromtimestamp(0, UTC)


TOOLS_LIMIT = 64


METADATA_LIMIT = 32


def _clean(text: str) -> str:
    """Text both databases and every log can hold."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError("has a lone surrogate, which is not valid Unicode") from None
    if "\x00" in text:
        raise ValueError("has a NUL character")
    if size > TEXT_LIMIT_BYTES:
        raise ValueError(f"is {size:,} bytes; the limit is {TEXT_LIMIT_BYTES:,} bytes of UTF-8")
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty")
    return text


def _number(value: object) -> object:
    """Amounts are JSON numbers; text that looks like one is refused."""
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        raise ValueError("must be a JSON number")  # noqa: TRY004  (pydantic turns ValueError into 422)
    return Decimal(value)


def _instant(value: object) -> datetime:
    """RFC 3339 alone: a time without its offset would be somebody's guess."""
    if not isinstance(value, str) or not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 instant with its offset, as 2026-11-27T18:30:00Z")
    try:
        found = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise ValueError("is no instant of the calendar") from None
    if found < _EPOCH:
        raise ValueError("is before 1970")
    return found


Text = Annotated[str, AfterValidator(_clean)]


Usd = Annotated[
    Decimal,
    BeforeValidator(_number),
    Field(ge=0, le=MAX_USD, decimal_places=9, allow_inf_nan=False),
    WithJsonSchema(
        {
            "type": "number",
            "minimum": 0,
            "maximum": MAX_USD,
            "description": "USD, at most nine decimals.",
        }
    ),
]


Instant = Annotated[
    datetime,
    BeforeValidator(_instant),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]


Seconds = Annotated[
    float,
    BeforeValidator(_number),
    Field(gt=0, le=7 * 86_400, allow_inf_nan=False),
    WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "maximum": 7 * 86_400}),
]


class Body(BaseModel):
    """A request body: unknown fields are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TaskIn(Body):
    """A task to run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"task": "Explain supervised and unsupervised learning.", "complexity": "simple"},
                {
                    "task": "What is 12 * (7 + 5)? Use the calculator.",
                    "tools": ["calculator"],
                    "session_id": "demo",
                    "budget_usd": 0.05,
                    "max_steps": 4,
                    "metadata": {"customer": "42"},
                },
            ]
        }
    )

    task: Annotated[Text, AfterValidator(_not_blank)] = Field(
        description="What to do: 1 byte to 256 KiB of UTF-8.", min_length=1
    )
    complexity: AskedComplexity | None = Field(
        None,
        description="Chooses the route, hence the model; `auto`: the router finds it. "
        "Unset: the service's default, `medium` unless it says otherwise.",
    )
    session_id: str | None = Field(
        None,
        pattern=SESSION_ID,
        description="Tasks of one session share its budget; it is made on first use. Unset: one of its own.",
    )
    budget_usd: Usd | None = Field(None, description="The most this task may cost.")
    max_steps: int | None = Field(
        None, ge=1, le=100, strict=True, description="Model calls, at most."
    )
    max_tokens: int | None = Field(
        None, ge=1, le=128_000, strict=True, description="Output tokens of one model call, at most."
    )
    system: Text | None = Field(None, description="The system prompt.")
    model: str | None = Field(
        None, pattern=NAME, description="A model by name, instead of the route."
    )
    tools: tuple[Annotated[str, Field(pattern=NAME)], ...] = Field(
        (),
        max_length=TOOLS_LIMIT,
        description="Names of the tools the model may use; none unless named.",
    )
    priority: int = Field(
        5,
        ge=0,
        le=9,
        strict=True,
        description="0 is served first, 9 last; whoever waits long enough goes before newcomers of any priority.",
    )
    run_at: Instant | None = Field(
        None,
        description="Not to be started before: an RFC 3339 instant, at most 30 days ahead; one in the past is now.",
    )
    deadline_s: Seconds | None = Field(
        None, description="Seconds from now, or from `run_at`, until the task is given up."
    )
    on_budget: BudgetPolicy = Field(
        BudgetPolicy.FAIL,
        description="When spent money leaves less than the next call may cost: `fail`; `pause` until a limit is "
        "raised or a window rolls over; `finalize` with one closing turn whose price is held back.",
    )
    downgrade: bool = Field(
        default=False,
        strict=True,
        description="Before that, go on with the next cheaper route that fits.",
    )
    fallback: bool | None = Field(
        None,
        strict=True,
        description="Go on with the service's next model where this one is down. Unset: yes, unless one is named.",
    )
    escalate: bool | None = Field(
        None,
        strict=True,
        description="Go on with the next dearer route where the model refuses, is cut off, says nothing or goes in "
        "circles. Unset: yes, if the router found the complexity.",
    )
    compact_above_tokens: int | None = Field(
        None,
        ge=50_000,
        le=1_000_000,
        strict=True,
        description="Where the conversation is longer than so many tokens, the provider summarizes it, in a pass of its "
        "own that is reserved and paid for like a call: docs/context.md. Not with `finalize`.",
    )
    bound: Bound = Field(
        Bound.PROVED,
        description="How a call is bounded before it is made; `estimate` reserves less, by the provider's count.",
    )
    urgency: Urgency = Field(
        Urgency.NORMAL,
        description="`economy`: asked in a batch, at half price, and answered within hours (a day at most). For one "
        "question: no tools, one step.",
    )
    parent_id: str | None = Field(
        None,
        pattern=NAME,
        description="The task this is a sub-task of: it is of the same session and draws on the same budget.",
    )
    agent: str | None = Field(
        None,
        pattern=NAME,
        description="Your name for what this is part of; usage is grouped by it.",
    )
    metadata: dict[
        Annotated[Text, Field(min_length=1, max_length=64)], Annotated[Text, Field(max_length=512)]
    ] = Field(
        {}, max_length=METADATA_LIMIT, description="Yours: text by text, returned as it came."
    )


class BudgetIn(Body):
    """The budget of a task or a session."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"budget_usd": 2.5}]})

    budget_usd: Usd = Field(description="The most it may cost.")


class RetryIn(Body):
    """What the next run may; what is not named stays as it was."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"max_steps": 20}]})

    max_steps: int | None = Field(
        None,
        ge=1,
        le=100,
        strict=True,
        description="Model calls in all, at most, those that were made included.",
    )
    budget_usd: Usd | None = Field(None, description="The most this task may cost in all.")
    deadline_s: Seconds | None = Field(
        None, description="Seconds from now until the task is given up."
    )
