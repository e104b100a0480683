"""GET /models, and the warning about routes to models that end."""

from pathlib import Path
from typing import Any

import pytest

from tests.support.clock import START_US, StillClock
from tests.support.loglines import LineChecker
from tests.support.service import Running, started

DAY_US = 86_400 * 1_000_000
PRICES = """
[models."My-Model"]
input = "1.000000001"
output = 5
cache_read = "0.1"
cache_write_5m = "1.25"
cache_write_1h = "2"
long_context = { above_tokens = 1000, input = "3", output = "9" }
fast = { input = "2", output = "10" }
web_search = "0.02"
"""


async def _models(bursar: Running) -> dict[str, dict[str, Any]]:
    answer = await bursar.client.get("/models")
    assert answer.status_code == 200
    listed: list[dict[str, Any]] = answer.json()["models"]
    names = [entry["model"] for entry in listed]
    assert names == sorted(names, key=str.lower)
    assert len(set(names)) == len(names)
    return {entry["model"]: entry for entry in listed}


def _rates(*usd: float) -> dict[str, float]:
    return dict(
        zip(("input", "output", "cache_read", "cache_write_5m", "cache_write_1h"), usd, strict=True)
    )


async def test_default_routes(bursar: Running) -> None:
    """Each complexity is routed to exactly one model, and every other model says that none is."""
    models = await _models(bursar)
    routed = {name: entry["routed_to"] for name, entry in models.items() if entry["routed_to"]}
    assert routed == {
        "claude-haiku-5-5": ["simple"],
        "claude-sonnet-5-5": ["medium"],
        "claude-opus-5-5": ["complex"],
    }


async def test_published_prices(tmp_path: Path) -> None:
    """A long-context tier, a fast price, an announced end and a day of begin, as published."""
    async with started(tmp_path, clock=StillClock()) as bursar:
        models = await _models(bursar)
    haiku = models["claude-haiku-5-5"]
    source = haiku.pop("price_row")
    assert source.startswith("genai-prices/")
    assert source.endswith(":claude-haiku-5-5")
    assert haiku == {
        "model": "claude-haiku-5-5",
        "status": "current",
        "retires_on": None,
        "routed_to": ["simple"],
        "prices": _rates(0.1, 0.5, 0.01, 0.125, 0.2),
        "long_context": {"above_tokens": 100_000, "prices": _rates(0.5, 2.5, 0.05, 0.625, 1.0)},
        "fast": None,
        "web_search_usd": 0.01,
        "valid_from": None,
        "context_window_tokens": 1_000_000,
        "max_output_tokens": 128_000,
    }
    assert models["claude-opus-5-5"]["fast"] == _rates(8, 40, 0.4, 10, 16)
    assert models["claude-sonnet-4-6"]["valid_from"] == "2026-03-13"
    ends = {name: (models[name]["status"], models[name]["retires_on"]) for name in models}
    assert ends["claude-sonnet-4-5"] == ("deprecated", "2026-11-30")
    assert ends["claude-opus-4-1"] == ("retired", "2026-08-05")
    assert models["claude-sonnet-4-5"]["context_window_tokens"] == 200_000


async def test_the_day_is_the_clocks(tmp_path: Path) -> None:
    """The last day still counts as deprecated; on the next one the list says retired."""
    clock = StillClock(START_US + 8 * DAY_US)
    async with started(tmp_path, clock=clock) as bursar:
        assert (await _models(bursar))["claude-sonnet-4-5"]["status"] == "deprecated"
        clock.move(86_400)
        assert (await _models(bursar))["claude-sonnet-4-5"]["status"] == "retired"


async def test_the_operators_file(tmp_path: Path) -> None:
    """Its models are listed with the file as source, exact to the nano-dollar, and routed to by name."""
    file = tmp_path / "prices.toml"
    file.write_text(PRICES, encoding="utf-8")
    async with started(tmp_path / "data", price_file=file, route_simple="My-Model") as bursar:
        models = await _models(bursar)
        task = await bursar.run(complexity="simple")
    mine = models["My-Model"]
    assert mine == {
        "model": "My-Model",
        "status": "current",
        "retires_on": None,
        "routed_to": ["simple"],
        "prices": _rates(1.000000001, 5, 0.1, 1.25, 2),
        "long_context": {"above_tokens": 1_000, "prices": _rates(3, 9, 3, 3.75, 6)},
        "fast": _rates(2, 10, 2, 2.5, 4),
        "web_search_usd": 0.02,
        "price_row": "override:prices.toml:my-model",
        "valid_from": None,
        "context_window_tokens": 1_000_000,
        "max_output_tokens": 128_000,
    }
    assert models["claude-haiku-5-5"]["routed_to"] == []
    assert task["model"] == "My-Model"


async def test_ledger_lines_name_the_listed_row(bursar: Running) -> None:
    """What a call was priced by is the `price_row` of its model in the list."""
    task = await bursar.run(complexity="complex")
    lines = (await bursar.client.get(task["links"]["ledger"])).json()["lines"]
    listed = (await _models(bursar))[task["model"]]["price_row"]
    assert {line["price_row"] for line in lines} == {listed}


@pytest.mark.parametrize("days_later", [0, 30])
async def test_routes_to_ending_models_are_warned_of(
    tmp_path: Path, log_lines: LineChecker, days_later: int
) -> None:
    """One line at the start for each such route, before the end and after it; none for the others."""
    clock = StillClock(START_US + days_later * DAY_US)
    ending = {"route_medium": "claude-sonnet-4-5", "route_complex": "claude-opus-4-1"}
    async with started(tmp_path, clock=clock, **ending):
        pass
    said = log_lines.entries("model_retiring")
    assert [(line["complexity"], line["model"], line["retires_on"]) for line in said] == [
        ("medium", "claude-sonnet-4-5", "2026-11-30"),
        ("complex", "claude-opus-4-1", "2026-08-05"),
    ]
    assert {line["level"] for line in said} == {"WARNING"}


async def test_no_warning_without_need(tmp_path: Path, log_lines: LineChecker) -> None:
    """31 days before the end, and with the default routes, nothing is said."""
    clock = StillClock(START_US - 23 * DAY_US)
    async with started(tmp_path, clock=clock, route_simple="claude-sonnet-4-5"):
        pass
    assert log_lines.entries("model_retiring") == []
