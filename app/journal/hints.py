"""What replicas tell each other of a commit: whose it is, and which tasks it is about. Never more than that.

A hint may be lost, doubled or late; whoever hears one looks at the rows.
"""

from collections.abc import Iterable
from dataclasses import dataclass

LIMIT_BYTES = 7_900
"""PostgreSQL carries 8,000 bytes."""
_ANY = "*"


@dataclass(frozen=True, slots=True)
class Hint:
    """Something happened to these tasks; None: perhaps to any."""

    task_ids: frozenset[str] | None = None


ANYTHING = Hint()


def hint_text(origin: str, task_ids: Iterable[str]) -> str:
    """The hint as it is sent; `origin` names the process, which needs no hint of its own commits."""
    ids = " ".join(sorted(set(task_ids)))
    text = f"{origin} {ids}"
    return text if len(text.encode()) <= LIMIT_BYTES else f"{origin} {_ANY}"


def parse_hint(text: str, me: str) -> Hint | None:
    """The hint of another process; None for one of our own."""
    origin, _, ids = text.partition(" ")
    if origin == me:
        return None
    return ANYTHING if ids == _ANY else Hint(frozenset(ids.split()))
