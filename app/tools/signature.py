"""A function's signature as a JSON Schema and a strict validator."""

import inspect
import json
import re
from collections.abc import Callable
from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from pydantic.errors import PydanticUserError
from pydantic_core import PydanticSerializationError, to_json

from app.tools.errors import InvalidArgumentsError, ToolDefinitionError

JsonObject = dict[str, Any]

_BY_NAME = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
_ERRORS_SHOWN = 5
_NAME_SHOWN = 80
_LITERAL_KEYS = frozenset({"default", "const", "enum", "examples"})
_ARGS_HEADING = re.compile(r"(Args|Arguments|Parameters):\s*", re.IGNORECASE)
_ARG_LINE = re.compile(r"\*{0,2}(\w+)\s*(?:\([^)]*\))?:\s*(.*)")


class FunctionSignature:
    """What `fn` takes. `call` and `async_call` want what `validate` returned."""

    def __init__(self, fn: Callable[..., Any]) -> None:
        if isinstance(fn, partial):
            raise _flaw(fn, "a partial shows the model what was bound; wrap it in a function")
        self._fn = fn
        self.description, notes = _read_docstring(inspect.getdoc(fn) or "")
        self._model, self._names = _build_model(fn, notes)
        self._validate_json = self._model.__pydantic_validator__.validate_json
        try:
            self.input_schema = _schema_of(self._model)
        except PydanticUserError as error:
            raise _flaw(fn, f"no JSON Schema for its arguments: {error}") from error

    def call(self, values: JsonObject) -> Any:
        return self._fn(**values)

    async def async_call(self, values: JsonObject) -> Any:
        return await self._fn(**values)

    def validate(self, arguments: JsonObject) -> JsonObject:
        """Python values by argument name; arguments left out stay out, so defaults are `fn`'s own.

        Goes through JSON, where strictness is about JSON's types: a date is a string, a tuple a list.

        Raises:
            InvalidArgumentsError: with one line for each of the first five problems.
        """
        try:
            wire = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
            parsed = self._validate_json(wire.encode("utf-8", "replace"), strict=True)
        except ValidationError as error:
            raise InvalidArgumentsError(_explain(error)) from None
        except (TypeError, ValueError, RecursionError):
            message = "the arguments are not plain JSON"
            raise InvalidArgumentsError(message) from None
        names = self._names
        return {names[field]: getattr(parsed, field) for field in parsed.__pydantic_fields_set__}


def _build_model(
    fn: Callable[..., Any], notes: dict[str, str]
) -> tuple[type[BaseModel], dict[str, str]]:
    """The arguments as a model, and its fields' real names.

    Fields get made-up names with the real ones as aliases, so that an argument may be called
    `schema` or `_x` without clashing with pydantic's own.
    """
    fields: dict[str, Any] = {}
    names: dict[str, str] = {}
    for number, parameter in enumerate(_parameters(fn)):
        field = f"argument_{number}"
        names[field] = parameter.name
        extra = _default_of(parameter)
        if parameter.name in notes:
            extra["description"] = notes[parameter.name]
        fields[field] = (parameter.annotation, Field(alias=parameter.name, **extra))
    config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)
    try:
        return create_model("Arguments", __config__=config, **fields), names
    except PydanticUserError as error:
        raise _flaw(fn, f"an annotation cannot be validated: {error}") from error


def _default_of(parameter: inspect.Parameter) -> dict[str, Any]:
    """How pydantic is told of the default; one that is not JSON stays out of the schema."""
    if parameter.default is parameter.empty:
        return {}
    try:
        to_json(parameter.default, inf_nan_mode="strings")
    except (PydanticSerializationError, ValueError):
        return {"default_factory": lambda: parameter.default}
    return {"default": parameter.default}


def _parameters(fn: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(fn, eval_str=True).parameters.values())
    except (NameError, TypeError, ValueError) as error:
        raise _flaw(fn, f"its signature cannot be read: {error}") from error
    for parameter in parameters:
        if parameter.kind not in _BY_NAME:
            raise _flaw(fn, f"argument {parameter.name!r} cannot be passed by name")
        if parameter.annotation is parameter.empty:
            raise _flaw(fn, f"argument {parameter.name!r} has no annotation")
    return parameters


def _schema_of(model: type[BaseModel]) -> JsonObject:
    schema = model.model_json_schema()
    _drop_titles(schema)
    return schema


def _drop_titles(schema: Any) -> None:
    """Generated titles repeat the names, and every call would pay for them."""
    if isinstance(schema, list):
        for item in schema:
            _drop_titles(item)
    if isinstance(schema, dict):
        if isinstance(schema.get("title"), str):  # a property called title has a dict here
            del schema["title"]
        for key, value in schema.items():
            if key not in _LITERAL_KEYS:
                _drop_titles(value)


def _flaw(fn: Callable[..., Any], reason: str) -> ToolDefinitionError:
    return ToolDefinitionError(f"function {getattr(fn, '__qualname__', fn)!s}: {reason}")


def _read_docstring(doc: str) -> tuple[str, dict[str, str]]:
    """The text without its `Args:` section, and that section by argument."""
    kept: list[str] = []
    notes: dict[str, str] = {}
    inside, current = False, ""
    for line in doc.splitlines():
        if _ARGS_HEADING.fullmatch(line):
            inside = True
        elif not inside or (line and not line[0].isspace()):
            inside = False
            kept.append(line)
        elif found := _ARG_LINE.fullmatch(line.strip()):
            current = found[1]
            notes[current] = found[2]
        elif current and line.strip():
            notes[current] = f"{notes[current]} {line.strip()}".strip()
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip(), notes


def _explain(error: ValidationError) -> str:
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    lines = [_problem(entry["loc"], entry["type"], entry["msg"]) for entry in problems]
    if len(lines) > _ERRORS_SHOWN:
        lines = [*lines[:_ERRORS_SHOWN], f"and {len(lines) - _ERRORS_SHOWN} more"]
    return "; ".join(lines)


def _problem(loc: tuple[int | str, ...], kind: str, message: str) -> str:
    where = ".".join(str(part) for part in loc)[:_NAME_SHOWN] or "arguments"
    if kind == "missing":
        return f"{where}: is required"
    if kind == "extra_forbidden":
        return f"{where}: there is no such argument"
    return f"{where}: {message[:1].lower()}{message[1:]}"
