"""The bench says of each of its targets whether it was reached."""

import pytest

from bench.contenders import BASELINE, SERVICE
from bench.crowd import Crowd
from bench.later_calls import BURSAR, CACHING, SDK
from bench.report import crowd_lines, later_lines


@pytest.mark.parametrize(("failed", "verdict"), [(0, "reached"), (1, "MISSED")])
def test_failures_of_the_crowd(failed: int, verdict: str) -> None:
    """One task that fails in any round misses the target; those of others do not count."""
    rounds = [
        Crowd(BASELINE, 5, 30.0, 30.0, 150.0),
        Crowd(SERVICE, 0, 8.0, 8.0, 150.0),
        Crowd(BASELINE, 0, 30.0, 30.0, 150.0),
        Crowd(SERVICE, failed, 8.0, 8.0, 150.0),
    ]
    assert f"  target: 0 failures  {verdict}" in crowd_lines(rounds)


@pytest.mark.parametrize(
    ("plain_ms", "caching_ms", "verdict"),
    [([2.0, 2.0], [3.0, 3.0], "reached"), ([2.0, 2.0], [6.0, 6.1], "MISSED")],
)
def test_a_later_call(plain_ms: list[float], caching_ms: list[float], verdict: str) -> None:
    """With or without markers, a later call is no dearer than the SDK's."""
    lines = later_lines({SDK: [5.0, 5.0], BURSAR: plain_ms, CACHING: caching_ms})
    assert lines[-1] == f"  target: no dearer than the SDK's own  {verdict}"
