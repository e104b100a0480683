"""A submission as it stands in its task's row."""

import dataclasses
from typing import Any

import orjson

from app.domain.task import (
    Alternative,
    Bound,
    BudgetPolicy,
    Complexity,
    Routing,
    Signal,
    TaskSpec,
    Urgency,
)

UNREADABLE = (KeyError, TypeError, ValueError)
"""What `spec_of` raises for a text that another version wrote, and this one cannot read."""


def spec_of(text: str) -> TaskSpec:
    """The submission from its JSON; fields this version does not know are ignored."""
    data = {k: v for k, v in orjson.loads(text).items() if k in _SPEC_FIELDS}
    data["complexity"] = Complexity(data["complexity"])
    data["tools"] = tuple(data["tools"])
    data["on_budget"] = BudgetPolicy(data.get("on_budget", BudgetPolicy.FAIL))
    data["bound"] = Bound(data.get("bound", Bound.PROVED))
    data["urgency"] = Urgency(data.get("urgency", Urgency.NORMAL))
    data["fallback"] = tuple(data.get("fallback", ()))
    data["ancestors"] = tuple(data.get("ancestors", ()))
    if data.get("routing") is not None:
        data["routing"] = _routing_of(data["routing"])
    return TaskSpec(**data)


def _routing_of(data: dict[str, Any]) -> Routing:
    return Routing(
        data["score"],
        tuple(Signal(**signal) for signal in data["signals"]),
        tuple(
            Alternative(**{**other, "complexity": Complexity(other["complexity"])})
            for other in data["alternatives"]
        ),
    )


_SPEC_FIELDS = frozenset(field.name for field in dataclasses.fields(TaskSpec))
