"""Running one tool call: every outcome, and what a bad tool cannot do."""

import asyncio
import json
import math
from typing import Annotated, Any

import pytest
from pydantic import Field

from app.tools.errors import InvalidArgumentsError, ToolError
from app.tools.port import Tool, ToolOutcome
from app.tools.run import ToolLimits
from tests.unit.tools.conftest import RegistryOf
from tests.unit.tools.support import SteppingClock, answer, tool

MODES = pytest.mark.parametrize("mode", ["inline", "thread", "async"])


def in_mode(mode: str, act: Any, **options: Any) -> Tool:
    """A tool that does `act()` in the given way."""
    if mode == "async":

        async def run(values: dict[str, Any]) -> Any:
            return act()

        return tool(run, **options)
    return tool(lambda _: act(), inline=mode == "inline", **options)


def raising(error: BaseException) -> Any:
    def act() -> None:
        raise error

    return act


@MODES
@pytest.mark.parametrize(
    ("value", "content"),
    [
        ("hello", "hello"),
        ("naïve", "naïve"),
        (0, "0"),
        (False, "false"),
        ({"a": [1, None]}, '{"a":[1,null]}'),
        (math.nan, '"NaN"'),
        ([math.inf, -math.inf], '["Infinity","-Infinity"]'),
        ("a\ud800b\0c", "a\N{REPLACEMENT CHARACTER}b\N{REPLACEMENT CHARACTER}c"),
    ],
)
async def test_ok(registry_of: RegistryOf, mode: str, value: Any, content: str) -> None:
    """A result becomes text in every mode."""
    result = await answer(registry_of(in_mode(mode, lambda: value)))
    assert (result.outcome, result.content) == (ToolOutcome.OK, content)
    assert not result.is_error
    assert result.original_bytes == len(content.encode())
    assert result.error_type is None


@MODES
@pytest.mark.parametrize("value", [None, "", " \n\t", [], {}, (), b"", set()], ids=repr)
async def test_empty_is_told_in_words(registry_of: RegistryOf, mode: str, value: Any) -> None:
    """Nothing is an outcome of its own, and the model is told so."""
    result = await answer(registry_of(in_mode(mode, lambda: value)))
    assert result.outcome is ToolOutcome.EMPTY
    assert result.content.startswith("The tool returned nothing.")
    assert not result.is_error


@pytest.mark.parametrize(
    ("value", "content"),
    [("", "(no output)"), (None, "(no output)"), ([], "[]"), ("  ", "(no output)")],
)
async def test_empty_ok(registry_of: RegistryOf, value: Any, content: str) -> None:
    """A tool that may have nothing to say succeeds, and its text is never blank."""
    result = await answer(registry_of(in_mode("inline", lambda: value, empty_ok=True)))
    assert (result.outcome, result.content) == (ToolOutcome.OK, content)


@MODES
async def test_truncated(registry_of: RegistryOf, mode: str) -> None:
    """A long result loses its middle, and says how much."""
    long_text = "a" * 600 + "b" * 400
    limits = ToolLimits(result_limit_bytes=300)
    result = await answer(registry_of(in_mode(mode, lambda: long_text)), limits=limits)
    assert result.outcome is ToolOutcome.TRUNCATED
    assert not result.is_error
    assert result.original_bytes == 1_000
    assert len(result.content.encode()) <= 300
    assert result.content.startswith("a")
    assert result.content.endswith("b")
    assert "of 1000 bytes left out" in result.content


async def test_default_limit(registry_of: RegistryOf) -> None:
    """64 KiB pass whole; one byte more does not."""
    whole = await answer(registry_of(in_mode("inline", lambda: "x" * 65_536)))
    cut = await answer(registry_of(in_mode("inline", lambda: "x" * 65_537)))
    assert (whole.outcome, cut.outcome) == (ToolOutcome.OK, ToolOutcome.TRUNCATED)


@MODES
@pytest.mark.parametrize(
    ("error", "kind", "content"),
    [
        (ToolError("no such city"), "ToolError", "probe failed: no such city"),
        (KeyError("x"), "KeyError", "probe failed with KeyError: 'x'"),
        (ValueError(), "ValueError", "probe failed with ValueError: no details"),
        (SystemExit(3), "SystemExit", "probe failed with SystemExit: 3"),
        (RuntimeError("a\n\nb\0"), "RuntimeError", "probe failed with RuntimeError: a b\ufffd"),
        (
            RuntimeError("lost\nTraceback (most recent call last):\n  File secret.py"),
            "RuntimeError",
            "probe failed with RuntimeError: lost",
        ),
    ],
)
async def test_an_exception_is_an_answer(
    registry_of: RegistryOf, mode: str, error: BaseException, kind: str, content: str
) -> None:
    """Whatever a tool raises becomes a text with its type, and no traceback."""
    result = await answer(registry_of(in_mode(mode, raising(error))))
    assert result.outcome is ToolOutcome.ERROR
    assert result.is_error
    assert (result.error_type, result.content) == (kind, content)
    assert result.error_message == content


async def test_long_and_broken_messages(registry_of: RegistryOf) -> None:
    """A huge message is cut; one that cannot be made is left out."""

    def refuse(error: Exception) -> str:
        raise RuntimeError

    broken_error = type("BrokenError", (Exception,), {"__str__": refuse})
    huge = await answer(registry_of(in_mode("inline", raising(ValueError("x" * 10_000_000)))))
    broken = await answer(registry_of(in_mode("inline", raising(broken_error()))))
    assert len(huge.content) < 600
    assert broken.content == "probe failed with BrokenError: no details"


async def test_group_of_exceptions(registry_of: RegistryOf) -> None:
    """A TaskGroup's failure is an answer too."""

    async def run(values: dict[str, Any]) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fail())

    async def fail() -> None:
        raise ValueError("inner")

    result = await answer(registry_of(tool(run)))
    assert result.error_type == "ExceptionGroup"


@pytest.mark.parametrize("value", [object(), [object()], lambda: 0, {"f": print}])
async def test_unreadable_result(registry_of: RegistryOf, value: Any) -> None:
    """What is neither text nor JSON is refused without showing its insides."""
    result = await answer(registry_of(in_mode("inline", lambda: value)))
    assert (result.outcome, result.error_type) == (ToolOutcome.ERROR, "unreadable_result")
    assert "0x" not in result.content


async def test_result_that_contains_itself(registry_of: RegistryOf) -> None:
    """A cycle is refused."""
    cycle: list[Any] = []
    cycle.append(cycle)
    result = await answer(registry_of(in_mode("thread", lambda: cycle)))
    assert result.error_type == "unreadable_result"


@pytest.mark.parametrize("inline", [True, False])
async def test_plain_function_that_returns_a_coroutine(
    registry_of: RegistryOf, inline: bool
) -> None:
    """The mistake of wrapping a coroutine in a lambda is named, and nothing is left un-awaited."""

    async def work() -> str:
        return "never"

    result = await answer(registry_of(tool(lambda _: work(), inline=inline)))
    assert result.error_type == "unreadable_result"
    assert "async" in result.content


@pytest.mark.parametrize("name", ["nope", "", "x" * 10_000, "\ud800\0", None, ["probe"], {}])
async def test_unknown_tool(registry_of: RegistryOf, name: Any) -> None:
    """A name nobody registered, of whatever kind, is answered with those there are."""
    result = await answer(registry_of(in_mode("inline", lambda: "x")), name=name)
    assert (result.outcome, result.error_type) == (ToolOutcome.ERROR, "unknown_tool")
    assert result.content.endswith("Available: probe.")
    assert len(result.content) < 200
    result.content.encode()


async def test_denied_does_not_run(registry_of: RegistryOf) -> None:
    """A tool the task may not use is refused before anything of it runs."""
    ran: list[str] = []
    registry = registry_of(in_mode("inline", lambda: ran.append("x")))
    result = await answer(registry, allowed={"other"})
    assert (result.outcome, result.error_type) == (ToolOutcome.DENIED, "not_allowed")
    assert result.is_error
    assert ran == []


def weather(city: str, days: Annotated[int, Field(ge=1, le=7)] = 1) -> str:
    """Tell the weather."""
    return f"{city} {days}"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({}, "city: is required"),
        ({"city": 5}, "city: input should be a valid string"),
        ({"city": "x", "days": "2"}, "days: input should be a valid integer"),
        ({"city": "x", "days": 8}, "days: input should be less than or equal to 7"),
        ({"city": "x", "evil": 1}, "evil: there is no such argument"),
        ([], "the arguments must be a JSON object"),
        ("city", "the arguments must be a JSON object"),
        ({"city": "x", "days": math.nan}, "not plain JSON"),
        ({"city": object()}, "not plain JSON"),
    ],
)
async def test_invalid_arguments(registry_of: RegistryOf, arguments: Any, named: str) -> None:
    """Arguments that do not fit are answered with the field's name; the tool does not run."""
    result = await answer(registry_of(Tool.from_function(weather)), "weather", arguments)
    assert (result.outcome, result.error_type) == (ToolOutcome.ERROR, "invalid_arguments")
    assert named in result.content
    assert "did not run" in result.content


async def test_arguments_against_a_written_schema(registry_of: RegistryOf) -> None:
    """A tool without a function's signature is checked against its schema."""
    schema = {
        "type": "object",
        "properties": {"n": {"type": "integer"}},
        "required": ["n"],
        "additionalProperties": False,
    }
    registry = registry_of(tool(lambda values: values["n"] + 1, input_schema=schema))
    good = await answer(registry, arguments={"n": 1})
    bad = await answer(registry, arguments={"n": "1"})
    assert good.content == "2"
    assert "n: should be of type integer" in bad.content


@pytest.mark.parametrize(
    ("error", "kind"),
    [(InvalidArgumentsError("n: odd"), "invalid_arguments"), (ZeroDivisionError(), None)],
)
async def test_own_validator(registry_of: RegistryOf, error: Exception, kind: str | None) -> None:
    """A validator that refuses, or has a bug, is an answer."""

    def validate(arguments: dict[str, Any]) -> dict[str, Any]:
        raise error

    result = await answer(registry_of(tool(lambda _: "x", inline=True, validate=validate)))
    assert result.error_type == (kind or "ZeroDivisionError")


async def test_duration_is_the_clocks(registry_of: RegistryOf) -> None:
    """The duration is the difference of two readings of the clock that was passed in."""
    result = await answer(registry_of(in_mode("inline", lambda: "x")), clock=SteppingClock())
    assert result.duration_s == 1.0


@pytest.mark.parametrize(
    "limits", [{"result_limit_bytes": 255}, {"timeout_limit_s": 0}, {"timeout_limit_s": math.inf}]
)
def test_limits_out_of_range(limits: dict[str, Any]) -> None:
    """Limits that cannot hold are refused where they are made."""
    with pytest.raises(ValueError, match=next(iter(limits))):
        ToolLimits(**limits)


async def test_text_of_a_result_is_wire_safe(registry_of: RegistryOf) -> None:
    """Every answer fits into a request body."""
    value = {"name": "a\ud800", "nul": "\0", "bytes": b"\xff"}
    result = await answer(registry_of(in_mode("inline", lambda: value)))
    assert result.outcome is ToolOutcome.OK
    assert json.loads(json.dumps({"content": result.content}).encode())["content"] == result.content
    assert json.loads(result.content)["name"] == "a\N{REPLACEMENT CHARACTER}"
