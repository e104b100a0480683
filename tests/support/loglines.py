"""The published schema of a log line, as a check of every line that the tests cause."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft202012Validator

from app.observe.logs import JsonFormatter, Redactor

SHOWN = 5
"""Wrong lines that a failure shows, at most."""


@cache
def schema() -> dict[str, Any]:
    """The schema as it ships."""
    text = files("app.observe").joinpath("log.schema.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    Draft202012Validator.check_schema(found)
    return found


def variants(kind: str) -> dict[str, dict[str, Any]]:
    """Name → subschema of the lines of one kind: `event` or `own_line`."""
    names = [entry["$ref"].rpartition("/")[2] for entry in schema()["$defs"][kind]["oneOf"]]
    return {name: schema()["$defs"][name] for name in names}


@cache
def _validator(name: str | None) -> Draft202012Validator:
    whole = schema()
    part = whole if name is None else {"$defs": whole["$defs"], "$ref": f"#/$defs/{name}"}
    return Draft202012Validator(part)


@cache
def _kind_of(event: str, logger: str | None) -> str | None:
    """The one variant that a line of this name can be; None: let the whole schema decide."""
    if logger is None:
        return event if event in variants("event") else None
    is_own = logger == "app" or logger.startswith("app.")
    return event if is_own and event in variants("own_line") else None


def mistakes(line: str) -> list[str]:
    """What is wrong with a log line; nothing when it is as published."""
    if "\n" in line:
        return ["more than one line"]
    try:
        found = json.loads(line)
    except ValueError as error:
        return [f"not JSON: {error}"]
    if not isinstance(found, dict):
        return ["not an object"]
    # Every variant of the schema demands its own name: trying that one alone gives the same verdict, sooner.
    name = _kind_of(str(found.get("event")), str(found["logger"]) if "logger" in found else None)
    return [
        f"{'.'.join(map(str, error.absolute_path))}: {error.message[:300]}"
        for error in _validator(name).iter_errors(found)
    ]


class LineChecker(logging.Handler):
    """Formats every record as the service does and keeps it; what is out of the schema, apart."""

    def __init__(self) -> None:
        super().__init__(logging.NOTSET)
        self.setFormatter(JsonFormatter(Redactor()))
        self.lines: list[str] = []
        self.wrong: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        line = self.format(record)
        self.lines.append(line)
        found = mistakes(line)
        if found:
            self.wrong.append(f"{line}\n    {'; '.join(found)}")

    def entries(self, event: str | None = None) -> list[dict[str, Any]]:
        """The lines so far, parsed; of one event only, if named."""
        parsed = [json.loads(line) for line in self.lines]
        return [entry for entry in parsed if event in {None, entry["event"]}]


@contextmanager
def checked(level: int = logging.INFO) -> Iterator[LineChecker]:
    """Check every record of the process; leaving the block fails when one is out of the schema."""
    root, checker = logging.getLogger(), LineChecker()
    before = root.level
    root.addHandler(checker)
    root.setLevel(level)
    try:
        yield checker
    finally:
        root.removeHandler(checker)
        root.setLevel(before)
    shown = "\n".join(checker.wrong[:SHOWN])
    assert not checker.wrong, f"{len(checker.wrong)} log lines are not as published:\n{shown}"
