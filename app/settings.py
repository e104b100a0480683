"""The only reader of the environment: every setting, its default, its bounds.

Sources, strongest first: environment variables, a `.env` file, files in the folder `BURSAR_SECRETS_DIR`
names (one file a variable, as container platforms mount them), the defaults below.
"""

import difflib
import os
from collections.abc import Iterator
from decimal import Decimal
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from app import addresses
from app.domain.money import MAX_USD
from app.domain.task import AskedComplexity, Complexity

PREFIX = "BURSAR_"
Usd = Annotated[Decimal, Field(gt=0, le=MAX_USD, decimal_places=9, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86_400, allow_inf_nan=False)]
LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR"]


class Role(StrEnum):
    """What a process does: `serve` both, `api` only takes tasks in, `worker` only runs them."""

    SERVE = "serve"
    API = "api"
    WORKER = "worker"


class SettingsError(Exception):
    """Settings that cannot work: one clear sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Settings(BaseSettings):
    """Everything the service can be told. `python -m app config` prints what is in force."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        populate_by_name=True,
        validate_default=True,
        hide_input_in_errors=True,
    )

    # Where it listens, and where its data lies
    host: str = Field("127.0.0.1", description="Address to listen on.")
    port: int = Field(8000, ge=0, le=65_535, description="Port to listen on; 0 takes a free one.")
    data_dir: Path = Field(
        Path("data"), description="Folder of the embedded database and its lock."
    )
    disk_floor_bytes: int = Field(
        67_108_864,
        ge=0,
        description="Bytes to keep free on the disk of the data directory: below it no work is taken "
        "and none begun; 0 looks at nothing.",
    )
    database_url: Annotated[SecretStr | None, AfterValidator(addresses.postgres)] = Field(
        None,
        description="A PostgreSQL database, `postgresql://user:password@host/name`; unset: the embedded one.",
    )

    auth: Literal["auto", "required"] = Field(
        "auto",
        description="API keys are checked: `auto`, once there are any; `required`, always.",
    )

    # Who sells models
    anthropic_api_key: SecretStr | None = Field(
        None, validation_alias="ANTHROPIC_API_KEY", description="Key of the model provider."
    )
    anthropic_base_url: Annotated[str | None, AfterValidator(addresses.http)] = Field(
        None,
        validation_alias="ANTHROPIC_BASE_URL",
        description="A compatible server, without `/v1`; unset: the Anthropic API.",
    )
    simulator: Literal["off", "auto", "on"] = Field(
        "off",
        description="The built-in simulator answers; `auto`: when there is neither key nor base URL.",
    )
    price_file: Path | None = Field(
        None, description="TOML with prices that go before the built-in ones."
    )

    # Routes
    route_simple: str = Field(
        "claude-haiku-5-5", min_length=1, description="Model of simple tasks."
    )
    route_medium: str = Field(
        "claude-sonnet-5-5", min_length=1, description="Model of medium tasks."
    )
    route_complex: str = Field(
        "claude-opus-5-5", min_length=1, description="Model of complex tasks."
    )

    default_complexity: AskedComplexity = Field(
        AskedComplexity.MEDIUM,
        description="Complexity of a task that names neither one nor a model; `auto`: the router finds it.",
    )
    auto_medium_score: float = Field(
        0.45, ge=0, le=1, description="From this score on the router takes a task for medium."
    )
    auto_complex_score: float = Field(
        0.80, ge=0, le=1, description="From this score on the router takes a task for complex."
    )
    auto_classifier: bool = Field(
        default=False,
        description="The router's choice is put to the cheapest route first: a short call, charged to the task.",
    )
    escalation_limit: int = Field(
        2,
        ge=0,
        le=5,
        description="How often a task may go up to a dearer route, where it may at all.",
    )

    fallback_models: tuple[str, ...] = Field(
        (),
        description="JSON list of models, the first choice first: where a task's model is overloaded or down, the "
        "next one that can be had goes on. Empty: none does.",
    )
    fallback_after_s: Seconds = Field(
        10.0,
        description="Seconds that a model has to be down before waiting tasks fall back; one whose attempts are used up does at once.",
    )

    # Budgets and bounds of a task
    task_budget_usd: Usd = Field(
        Decimal("0.50"), description="What a task may cost that names no budget."
    )
    session_budget_usd: Usd = Field(Decimal(5), description="What a new session may cost.")
    service_budget_usd: Usd | None = Field(
        None,
        description="What the whole service may cost in all, counted from when it is first set.",
    )
    service_daily_budget_usd: Usd | None = Field(
        None, description="What the whole service may cost in a day (UTC)."
    )
    service_monthly_budget_usd: Usd | None = Field(
        None, description="What the whole service may cost in a month (UTC)."
    )
    budget_warning_percent: int = Field(
        80, ge=1, le=100, description="How much of a budget is spent when it is warned of, once."
    )
    max_steps: int = Field(
        10, ge=1, le=100, description="Model calls of a task that names no bound."
    )
    max_tokens: int = Field(2_048, ge=1, le=128_000, description="Output tokens of one model call.")
    task_event_limit: int = Field(
        5_000,
        ge=100,
        le=100_000,
        description="Events in a task's journal, at most; then it ends with `history_limit`.",
    )
    task_history_limit_bytes: int = Field(
        20_971_520,
        ge=1_048_576,
        le=1_073_741_824,
        description="Bytes of answers and tool results in a task's journal, at most; then the same.",
    )
    task_deadline_s: Seconds = Field(1_800.0, description="Seconds until a task is given up.")

    economy_deadline_s: Seconds = Field(
        90_000.0,
        description="The same for a task with `urgency: economy`: batches may take a day.",
    )
    batch_linger_s: Annotated[float, Field(ge=0, le=3_600)] = Field(
        10.0, description="Seconds the first economy question waits for others to be sent with."
    )
    batch_items: int = Field(
        1_000,
        ge=1,
        le=10_000,
        description="Questions in one batch, at most: then it is sent at once.",
    )
    batch_bytes: int = Field(
        33_554_432,
        ge=1_048_576,
        le=134_217_728,
        description="Bytes of one batch, as far as one question does not have more.",
    )
    batch_poll_s: Annotated[float, Field(ge=0.01, le=3_600)] = Field(
        30.0, description="Seconds between two looks at a batch."
    )

    # The queue and the workers
    workers: int = Field(64, ge=1, le=10_000, description="Tasks in flight per process.")
    queue_limit: int = Field(
        10_000, ge=1, le=1_000_000, description="Tasks waiting, at most; then 429."
    )
    paused_limit: int = Field(
        100_000,
        ge=0,
        le=1_000_000,
        description="Tasks paused, at most; one more fails as if its `on_budget` were `fail`.",
    )
    priority_ageing_s: Annotated[float, Field(ge=0, le=7 * 86_400, allow_inf_nan=False)] = Field(
        60.0,
        description="Seconds of waiting that are worth one level of priority: after nine times as long a task of "
        "priority 9 goes before newcomers of priority 0.",
    )
    session_concurrency: int | None = Field(
        None, ge=1, le=10_000, description="Tasks of one session that run at once, at most."
    )
    key_concurrency: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Tasks of one API key that run at once, at most, unless the key has a limit of its own.",
    )
    heartbeat_s: Annotated[float, Field(ge=0.1, le=600)] = Field(
        5.0, description="Seconds between two renewals of this process's lease on its tasks."
    )
    lease_s: Annotated[float, Field(ge=0.2, le=3_600)] = Field(
        15.0,
        description="Seconds without a renewal after which others take its tasks over; at least two heartbeats.",
    )
    run_limit: int = Field(
        5,
        ge=1,
        le=1_000,
        description="Runs in a row that may crash without a finished step; then the task has failed.",
    )
    grace_s: Annotated[float, Field(ge=0, le=3_600)] = Field(
        25.0, description="Seconds a stop may take before running calls are interrupted."
    )

    retention_days: int | None = Field(
        None,
        ge=1,
        le=36_500,
        description="Tasks that ended more days ago are deleted, their ledger lines kept; unset: none.",
    )

    # Model and tool calls
    call_timeout_s: Seconds = Field(
        600.0, description="Seconds one attempt of a model call may take."
    )
    connect_timeout_s: Seconds = Field(
        60.0, description="Seconds a connection to the provider may take."
    )
    retry_attempts: int = Field(3, ge=1, le=10, description="Attempts of one model call.")
    retry_total_s: Seconds = Field(
        120.0, description="Seconds after which no retry of our own begins."
    )
    retry_budget_tokens: int = Field(
        500,
        ge=10,
        le=1_000_000,
        description="Tokens for retries of one model, per process: a retry takes 5, after a timeout 10; an answer brings 1 back.",
    )
    retry_probe_s: Seconds = Field(
        30.0,
        description="Seconds in which the price of one retry comes back by itself: how often an upstream that answers nobody is tried.",
    )
    call_concurrency_start: int = Field(
        128,
        ge=1,
        le=10_000,
        description="Calls in flight per model and process at first; answers raise it, overload lowers it.",
    )
    call_concurrency_limit: int = Field(
        10_000, ge=1, le=10_000, description="Calls in flight per model and process, at most."
    )
    park_after_s: Seconds = Field(5.0, description="A longer wait gives the worker's slot back.")
    stream_above_tokens: int = Field(
        8_192,
        ge=1,
        description="Longer outputs are streamed; so is what somebody watches with `deltas`, and what a nearly spent "
        "budget pays.",
    )
    prompt_caching: bool = Field(
        default=True, description="The provider caches prompts where that pays: docs/caching.md."
    )
    cache_wait_s: Annotated[float, Field(ge=0, le=600)] = Field(
        10.0,
        description="Seconds that tasks with the same system prompt and tools wait, when they come at once, until the "
        "first has its answer.",
    )
    tool_timeout_s: Seconds = Field(30.0, description="Seconds a tool call may take.")
    tool_result_limit_bytes: int = Field(
        65_536, ge=1_024, le=1_048_576, description="A longer tool result loses its middle."
    )

    # What is told
    log_level: LogLevel = Field("INFO", description="DEBUG, INFO, WARNING or ERROR.")
    log_file: Path | None = Field(None, description="A file for the JSON log, beside stdout.")
    access_log: bool = Field(default=False, description="A log line for each HTTP request.")

    @model_validator(mode="after")
    def _lease_outlives_a_heartbeat(self) -> Self:
        if self.lease_s < 2 * self.heartbeat_s:
            message = (
                f"BURSAR_LEASE_S must be at least twice BURSAR_HEARTBEAT_S ({self.heartbeat_s:g})"
            )
            raise ValueError(message)
        return self

    @property
    def routes(self) -> dict[Complexity, str]:
        """The model of each complexity."""
        return {
            Complexity.SIMPLE: self.route_simple,
            Complexity.MEDIUM: self.route_medium,
            Complexity.COMPLEX: self.route_complex,
        }

    @property
    def simulated(self) -> bool:
        """The built-in simulator answers instead of a real model."""
        if self.simulator == "auto":
            return self.anthropic_api_key is None and self.anthropic_base_url is None
        return self.simulator == "on"

    @property
    def place(self) -> Path | str:
        """Where the rows are: the embedded database's folder, or PostgreSQL's address."""
        return self.database_url.get_secret_value() if self.database_url else self.data_dir

    def secrets(self) -> Iterator[str]:
        """The configured secrets, to be blotted out of every view."""
        if self.anthropic_api_key is not None:
            yield self.anthropic_api_key.get_secret_value()
        if self.database_url is not None:
            url = self.database_url.get_secret_value()
            yield url
            if password := urlsplit(url).password:
                yield from {password, unquote(password)}

    def shown(self) -> dict[str, object]:
        """Variable → value in force, secrets masked."""
        return {variable(name): _shown(getattr(self, name)) for name in type(self).model_fields}


def variable(name: str) -> str:
    """The environment variable of a setting."""
    return name.upper() if name.startswith("anthropic_") else PREFIX + name.upper()


def load(**given: object) -> Settings:
    """The settings in force; `given` go before every other source.

    Raises:
        SettingsError: values that cannot work, one sentence each.
    """
    folder = os.environ.get("BURSAR_SECRETS_DIR") or None
    if folder is not None and not Path(folder).is_dir():
        raise SettingsError([f"BURSAR_SECRETS_DIR: there is no folder {folder}."])
    try:
        return Settings(_secrets_dir=folder, **given)  # type: ignore[call-arg, arg-type]
    except ValidationError as error:
        raise SettingsError([_sentence(problem) for problem in error.errors()]) from error
    except (OSError, UnicodeDecodeError) as error:
        message = f"A settings file (.env, or one in BURSAR_SECRETS_DIR) cannot be read: {error}."
        raise SettingsError([message]) from error


def unknown_variables() -> list[str]:
    """One sentence for each variable that looks like a setting and is none: a typo is not silent."""
    known = {variable(name) for name in Settings.model_fields} | {
        "BURSAR_SECRETS_DIR",
        "BURSAR_CORPUS",
    }
    found = []
    for name in sorted(os.environ):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, 1)
            hint = f" Did you mean {nearest[0]}?" if nearest else ""
            found.append(f"{name} is not a setting and has no effect.{hint}")
    return found


def _sentence(problem: ErrorDetails) -> str:
    if not problem["loc"]:
        return str(problem["msg"]).removeprefix("Value error, ")
    name = str(problem["loc"][0])
    shown = name if name.isupper() else variable(name.lower().removeprefix("bursar_"))
    reason = str(problem["msg"]).removeprefix("Value error, ")
    return f"{shown}: {reason[0].lower()}{reason[1:]}."


def _shown(value: object) -> object:
    if isinstance(value, SecretStr):
        return "********"
    if isinstance(value, str):
        return addresses.without_login(value)
    return str(value) if isinstance(value, Path | Decimal) else value
