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
    course = crowd(
        1, Limits(), waves, down=(0.001, TEN_MINUTES_S), answer="overloaded", look_s=60.0
    )
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
        answer="overloaded",
        look_s=60.0,
        retry_budget_tokens=10,
    )
    assert course.statuses == {"succeeded": 8}
    during = [status for at_s, status, _ in course.sent if at_s < TEN_MINUTES_S]
    assert set(during) == {529}
    assert len(during) <= 8 + 2 + TEN_MINUTES_S / 30
    assert course.cost_usd == pytest.approx(course.billed_usd, abs=1e-12)


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("waves", "known_s"),
    [([Wave(100)], 10.0), ([Wave(1, at_s=6.0 * number) for number in range(100)], 60.0)],
    ids=["at once", "one by one"],
)
def test_ten_minutes_of_answers_that_are_billed_and_lost(waves: list[Wave], known_s: float) -> None:
    """Once it is known, all calls are at most 1.1 times the tasks' own; whatever was billed is accounted for at any time.

    Lost answers are money: the few tasks that met so many fail, and wait for no end that might cost them more.
    """
    course = crowd(1, Limits(), waves, down=(0.001, TEN_MINUTES_S), answer="lost", look_s=60.0)
    during = [at_s for at_s, _, _ in course.sent if at_s < TEN_MINUTES_S]
    after = [at_s for at_s, _, _ in course.sent if at_s >= TEN_MINUTES_S]
    assert len(during) <= 0.35 * 100, "what was on its way, its retries, then probes"
    probes = [at_s for at_s in during if at_s >= known_s]
    assert len(probes) + len(after) <= 1.1 * 100
    assert len(probes) <= 0.1 * 100 + known_s / 6
    assert course.statuses["succeeded"] >= 90
    assert course.statuses.total() == 100
    assert len(after) == course.statuses["succeeded"], "nobody is asked twice once it answers"
    assert after[0] - TEN_MINUTES_S < 65, "a probe a minute finds out"
    assert course.most_within(1.0, TEN_MINUTES_S) <= 50, "twofold with each answer, not all at once"
    assert len(course.books) > 100
    assert [books for books in course.books if not books.hold] == []
    assert course.books[-1].reserved_nano == 0
    assert course.billed_usd < course.cost_usd


@pytest.mark.timeout(300)
def test_lost_answers_spend_a_budget_and_no_more() -> None:
    """Each is booked at its whole reservation: the limit stops the calls, is not passed, and newcomers are told so."""
    course = crowd(
        1,
        Limits(),
        [Wave(100)],
        down=(0.001, TEN_MINUTES_S),
        answer="lost",
        look_s=60.0,
        session_budget_usd=0.02,
        task_budget_usd=0.01,
    )
    assert set(course.statuses) == {"failed"}
    assert len(course.sent) < 20
    assert len(course.books) > 100
    assert [books for books in course.books if not books.hold] == []
    last = course.books[-1]
    assert (last.reserved_nano, last.billed_nano) == (0, round(course.billed_usd * 1e9))
    assert 0.99 * last.limit_nano < last.spent_nano <= last.limit_nano
