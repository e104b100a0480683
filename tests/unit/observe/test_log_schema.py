"""log.schema.json: complete, strict, and one with the code."""

import ast
import dataclasses
import json
import logging
import types
import typing
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

import app
from app.domain.task import Outcome
from app.journal.event import Event
from app.journal.events import EVENTS
from app.journal.views import public_fields
from app.llm.provider import Phase
from app.tools.port import ToolOutcome
from tests.support.loglines import LineChecker, checked, mistakes, schema, variants

LEVELS = {10: "DEBUG", 20: "INFO", 30: "WARNING", 40: "ERROR"}
HEAD = {"timestamp", "level", "event", "task_id", "session_id", "run", "seq"}
LIBRARY = {
    "timestamp": "2026-11-22T12:00:00.000000Z",
    "level": "WARNING",
    "event": "something",
    "logger": "aiohttp.client",
}


def _outside(kind: type[Event]) -> tuple[set[str], set[str]]:
    """The event's public field names: all of them, and those that may be absent."""
    names, optional = set(), set()
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        (name,) = public_fields_of(kind, field.name)
        names.add(name)
        if types.NoneType in typing.get_args(hints[field.name]):
            optional.add(name)
    return names, optional


def public_fields_of(kind: type[Event], name: str) -> set[str]:
    """What the views call one field."""
    blank = {field.name: None for field in dataclasses.fields(kind)}
    event = kind(**{**blank, name: 1})
    return set(public_fields(event))


def test_events() -> None:
    """The schema's events are the journal's, no more and no fewer."""
    assert set(variants("event")) == set(EVENTS)


@pytest.mark.parametrize("name", EVENTS)
def test_fields(name: str) -> None:
    """An event's properties are its public fields; only a field that can be None may be absent."""
    shape, kind = variants("event")[name], EVENTS[name]
    names, optional = _outside(kind)
    assert set(shape["properties"]) == HEAD | {"simulated"} | names
    assert set(shape["required"]) == HEAD | (names - optional)
    assert shape["additionalProperties"] is False
    assert shape["properties"]["event"] == {"const": name}
    assert shape["properties"]["level"] == {"const": LEVELS[kind.level]}


def test_closed_sets() -> None:
    """Enumerations are those of the code."""
    events = variants("event")

    def values(event: str, field: str) -> set[str]:
        return set(events[event]["properties"][field]["enum"])

    assert values("task_finished", "outcome") == {outcome.value for outcome in Outcome}
    assert values("task_finished", "status") == {outcome.status.value for outcome in Outcome}
    assert values("tool_finished", "outcome") == {outcome.value for outcome in ToolOutcome}
    assert values("attempt_failed", "phase") == {phase.value for phase in Phase}


def _logged_by_the_code() -> dict[str, str]:
    """Line name → logger, of every call of a module's logger in the package."""
    found = {}
    root = Path(app.__file__).parent
    for file in root.rglob("*.py"):
        module = ".".join(["app", *file.relative_to(root).with_suffix("").parts])
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            match node:
                case ast.Call(
                    func=ast.Attribute(value=ast.Name(id="_log")),
                    args=[ast.Constant(value=str() as name), *_],
                ):
                    found[name] = module
                case ast.Call(func=ast.Attribute(value=ast.Name(id="_log"))):
                    pytest.fail(f"{module}:{node.lineno}: a log line needs a plain name")
                case _:
                    pass
    return found


def test_own_lines() -> None:
    """Every line the service writes of its own is in the schema, and nothing else is."""
    described = {
        name: shape["properties"]["logger"]["const"] for name, shape in variants("own_line").items()
    }
    assert described == _logged_by_the_code()


def _line(**more: Any) -> dict[str, Any]:
    return {
        "timestamp": "2026-11-22T12:00:00.000000Z",
        "level": "INFO",
        "event": "task_claimed",
        "task_id": "task_1",
        "session_id": "s",
        "run": 1,
        "seq": 2,
        "worker": "worker_1",
        "waited_s": 0.25,
        **more,
    }


GOOD = [
    _line(),
    _line(simulated=True),
    _line(waited_s=0),
    LIBRARY,
    {**LIBRARY, "color_message": "libraries may add what they like"},
    {
        "timestamp": "2026-11-22T12:00:00.000000Z",
        "level": "INFO",
        "event": "service_stopped",
        "logger": "app.server",
    },
]
BAD = {
    "an unknown field": _line(surprise=1),
    "an unknown event": _line(event="task_vanished"),
    "another level": _line(level="ERROR"),
    "a time without zone": _line(timestamp="2026-11-22T12:00:00.000000"),
    "a coarse time": _line(timestamp="2026-11-22T12:00:00Z"),
    "a text for a number": _line(waited_s="0.25"),
    "a truth for a number": _line(run=True),
    "a negative number": _line(seq=0),
    "null for absent": _line(worker=None),
    "a false mark": _line(simulated=False),
    "a missing field": {k: v for k, v in _line().items() if k != "worker"},
    "an event that claims a logger": _line(logger="app.worker.pool"),
    "an own line nobody knows": {**LIBRARY, "logger": "app.worker.pool"},
    "an own line of another": {**LIBRARY, "logger": "app", "event": "draining", "running": 1},
    "no level": {k: v for k, v in LIBRARY.items() if k != "level"},
    "a strange level": {**LIBRARY, "level": "NOTICE"},
    "not an object": [_line()],
}


@pytest.mark.parametrize("line", GOOD, ids=range(len(GOOD)))
def test_good_lines(line: Any) -> None:
    """What is as published passes the whole schema and the checker's short way."""
    assert Draft202012Validator(schema()).is_valid(line)
    assert mistakes(json.dumps(line)) == []


@pytest.mark.parametrize("line", BAD.values(), ids=BAD.keys())
def test_bad_lines(line: Any) -> None:
    """What is not, fails both."""
    assert not Draft202012Validator(schema()).is_valid(line)
    assert mistakes(json.dumps(line))


def test_no_json() -> None:
    """A line that is cut off, or two in one, is not a line."""
    assert mistakes('{"event":')
    assert mistakes("{}\n{}")


def test_the_checker_fails_the_test(log_lines: LineChecker) -> None:
    """A wrong line makes the block fail that watched it, whoever swallowed the error."""
    with pytest.raises(AssertionError, match="1 log lines are not as published"), checked():
        logging.getLogger("app.worker.pool").info("a sentence instead of a name")
    assert len(log_lines.wrong) == 1
    log_lines.wrong.clear()
