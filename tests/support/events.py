"""One example of every event."""

import types
import typing
from dataclasses import fields
from typing import Any

from app.journal.event import Event
from app.journal.events import EVENTS

_EXAMPLES: dict[object, Any] = {
    str: "wört\n\x00",
    int: 1_234_567_890,
    float: 1.25,
    bool: True,
    tuple[str, ...]: ("a", "b"),
    tuple[int, ...]: (1_234_567_890, 1),
}


def example(kind: type[Event], *, absent: bool = False) -> Event:
    """An event with a value in every field; where None is allowed, that if `absent`."""
    hints = typing.get_type_hints(kind)
    return kind(**{field.name: _value(hints[field.name], absent) for field in fields(kind)})


def examples() -> list[Event]:
    """Every event, full and with its optional fields absent."""
    return [example(kind, absent=absent) for kind in EVENTS.values() for absent in (False, True)]


def _value(hint: Any, absent: bool) -> Any:
    if isinstance(hint, types.UnionType):
        if absent:
            return None
        hint = next(part for part in typing.get_args(hint) if part is not type(None))
    return _EXAMPLES[hint]
