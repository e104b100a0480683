"""The port to who sells models: what is asked, what comes back, and how it can fail."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol, runtime_checkable

from app.domain.record import record
from app.llm.rates import Rates
from app.llm.usage import Usage, WriteLifetime

JsonObject = dict[str, Any]


@dataclass(slots=True)
class Progress:
    """How far an attempt has come. Its caller keeps it: for an attempt that it has to give up."""

    usage_so_far: Usage | None = None
    """What a stream's `message_start` had reported by then."""
    on_text: Callable[[str], None] | None = None
    """Told each piece of a stream's text as it comes: not to be relied upon before the answer is whole."""
    rates: Rates | None = None
    """What the answer's headers said of the provider's limits."""


@record(frozen=True, slots=True)
class CacheMarks:
    """Where the provider is to cache the prompt. Put on when it is sent: no part of the conversation."""

    ttl: WriteLifetime
    prefix: bool
    """Behind the system prompt, tools included; without one behind the tools."""
    messages: tuple[int, ...] = ()
    """Behind these messages: their places, ascending."""
    reads: bool = field(default=False, compare=False)
    """Something of it should be in the cache already."""


@record(frozen=True, slots=True)
class ModelRequest:
    """One question to a model, as it goes on the wire (facts: Messages API, POST /v1/messages).

    `messages` is the transcript as plain JSON objects. It only ever grows: current models refuse a
    conversation whose earlier turns changed.
    """

    model: str
    max_tokens: int
    messages: list[JsonObject]
    system: str | None = None
    tools: tuple[JsonObject, ...] = ()
    tools_off: bool = False
    """The tools stay defined, as the conversation needs them, but none may be called."""
    stream: bool = False
    timeout_s: float = 600.0
    reference: str | None = None
    """Our name for this attempt; sent along, so that both sides' records can be matched."""
    marks: CacheMarks | None = None
    """Where it is cached; None asks for no caching."""
    compact_above_tokens: int | None = None
    """Above so many tokens the provider summarizes what came before, in a pass of its own."""
    compacted: bool = False
    """The conversation may hold such summaries, even where none is to be made."""
    encoded: Sequence[bytes] = field(default=(), compare=False, repr=False)
    """`messages` as JSON, one by one, where they are encoded already."""
    progress: Progress | None = field(default=None, compare=False)
    """Where to note what is known of an attempt that the caller gives up."""


@record(frozen=True, slots=True)
class ModelAnswer:
    """A complete answer. `raw` is the message as JSON bytes, as received where it came in one piece."""

    model: str
    content: list[JsonObject]
    stop_reason: str | None
    usage: Usage | None
    """Tokens by meter; None when the provider did not report usage that can be trusted."""
    raw: bytes
    request_id: str | None = None
    stop_details: JsonObject | None = None


class Phase(StrEnum):
    """How far an attempt had come when it failed."""

    CONNECT = "connect"
    """The request never left: nothing can have been billed."""
    RESPONSE = "response"
    """The provider answered with an error status."""
    LOST = "lost"
    """The request left and no complete answer came back (timeout, cut connection, cut stream)."""
    UNDONE = "undone"
    """A batch gave the request back unanswered (expired, canceled): nothing was billed."""
    STREAM = "stream"
    """The provider reported an error inside a stream that had begun with status 200."""


class ModelFailure(Exception):  # noqa: N818  (a failure is a result of an attempt, not a bug)
    """One attempt failed. Carries what the retry table and the ledger need; see `app.llm.retry`."""

    def __init__(
        self,
        error_type: str,
        message: str,
        *,
        phase: Phase,
        status: int | None = None,
        error_code: str | None = None,
        api_shaped: bool = False,
        retry_after_s: float | None = None,
        should_retry: bool | None = None,
        request_id: str | None = None,
        usage_so_far: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.error_type = error_type
        """The provider's `error.type`, or ours: connection_error, timeout, answer_lost, malformed_answer;
        `http_<status>` and stream_error stand for errors that are not shaped like the provider's."""
        self.message = message
        self.phase = phase
        self.status = status
        self.error_code = error_code
        self.api_shaped = api_shaped
        """The error body had the Messages API's own shape (a proxy's page does not)."""
        self.retry_after_s = retry_after_s
        self.should_retry = should_retry
        """The `x-should-retry` header, when there was one."""
        self.request_id = request_id
        self.usage_so_far = usage_so_far
        """What a cut stream's `message_start` had reported: its input tokens are real, its output is not."""
        self.rates: Rates | None = None
        """What an error's headers said of the provider's limits."""


class Provider(Protocol):
    """Who sells models. One instance a process; safe to use from many tasks at once."""

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        """Make exactly one attempt: no retries inside.

        Raises:
            ModelFailure: the attempt failed.
            asyncio.CancelledError: the caller gave up; the connection is closed at once, and
                `request.progress` says what is known of the attempt.
        """
        ...

    async def count_tokens(self, request: ModelRequest) -> int:
        """How many tokens the prompt has, as the provider estimates it; costs nothing.

        Raises:
            ModelFailure: no count.
        """
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


@runtime_checkable
class WarmsUp(Protocol):
    """A provider whose first question would have to wait for something that can be done before."""

    @property
    def failed(self) -> bool:
        """It could not be done when it was tried last."""
        ...

    def warm_up(self) -> None:
        """Do it, in the background."""
        ...

    async def ready(self) -> None:
        """Wait until it is done. Costs nothing once it is.

        Raises:
            ModelFailure: it cannot be done, as the next question will say, too.
        """
        ...
