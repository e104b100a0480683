"""kill -9 at every commit and every send of a scripted task: the ledger against the upstream's bill."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest
import pytest_asyncio

from tests.acceptance.crashes import Lane, Scenario, at_each, check_history, check_points, lane

pytestmark = pytest.mark.asyncio(loop_scope="module")

_LANES = 2
_TOOLS = ["calculator", "text_stats"]
_ALL_SCOPES = {
    "service_budget_usd": 50,
    "service_monthly_budget_usd": 20,
    "service_daily_budget_usd": 5,
}
_WORK = Scenario(
    {
        "task": 'Work it out. [[sim {"steps": 2, "parallel": 2}]]',
        "complexity": "simple",
        "tools": _TOOLS,
    },
    "answered",
    steps=3,
    settings=_ALL_SCOPES,
)
SCENARIOS = {
    "three steps with two tools each between": _WORK,
    "a refused attempt, then a streamed answer": Scenario(
        {"task": "At length.", "complexity": "simple", "max_tokens": 9_000},
        "answered",
        steps=1,
        faults=({"kind": "rate_limit", "retry_after": 0.01},),
    ),
    "until the budget is spent": Scenario(
        {
            "task": 'On and on. [[sim {"steps": 9, "parallel": 2}]]',
            "complexity": "simple",
            "tools": _TOOLS,
            "budget_usd": 0.0004,
        },
        "budget_exhausted",
        steps=2,
    ),
    "a refusal that two dearer models repeat": Scenario(
        {
            "task": 'Say it. [[sim {"stop": "refusal_mid"}]]',
            "complexity": "simple",
            "escalate": True,
        },
        "refused",
        steps=3,
    ),
    "a second opinion, then the work": Scenario(
        {"task": 'Say it. [[sim {"answer": "medium"}]]', "complexity": "auto"},
        "answered",
        steps=1,
        settings={"auto_classifier": True},
    ),
    "a recovery with a call in flight": replace(_WORK, first="in flight: 2/1"),
}
_CLOSING = Scenario(
    {
        "task": 'On and on. [[sim {"steps": 9, "parallel": 2}]]',
        "complexity": "simple",
        "tools": _TOOLS,
        "max_tokens": 128,
        "budget_usd": 0.00112,
        "on_budget": "finalize",
    },
    "budget_finalized",
    steps=2,
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def lanes(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[list[Lane]]:
    """Fork servers, each with its own upstream."""
    async with AsyncExitStack() as stack:
        opening = (
            stack.enter_async_context(lane(tmp_path_factory.mktemp("lane"))) for _ in range(_LANES)
        )
        yield list(await asyncio.gather(*opening))


async def _points(one: Lane, scenario: Scenario) -> list[str]:
    """Every crash point of the scenario, in order, from a history in which nothing is killed there."""
    history = await one.history(scenario, None)
    check_history(history, scenario)
    check_points(history.lives[-1])
    (task,) = history.books.tasks.values()
    assert task["step_count"] >= scenario.steps
    return history.lives[-1].points


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", SCENARIOS)
async def test_killed_at_every_point(lanes: list[Lane], name: str) -> None:
    """Killed at each commit and send in turn and started again: the task ends once and the books are right."""
    scenario = SCENARIOS[name]
    points = await _points(lanes[0], scenario)
    await at_each(lanes, scenario, points)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("every", [3, pytest.param(1, marks=pytest.mark.long)])
async def test_killed_on_the_way_to_a_closing_turn(lanes: list[Lane], every: int) -> None:
    """Whatever call is lost, what was held back still pays for the closing turn."""
    points = await _points(lanes[0], _CLOSING)
    await at_each(lanes, _CLOSING, points[::every])


@pytest.mark.long
@pytest.mark.timeout(3_600)
async def test_killed_at_every_point_of_every_recovery(lanes: list[Lane]) -> None:
    """Killed at each point, and again at each point of what the next process then does."""
    for first in await _points(lanes[0], _WORK):
        scenario = replace(_WORK, first=first)
        await at_each(lanes, scenario, await _points(lanes[0], scenario))
