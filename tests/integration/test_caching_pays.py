"""Caching by the simulator's own accounting: what it saves, that it never costs much, and that the ledger knows."""

import pytest

from tests.support.cache_workloads import WORKLOADS, Workload, compared, row_of
from tests.support.process import ROOT

DEARER_LIMIT = 1.02
PAGE = ROOT / "docs" / "caching.md"
AT_WORST = (
    Workload("1 task that names tools and calls none, 10k prefix"),
    Workload("4 steps, tools take 6 minutes, 10k prefix", 3, tool_s=360, tool_limit_s=900),
)
"""One of a kind that nobody has seen before, and the bet on it is lost."""


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.name)
async def test_no_workload_gets_dearer(workload: Workload) -> None:
    """And with caching or without, the ledger says what the simulator billed; the page says the same."""
    found = await compared(workload)
    for bill in (found.cached, found.plain):
        assert bill.ledger_nano == bill.nano
    assert found.plain.read_tokens == 0
    assert found.ratio <= DEARER_LIMIT
    if not workload.at_once:  # who comes first of a burst is not always the same
        assert row_of(found) in PAGE.read_text()


async def test_a_long_loop_costs_a_fraction() -> None:
    """Twenty steps over ten thousand tokens of system prompt and tools: at most a fifth."""
    found = await compared(WORKLOADS[0])
    assert WORKLOADS[0].steps == 19
    assert found.ratio <= 0.2


@pytest.mark.parametrize("workload", AT_WORST, ids=lambda workload: workload.name)
async def test_a_lost_bet_is_small(workload: Workload) -> None:
    """A write that nobody reads costs its premium, once."""
    found = await compared(workload)
    assert 1.0 < found.ratio < 1.3
