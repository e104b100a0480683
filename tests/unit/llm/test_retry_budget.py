"""The bucket that pays for retries: how it empties, who waits, and how they come back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.llm.retry_budget import BUCKETS_LIMIT, RetryBudget, RetryTerms
from tests.support.clock import FakeClock

MODEL, OTHER = "claude-haiku-5-5", "claude-sonnet-5-5"


def paid(budget: RetryBudget, count: int, *, timed_out: bool = False, model: str = MODEL) -> int:
    """How many of so many retries at once are paid."""
    return sum(budget.pays(model, f"t{n}", timed_out=timed_out) for n in range(count))


@pytest.mark.parametrize(("timed_out", "count"), [(False, 100), (True, 50)])
def test_a_full_bucket_pays_so_many(timed_out: bool, count: int) -> None:
    """500 tokens: a hundred retries, or fifty after timeouts; each model has its own."""
    budget = RetryBudget(FakeClock())
    assert paid(budget, 1_000, timed_out=timed_out) == count
    assert budget.drained(MODEL)
    assert not budget.drained(OTHER)
    assert paid(budget, 1, model=OTHER) == 1


def test_answers_bring_tokens_back() -> None:
    """Five answers pay for one retry."""
    budget = RetryBudget(FakeClock())
    paid(budget, 100)
    for _ in range(4):
        budget.answered(MODEL)
    assert budget.drained(MODEL)
    budget.answered(MODEL)
    assert paid(budget, 9) == 1


def test_a_bucket_does_not_overflow() -> None:
    """However many answers there were, it pays for no more than a full one."""
    clock = FakeClock()
    budget = RetryBudget(clock, RetryTerms(capacity=20))
    for _ in range(1_000):
        budget.answered(MODEL)
    clock.move(1e6)
    assert (budget.tokens(MODEL), paid(budget, 99)) == (20, 4)


def test_time_pays_for_a_probe() -> None:
    """With nobody answered for ten minutes, one retry goes out each half minute."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    paid(budget, 100)
    sent = 0
    for _ in range(600):
        clock.move(1)
        sent += paid(budget, 50)
    assert sent == 20


@given(st.lists(st.booleans(), max_size=3_000))
def test_retries_are_few_where_calls_fail(answers: list[bool]) -> None:
    """Beyond what the bucket held, there is at most one retry for five answers."""
    budget = RetryBudget(FakeClock(), RetryTerms(capacity=50))
    sent = 0
    for number, answered in enumerate(answers):
        if answered:
            budget.answered(MODEL)
        else:
            sent += budget.pays(MODEL, str(number), timed_out=False)
    assert sent <= 10 + sum(answers) / 5


def test_those_who_wait_come_back_twofold() -> None:
    """Each answer calls two, those that lined up first before the others; who is called pays nothing."""
    called: list[str] = []
    budget = RetryBudget(FakeClock(), RetryTerms(capacity=10), called.append)
    paid(budget, 2)
    for number in range(7):
        budget.line_up(MODEL, f"w{number}", 30)
    budget.answered(MODEL)
    assert called == ["w0", "w1"]
    assert budget.pays(MODEL, "w0", timed_out=True)
    assert not budget.pays(MODEL, "w0", timed_out=False), "one call is for one retry"
    assert not budget.pays(MODEL, "w2", timed_out=False)
    budget.answered(MODEL)
    budget.answered(MODEL)
    budget.answered(MODEL)
    assert called == [f"w{number}" for number in range(7)]


def test_who_has_gone_is_not_waited_for() -> None:
    """A task that ended elsewhere takes nobody's place, and no memory."""
    clock, called = FakeClock(), list[str]()
    budget = RetryBudget(clock, RetryTerms(capacity=10), called.append)
    budget.line_up(MODEL, "gone", 30)
    clock.move(31 + 60)
    budget.line_up(MODEL, "here", 30)
    assert budget.waiting(MODEL) == 1
    budget.answered(MODEL)
    assert called == ["here"]
    clock.move(61)
    paid(budget, 9)
    assert not budget.pays(MODEL, "here", timed_out=False), "the call was not taken up in time"


def test_who_leaves_is_not_waited_for() -> None:
    """Nor called: an answer calls two of the others, and a turn that had come is worth nothing any more."""
    called: list[str] = []
    budget = RetryBudget(FakeClock(), RetryTerms(capacity=4), called.append)
    for name in ("a", "b", "c", "d"):
        budget.line_up(MODEL, name, 30.0)
    budget.leave("a")
    assert budget.waiting(MODEL) == 3
    budget.answered(MODEL)
    assert called == ["b", "c"]
    budget.leave("b")
    assert not budget.pays(MODEL, "b", timed_out=False)
    assert budget.pays(MODEL, "c", timed_out=False)


def test_a_crowd_looks_more_seldom() -> None:
    """One task looks again within half a minute; a thousand of them, each within minutes."""
    budget = RetryBudget(FakeClock())
    assert 15 <= budget.pause_s(MODEL) <= 31
    for number in range(1_000):
        budget.line_up(MODEL, str(number), 30)
    assert all(150 <= budget.pause_s(MODEL) <= 300 for _ in range(50))


def test_what_strikes_everybody_is_nobodys_fault() -> None:
    """Three tasks that a model fails, with no answer in between; one that fails thrice is not enough."""
    budget = RetryBudget(FakeClock())
    for task_id in ("a", "a", "a", "b"):
        budget.failed(MODEL, task_id)
    assert not budget.fails_all(MODEL)
    budget.failed(MODEL, "c")
    assert budget.fails_all(MODEL)
    assert not budget.fails_all(OTHER)
    budget.answered(MODEL)
    assert not budget.fails_all(MODEL)


def test_an_outage_lasts_until_an_answer() -> None:
    """From the retry on that left too little for another; tokens that time brings back do not end it."""
    clock = FakeClock()
    budget = RetryBudget(clock, RetryTerms(capacity=10))
    assert budget.outage_s(MODEL) is None
    paid(budget, 2)
    clock.move(45)
    assert budget.outage_s(MODEL) == 45
    assert budget.outage_s(OTHER) is None
    budget.answered(MODEL)
    assert budget.outage_s(MODEL) is None


def test_an_outage_that_nobody_tried_is_over_when_the_bucket_is_full() -> None:
    """After a quiet night nobody knows of an outage any more."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    paid(budget, 200)
    clock.move(600)
    assert budget.outage_s(MODEL) == 600
    clock.move(8 * 3_600)
    assert budget.outage_s(MODEL) is None


def test_it_keeps_only_so_many_full_buckets() -> None:
    """Clients choose the names of models; what was taken from a bucket, and who waits, is not forgotten."""
    clock = FakeClock()
    budget = RetryBudget(clock)
    paid(budget, 200)
    budget.line_up(OTHER, "t", 1e6)
    for number in range(3 * BUCKETS_LIMIT):
        budget.tokens(f"model-{number}")
        clock.move(0.001)
    assert len(budget._buckets) <= BUCKETS_LIMIT
    assert budget.drained(MODEL)
    assert budget.waiting(OTHER) == 1
