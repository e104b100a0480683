"""Crowds of tasks against an upstream with limits, and one that comes back, in virtual time."""

import pytest

from app.simulator.limits import Limits
from tests.simulation.crowd import Wave, crowd


@pytest.mark.timeout(300)
def test_limits_are_learned_not_run_against() -> None:
    """Sixty at once and then one a second: two hundred calls take 140 s. Whoever is refused met a limit nobody knew."""
    course = crowd(1, Limits(requests=60), [Wave(200)])
    assert course.statuses == {"succeeded": 200}
    assert course.refused <= 24
    assert 138 <= course.lasted_s <= 147
    assert set(course.requeued) == {"rate_limited"}
    assert course.requeued.total() <= 200


def test_tokens_are_paced_too() -> None:
    """A limit on output, which nobody knows before an answer is there: all succeed, few are refused."""
    course = crowd(1, Limits(output_tokens=2_000), [Wave(100)])
    assert course.statuses == {"succeeded": 100}
    assert course.refused <= 24


def test_a_burst_does_not_keep_a_single_task_waiting() -> None:
    """A hundred tasks of one session wait for the limit; another session's task is among the next calls."""
    course = crowd(2, Limits(requests=60), [Wave(110, "burst"), Wave(1, "single", at_s=10.0)])
    assert course.statuses == {"succeeded": 111}
    (arrived_s,) = [at_s for at_s, _, session in course.sent if session == "single"]
    ahead = [at_s for at_s, _, session in course.sent if 10.0 <= at_s < arrived_s]
    assert len(ahead) <= 4
    assert len([s for at_s, _, s in course.sent if s == "burst" and at_s > arrived_s]) > 30


def test_an_outage_is_left_without_a_stampede() -> None:
    """A minute without any connection, a hundred and twenty tasks: afterwards one asks, then a few, then more; no call is wasted."""
    course = crowd(4, Limits(), [Wave(60), Wave(60, "t", at_s=5.0)], down=(2.0, 62.0))
    assert course.statuses == {"succeeded": 120}
    assert len(course.sent) == 120
    back = [at_s for at_s, _, _ in course.sent if at_s > 62.0]
    assert back[0] < 62.0 + 61.0
    assert back[1] > back[0] + 0.05
    assert sum(at_s < back[0] + 1.0 for at_s in back) <= 40
    assert course.most_within(0.1, back[0]) <= 40
