"""What a tool is: made by hand, or from a function's signature."""

import functools
import re
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from pydantic import BaseModel, Field

from app.tools.errors import InvalidArgumentsError, ToolDefinitionError
from app.tools.port import Tool, ToolOutcome, ToolResult
from tests.unit.tools.support import NO_ARGUMENTS, tool


class Colour(StrEnum):
    RED = "red"


class Place(BaseModel):
    title: str
    height_m: float = 0.0


def travel(
    place: Place,
    when: date,
    colour: Colour = Colour.RED,
    tags: tuple[str, ...] = (),
    count: Annotated[int, Field(gt=0, description="How many.")] = 1,
    *,
    mode: Literal["rail", "road"] | None = None,
) -> list[Any]:
    """Plan a trip.

    Takes the weather into account.

    Args:
        place: where to go,
            however far.
        when (date): the day.
        *tags: words.

    Returns:
        The plan.
    """
    return [place, when, colour, tags, count, mode]


def run(of: Tool, arguments: dict[str, Any]) -> Any:
    return of.run(of.checked(arguments))


def test_arguments_arrive_as_annotated() -> None:
    """JSON becomes the annotated types; what is left out gets the function's own default."""
    arguments = {"place": {"title": "Bern"}, "when": "2026-01-02", "tags": ["a"], "mode": "rail"}
    got = run(Tool.from_function(travel), arguments)
    assert got == [Place(title="Bern"), date(2026, 1, 2), Colour.RED, ("a",), 1, "rail"]


def test_schema_from_signature() -> None:
    """The schema is valid, closed, without titles, and carries the docstring's words."""
    schema = Tool.from_function(travel).input_schema
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["place", "when"]
    properties = schema["properties"]
    assert list(properties) == ["place", "when", "colour", "tags", "count", "mode"]
    assert properties["place"]["description"] == "where to go, however far."
    assert properties["when"] == {"format": "date", "type": "string", "description": "the day."}
    assert properties["count"]["description"] == "How many."
    assert properties["count"]["default"] == 1
    assert "title" not in schema
    assert "title" not in properties["when"]
    assert schema["$defs"]["Place"]["properties"]["title"] == {"type": "string"}


def test_description_from_docstring() -> None:
    """The docstring without its arguments describes the tool."""
    text = "Plan a trip.\n\nTakes the weather into account.\n\nReturns:\n    The plan."
    assert Tool.from_function(travel).description == text


def test_options_override() -> None:
    """Name and description may be given; labels and flags are kept."""
    made = Tool.from_function(
        travel,
        name="trip",
        description="Go.",
        timeout_s=5,
        idempotent=True,
        empty_ok=True,
        inline=True,
        source="acme",
        version="1.2",
    )
    assert (made.name, made.description, made.timeout_s) == ("trip", "Go.", 5)
    assert (made.idempotent, made.empty_ok, made.inline) == (True, True, True)
    assert (made.source, made.version) == ("acme", "1.2")


def test_defaults() -> None:
    """A tool is at most once, outside the loop, 30 seconds, unless it says otherwise."""
    made = Tool.from_function(travel)
    assert (made.name, made.timeout_s) == ("travel", 30.0)
    assert (made.idempotent, made.empty_ok, made.inline, made.is_async) == (False,) * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n": 1.5}, "n: input should be a valid integer"),
        ({"n": True}, "n: input should be a valid integer"),
        ({"n": "1"}, "n: input should be a valid integer"),
        ({"n": None}, "n: input should be a valid integer"),
        ({"argument_0": 1}, "n: is required; argument_0: there is no such argument"),
    ],
)
def test_validation_is_strict(arguments: dict[str, Any], message: str) -> None:
    """Nothing is converted, and the model learns which field is wrong."""

    def double(n: int) -> int:
        """Double."""
        return 2 * n

    made = Tool.from_function(double)
    assert run(made, {"n": 4}) == 8
    with pytest.raises(InvalidArgumentsError) as caught:
        made.checked(arguments)
    assert str(caught.value).startswith(message)


def test_problems_inside() -> None:
    """A problem deep inside is named by its path; many are counted."""

    def total(values: list[int]) -> int:
        """Sum."""
        return sum(values)

    made = Tool.from_function(total)
    with pytest.raises(InvalidArgumentsError, match=r"values\.1: input") as caught:
        made.checked({"values": [1, "2"]})
    assert "more" not in str(caught.value)
    with pytest.raises(InvalidArgumentsError, match="and 4 more"):
        made.checked({"values": ["x"] * 9})


def test_nan_and_odd_text() -> None:
    """NaN is refused; a lone surrogate reaches no function."""

    def echo(x: float = 0, text: str = "") -> list[Any]:
        """Echo."""
        return [x, text]

    made = Tool.from_function(echo)
    assert run(made, {"text": "a\ud800"}) == [0, "a?"]
    with pytest.raises(InvalidArgumentsError, match="plain JSON"):
        made.checked({"x": float("inf")})
    with pytest.raises(InvalidArgumentsError, match="x: input should be a finite number"):
        made.checked({"x": 10**400})


def test_awkward_names() -> None:
    """Arguments may be called what pydantic calls its own."""

    def awkward(schema: str, model_config: int, _x: int, copy: bool) -> list[Any]:
        """Awkward."""
        return [schema, model_config, _x, copy]

    arguments = {"schema": "s", "model_config": 1, "_x": 2, "copy": True}
    made = Tool.from_function(awkward)
    assert list(made.input_schema["properties"]) == list(arguments)
    assert run(made, arguments) == ["s", 1, 2, True]


def test_default_that_is_not_json() -> None:
    """Such a default stays out of the schema and still applies."""
    marker = object()

    def keep(value: int | None = marker) -> Any:  # type: ignore[assignment]
        """Keep."""
        return value

    made = Tool.from_function(keep)
    assert "default" not in made.input_schema["properties"]["value"]
    assert "required" not in made.input_schema
    assert run(made, {}) is marker


def test_literals_named_title_survive() -> None:
    """Only generated titles are dropped, not data that looks like one."""

    def pick(options: Annotated[dict[str, str], Field(examples=[{"title": "x"}])]) -> str:
        """Pick."""
        return options["title"]

    schema = Tool.from_function(pick).input_schema
    assert schema["properties"]["options"]["examples"] == [{"title": "x"}]


async def test_coroutine_functions() -> None:
    """A coroutine function, a method and an object with an async call are awaited."""

    class Greeter:
        async def greet(self, name: str) -> str:
            """Greet."""
            return f"hello {name}"

        async def __call__(self, name: str) -> str:
            """Greet."""
            return f"hi {name}"

    method = Tool.from_function(Greeter().greet)
    called = Tool.from_function(Greeter(), name="call", description="Greet.")
    assert method.is_async
    assert called.is_async
    assert await run(method, {"name": "you"}) == "hello you"
    assert await run(called, {"name": "you"}) == "hi you"


def no_annotation(x) -> str:  # type: ignore[no-untyped-def]
    """Text."""
    return str(x)


def star(*values: int) -> str:
    """Text."""
    return str(values)


def positional(x: int, /) -> str:
    """Text."""
    return str(x)


def undocumented(x: int) -> str:
    return str(x)


def unknown_type(x: "Nowhere") -> str:  # type: ignore[name-defined]  # noqa: F821
    """Text."""
    return str(x)


def no_schema_type(x: Callable[[], int]) -> str:
    """Text."""
    return str(x)


class Opaque:
    """A class pydantic knows nothing of."""


def opaque(x: Opaque) -> str:
    """Text."""
    return str(x)


def partly(x: int, key: str) -> str:
    """Text."""
    return f"{x}{key}"


def _readable(value: object) -> str:
    """Without addresses: tests have the same names in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@pytest.mark.parametrize(
    ("fn", "message"),
    [
        (no_annotation, "argument 'x' has no annotation"),
        (star, "argument 'values' cannot be passed by name"),
        (positional, "argument 'x' cannot be passed by name"),
        (undocumented, "a description is needed"),
        (unknown_type, "its signature cannot be read"),
        (no_schema_type, "no JSON Schema"),
        (opaque, "cannot be validated"),
        (lambda: None, "the name must be"),
        (functools.partial(partly, key="hidden"), "wrap it in a function"),
    ],
    ids=_readable,
)
def test_functions_that_make_no_tool(fn: Any, message: str) -> None:
    """A signature a model could not call is refused when the tool is made."""
    with pytest.raises(ToolDefinitionError, match=message):
        Tool.from_function(fn)


async def _coroutine(values: dict[str, Any]) -> str:
    return "x"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": ""}, "the name"),
        ({"name": "a b"}, "the name"),
        ({"name": "x" * 65}, "the name"),
        ({"name": "naïve"}, "the name"),
        ({"name": "a\n"}, "the name"),
        ({"description": " "}, "description"),
        ({"input_schema": {}}, "type object"),
        ({"input_schema": {"type": "object"}}, "additionalProperties"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"timeout_s": float("nan")}, "timeout_s"),
        ({"timeout_s": float("inf")}, "timeout_s"),
        ({"run": _coroutine, "inline": True}, "inline"),
    ],
    ids=_readable,
)
def test_tools_that_contradict_themselves(options: dict[str, Any], message: str) -> None:
    """Name, schema, timeout and mode are judged when the tool is made."""
    with pytest.raises(ToolDefinitionError, match=message):
        tool(**{"run": lambda _: "x", **options})


def test_schema_is_the_tools_own() -> None:
    """Changing the schema afterwards changes neither the definition nor the checks."""
    schema = {**NO_ARGUMENTS, "properties": {}}
    made = tool(lambda _: "x", input_schema=schema)
    schema["additionalProperties"] = True
    assert made.input_schema["additionalProperties"] is False
    with pytest.raises(InvalidArgumentsError):
        made.checked({"x": 1})


@pytest.mark.parametrize("outcome", ToolOutcome)
def test_is_error(outcome: ToolOutcome) -> None:
    """Only a call without a usable answer is an error on the wire."""
    result = ToolResult(outcome=outcome, content="x")
    assert result.is_error == (outcome in {"error", "timeout", "denied"})
