"""Ten minutes in which the upstream answers nobody, in virtual time: who is asked, what it costs, and how they come back."""

import pytest

from app.simulator.limits import Limits
from tests.simulation.crowd import Wave, crowd

TASKS = 200
TEN_MINUTES_S = 600.0
AT_ONCE = [Wave(TASKS)]
ONE_BY_ONE = [Wave(1, at_s=3.0 * number) for number in range(TASKS)]


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("waves", "alone"), [(AT_ONCE, 0), (ONE_BY_ONE, 2)], ids=["at once", "one by one"]
)
def test_ten_minutes_of_529(waves: list[Wave], alone: int) -> None:
    """The tasks outlast it; all calls together are at most 1.15 times their own; it costs nothing; no stampede.

    Only who comes first, and `alone`, uses up its attempts: nothing is known of an outage by then.
    """
    course = crowd(1, Limits(), waves, down=(0.001, TEN_MINUTES_S), overloaded=True, look_s=60.0)
    assert course.statuses["succeeded"] >= TASKS - alone
    during = [status for at_s, status, _ in course.sent if at_s < TEN_MINUTES_S]
    after = [at_s for at_s, _, _ in course.sent if at_s >= TEN_MINUTES_S]
    assert set(during) == {529}
    assert len(during) <= 0.15 * TASKS, "ten failures and what was on its way, then probes"
    probes = [at_s for at_s, _, _ in course.sent if 10.0 <= at_s < TEN_MINUTES_S]
    assert len(probes) <= 0.1 * TASKS, "at most 1.1 times the tasks' own, once it is known"
    assert len(after) == course.statuses["succeeded"], "nobody is asked twice once it answers"
    assert after[0] - TEN_MINUTES_S < 65, "a probe a minute finds out"
    assert course.most_within(1.0, TEN_MINUTES_S) <= TASKS // 4
    assert course.cost_usd == pytest.approx(course.billed_usd, abs=1e-12)


@pytest.mark.timeout(300)
def test_ten_minutes_of_529_with_nothing_but_the_budget_of_retries() -> None:
    """Where the breaker sees too little, the bucket bounds what retries add: a small one, then one each half minute."""
    course = crowd(
        3,
        Limits(),
        [Wave(1, at_s=70.0 * number) for number in range(8)],
        down=(0.001, TEN_MINUTES_S),
        overloaded=True,
        look_s=60.0,
        retry_budget_tokens=10,
    )
    assert course.statuses == {"succeeded": 8}
    during = [status for at_s, status, _ in course.sent if at_s < TEN_MINUTES_S]
    assert set(during) == {529}
    assert len(during) <= 8 + 2 + TEN_MINUTES_S / 30
    assert course.cost_usd == pytest.approx(course.billed_usd, abs=1e-12)
