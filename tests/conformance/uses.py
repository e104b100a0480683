"""A use of a named query, and what must come of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Use:
    """One use of a query: how many rows it changes or finds, and some of what is in the first."""

    query: str
    params: dict[str, object]
    count: int
    first: dict[str, object] | None = None


def changes(query: str, count: int, **params: object) -> Use:
    """A use that changes rows."""
    return Use(query, params, count)


def finds(query: str, count: int, first: dict[str, object] | None, **params: object) -> Use:
    """A use that finds rows."""
    return Use(query, params, count, first or {})
