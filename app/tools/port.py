"""What a tool is, and what comes back from one."""

import inspect
import math
import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from enum import StrEnum
from functools import partial
from typing import Any, Self

from app.domain.record import record
from app.tools.errors import ToolDefinitionError
from app.tools.schema import check_arguments
from app.tools.signature import FunctionSignature

JsonObject = dict[str, Any]
ToolFunction = Callable[[JsonObject], Awaitable[object] | object]

TIMEOUT_S = 30.0
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")  # the Messages API's rule for `tools[].name`


class ToolOutcome(StrEnum):
    """How a tool call ended."""

    OK = "ok"
    EMPTY = "empty"
    """It ran and had nothing to say: often a silent failure, so it is counted apart."""
    ERROR = "error"
    TIMEOUT = "timeout"
    TRUNCATED = "truncated"
    """It ran; the middle of a long result was left out."""
    DENIED = "denied"
    """The task may not use this tool."""

    @property
    def is_error(self) -> bool:
        return self in _FAILED


_FAILED = frozenset({ToolOutcome.ERROR, ToolOutcome.TIMEOUT, ToolOutcome.DENIED})


@record(frozen=True, slots=True, kw_only=True)
class ToolResult:
    """The answer to one tool call."""

    outcome: ToolOutcome
    content: str
    """The text for the model: valid UTF-8 without NUL, never blank."""
    duration_s: float = 0.0
    error_type: str | None = None
    """unknown_tool, not_allowed, invalid_arguments, timeout, not_started, no_free_thread,
    too_many_stragglers, cancelled, unreadable_result, or the name of the exception."""
    error_message: str | None = None
    original_bytes: int = 0
    """Size of the tool's own result in UTF-8, before anything was left out; 0 without a result."""
    whole: bytes | None = None
    """All of a shortened result."""
    left_out: tuple[int, int] | None = None
    """The bytes of it that `content` lacks: from, to."""

    @property
    def is_error(self) -> bool:
        """The `is_error` of the `tool_result` block."""
        return self.outcome.is_error


_CALL_KEY: ContextVar[str] = ContextVar("call_key", default="")


def call_key() -> str:
    """For a tool's function: which call of the model it answers, as `task_…/step/toolu_…`; empty outside of one.

    The same whenever that call runs again after a crash. Whoever acts on something passes it on as the
    idempotency key, and may then declare the tool `idempotent`.
    """
    return _CALL_KEY.get()


@contextmanager
def called_as(key: str) -> Iterator[None]:
    """What is begun in the block answers that call."""
    token = _CALL_KEY.set(key)
    try:
        yield
    finally:
        _CALL_KEY.reset(token)


@record(frozen=True, slots=True, kw_only=True)
class Tool:
    """Something a model may call.

    `run` gets the arguments as `validate` returned them. A coroutine function is awaited on the
    event loop, a plain one runs in a thread of the registry, or, when `inline`, on the loop itself:
    only for what is fast and pure, because nothing can interrupt it. Anything else that returns
    an awaitable (a lambda around a coroutine) is refused when it is called.

    Raises:
        ToolDefinitionError: name, schema, timeout or mode cannot work.
    """

    name: str
    description: str
    input_schema: JsonObject
    """JSON Schema of type object, with `additionalProperties: false`."""
    run: ToolFunction
    timeout_s: float = TIMEOUT_S
    idempotent: bool = False
    """It may run again after a crash; otherwise an unanswered call is not repeated."""
    empty_ok: bool = False
    """Nothing to say is a normal answer of this tool."""
    inline: bool = False
    may_be_long: bool = False
    """Its results may be longer than a task allows: the task can then read what was left out (`read_result`)."""
    source: str = ""
    """Who brought it: a distribution, a server; empty for the program itself."""
    version: str = ""
    validate: Callable[[JsonObject], JsonObject] | None = None
    """Raises InvalidArgumentsError; None checks against `input_schema`."""

    def __post_init__(self) -> None:
        reason = self._flaw()
        if reason:
            message = f"tool {self.name!r}: {reason}"
            raise ToolDefinitionError(message)
        # Copied: a definition that changed later would invalidate the prompt cache.
        object.__setattr__(self, "input_schema", deepcopy(self.input_schema))
        if self.validate is None:
            object.__setattr__(self, "validate", partial(check_arguments, self.input_schema))

    def _flaw(self) -> str | None:
        schema = self.input_schema
        rules = (
            (_NAME.fullmatch(self.name), "the name must be 1 to 64 letters, digits, '_' or '-'"),
            (self.description.strip(), "a description is needed: the model chooses by it"),
            (schema.get("type") == "object", "input_schema must be of type object"),
            (
                schema.get("additionalProperties") is False,
                "input_schema must have additionalProperties: false",
            ),
            (0 < self.timeout_s < math.inf, "timeout_s must be above 0 and finite"),
            (not (self.inline and self.is_async), "a coroutine function cannot run inline"),
        )
        return next((reason for holds, reason in rules if not holds), None)

    @property
    def is_async(self) -> bool:
        """`run` is a coroutine function (or an object whose `__call__` is one)."""
        return is_coroutine_callable(self.run)

    def checked(self, arguments: JsonObject) -> JsonObject:
        """The arguments as `run` wants them.

        Raises:
            InvalidArgumentsError: they do not fit; the message names the field.
        """
        assert self.validate is not None  # noqa: S101  (set in __post_init__)
        return self.validate(arguments)

    @classmethod
    def from_function(
        cls,
        fn: Callable[..., Awaitable[object] | object],
        *,
        name: str | None = None,
        description: str | None = None,
        timeout_s: float = TIMEOUT_S,
        idempotent: bool = False,
        empty_ok: bool = False,
        inline: bool = False,
        may_be_long: bool = False,
        source: str = "",
        version: str = "",
    ) -> Self:
        """A tool from an annotated function.

        Schema and strict validation come from the signature, the description from the docstring,
        argument descriptions from its `Args:` section or from `Annotated[..., Field(...)]`.

        Raises:
            ToolDefinitionError: an argument has no annotation, or is not passed by name.
        """
        signature = FunctionSignature(fn)
        return cls(
            name=name or str(getattr(fn, "__name__", "")),
            description=description or signature.description,
            input_schema=signature.input_schema,
            run=signature.async_call if is_coroutine_callable(fn) else signature.call,
            timeout_s=timeout_s,
            idempotent=idempotent,
            empty_ok=empty_ok,
            inline=inline,
            may_be_long=may_be_long,
            source=source,
            version=version,
            validate=signature.validate,
        )


def is_coroutine_callable(fn: object) -> bool:
    """Calling `fn` gives a coroutine."""
    call = getattr(type(fn), "__call__", None)  # noqa: B004  (the method itself is wanted)
    return inspect.iscoroutinefunction(fn) or inspect.iscoroutinefunction(call)
