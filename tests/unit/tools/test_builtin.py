"""The other built-in tools: the time, and counts of a text."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.clock import SystemClock
from app.tools.builtin import builtin_tools
from app.tools.builtin.text_stats import text_stats
from tests.unit.tools.conftest import RegistryOf
from tests.unit.tools.support import SteppingClock, answer

SUMMER_US = 1_782_864_000_000_000  # 2026-07-01T00:00:00Z, a Wednesday


def test_what_there_is() -> None:
    """Four tools, all repeatable, all the service's own."""
    tools = builtin_tools(SystemClock())
    assert [tool.name for tool in tools] == [
        "calculator",
        "current_time",
        "text_stats",
        "read_result",
    ]
    assert all(tool.idempotent and tool.source == "bursar" for tool in tools)


@pytest.mark.parametrize(
    ("arguments", "time", "weekday"),
    [
        ({}, "2026-07-01T00:00:00+00:00", "Wednesday"),
        ({"timezone": "UTC"}, "2026-07-01T00:00:00+00:00", "Wednesday"),
        ({"timezone": "Europe/Paris"}, "2026-07-01T02:00:00+02:00", "Wednesday"),
        ({"timezone": "America/New_York"}, "2026-06-30T20:00:00-04:00", "Tuesday"),
        ({"timezone": "Asia/Kathmandu"}, "2026-07-01T05:45:00+05:45", "Wednesday"),
    ],
    ids=str,
)
async def test_current_time(
    registry_of: RegistryOf, arguments: dict[str, Any], time: str, weekday: str
) -> None:
    """The clock's instant, in the zone asked for, with offset and weekday."""
    registry = registry_of(*builtin_tools(SteppingClock(SUMMER_US)))
    told = json.loads((await answer(registry, "current_time", arguments)).content)
    assert told == {
        "time": time,
        "weekday": weekday,
        "timezone": arguments.get("timezone", "UTC"),
    }


@pytest.mark.parametrize(
    "name", ["Mars/Base", "America", "", "../../etc/passwd", "/etc/passwd", "a\0b", "\ud800"]
)
async def test_unknown_zone(registry_of: RegistryOf, name: str) -> None:
    """A name that is no zone, or would leave the zone folder, is refused in words."""
    registry = registry_of(*builtin_tools(SystemClock()))
    result = await answer(registry, "current_time", {"timezone": name})
    assert result.outcome == "error"
    assert "unknown timezone" in result.content


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", (0, 0, 0, 0, 0, 0)),
        ("one", (3, 1, 1, 1, 3, 1)),
        ("Hello world. How are you? Fine!", (31, 6, 1, 3, 31, 2)),
        ("Pi is 3.14 or so", (16, 5, 1, 1, 16, 2)),
        ("Wait... what?!", (14, 2, 1, 2, 14, 1)),
        ("a\nb\n\nc", (6, 3, 4, 1, 6, 1)),
        ("你好。再见。", (6, 1, 1, 2, 18, 1)),
        ("naïve 😀", (7, 2, 1, 1, 11, 1)),
        ("... !!! ???", (11, 3, 1, 0, 11, 1)),
        ("word " * 400, (2_000, 400, 1, 1, 2_000, 120)),
    ],
    ids=lambda value: str(value)[:20],
)
def test_text_stats(text: str, expected: tuple[int, ...]) -> None:
    """Characters, words, lines, sentences, bytes, seconds to read."""
    assert tuple(text_stats(text).values()) == expected


@given(st.text("ab .!?\n。é", max_size=200))
def test_text_stats_hold_together(text: str) -> None:
    """Counts are consistent for any text, and doubling a text doubles what is additive."""
    once = text_stats(text)
    twice = text_stats(f"{text}.\n{text}.\n")
    assert once["sentences"] <= once["characters"]
    assert once["words"] <= once["characters"] <= once["bytes"]
    assert twice["bytes"] == 2 * once["bytes"] + 4
    assert twice["sentences"] == 2 * once["sentences"]


async def test_text_stats_as_a_tool(registry_of: RegistryOf) -> None:
    """The counts arrive as JSON; a text beyond the limit is refused."""
    registry = registry_of(*builtin_tools(SystemClock()))
    result = await answer(registry, "text_stats", {"text": "one two"})
    assert json.loads(result.content)["words"] == 2
    refused = await answer(registry, "text_stats", {"text": "x" * 50_001})
    assert refused.error_type == "invalid_arguments"
