"""Each row of the retry table: what is tried again, what is not, and what it may have cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.domain.task import Outcome
from app.llm.provider import ModelFailure, Phase
from app.llm.retry import Again, Decision, GiveUp, RetryLimits, decide, known_unbilled
from tests.support.provider import in_stream, lost, status, unreachable

LIMITS = RetryLimits(max_attempts=3, total_s=120.0)
RELEASED, PRESUMED = True, False
FAILED = Outcome.UPSTREAM_FAILED
REJECTED = Outcome.UPSTREAM_REJECTED
CAP = Outcome.UPSTREAM_SPEND_CAP


def after(
    failure: ModelFailure, *, attempt: int = 1, elapsed_s: float = 0.0, left_s: float = 600.0
) -> Decision:
    """What follows, early in a call with time left unless told otherwise."""
    return decide(failure, attempt=attempt, elapsed_s=elapsed_s, left_s=left_s, limits=LIMITS)


def page(code: int, **details: object) -> ModelFailure:
    """An error page of something in between."""
    return status(code, f"http_{code}", api_shaped=False, **details)


ROWS = [
    # no connection
    (unreachable(), "again", RELEASED),
    # the request left, no complete answer came
    (lost("timeout"), "again", PRESUMED),
    (lost("answer_lost"), "again", PRESUMED),
    (lost("malformed_answer", status=200), "again", PRESUMED),
    # errors inside a stream
    (in_stream("overloaded_error"), "again", PRESUMED),
    (in_stream("api_error"), "again", PRESUMED),
    (in_stream("timeout_error"), "again", PRESUMED),
    (in_stream("rate_limit_error"), "again", PRESUMED),
    (in_stream("invalid_request_error"), FAILED, PRESUMED),
    (in_stream("something_new"), FAILED, PRESUMED),
    # statuses
    (status(408), "again", RELEASED),
    (status(409, "conflict_error"), "again", RELEASED),
    (status(429, "rate_limit_error"), "again", RELEASED),
    (page(429), "again", RELEASED),
    (
        status(429, "rate_limit_error", error_code="enforced_spend_limit_reached"),
        CAP,
        RELEASED,
    ),
    (
        status(429, "rate_limit_error", error_code="contract_spend_limit_reached"),
        CAP,
        RELEASED,
    ),
    (status(429, "rate_limit_error", error_code="something_else"), "again", RELEASED),
    (status(500), "again", RELEASED),
    (status(502), "again", RELEASED),
    (status(504, "timeout_error"), "again", RELEASED),
    (status(529, "overloaded_error"), "again", RELEASED),
    (status(501), FAILED, RELEASED),
    (page(500), "again", PRESUMED),
    (page(502), "again", PRESUMED),
    (page(503), "again", PRESUMED),
    (page(501), FAILED, PRESUMED),
    *((status(code), REJECTED, RELEASED) for code in (400, 401, 402, 403, 404, 413, 422)),
    (page(413), REJECTED, RELEASED),
    # what the server itself advises
    (status(400, should_retry=True), "again", RELEASED),
    (status(529, should_retry=False), FAILED, RELEASED),
    (status(429, should_retry=False), REJECTED, RELEASED),
    (
        status(429, error_code="enforced_spend_limit_reached", should_retry=True),
        CAP,
        RELEASED,
    ),
]


def name_of(failure: ModelFailure) -> str:
    """What a row is about, in short."""
    shape = "" if failure.api_shaped else "-page"
    advice = "" if failure.should_retry is None else f"-advice-{failure.should_retry}"
    code = f"-{failure.error_code}" if failure.error_code else ""
    return f"{failure.phase}-{failure.status}-{failure.error_type}{shape}{code}{advice}"


IDS = [name_of(failure) for failure, _, _ in ROWS]


@pytest.mark.parametrize(("failure", "expected", "money"), ROWS, ids=IDS)
def test_every_row(failure, expected, money):
    """The first attempt's failure leads to another, or to the outcome; and the money column holds."""
    decision = after(failure)
    if expected == "again":
        assert isinstance(decision, Again)
    else:
        assert decision == GiveUp(expected)
    assert known_unbilled(failure) is money


@pytest.mark.parametrize(("failure", "expected", "_money"), ROWS, ids=IDS)
def test_attempts_are_bounded(failure, expected, _money):
    """After the last attempt every row gives up, the permanent ones with their own outcome."""
    outcome = FAILED if expected == "again" else expected
    for attempt in (3, 4, 100):
        assert after(failure, attempt=attempt) == GiveUp(outcome)


@given(st.integers(1, 9), st.floats(0, 100), st.floats(0, 10_000))
def test_wait_is_full_jitter_below_its_bound(attempt, elapsed_s, left_s):
    """Any wait lies between 0 and half a second doubled each time, 20 s at most, and within the bounds."""
    limits = RetryLimits(max_attempts=10, total_s=60.0)
    decision = decide(
        status(529), attempt=attempt, elapsed_s=elapsed_s, left_s=left_s, limits=limits
    )
    bound = min(0.5 * 2 ** (attempt - 1), 20.0)
    if isinstance(decision, Again):
        assert 0 <= decision.wait_s <= bound
        assert elapsed_s + decision.wait_s <= 60.0
        assert decision.wait_s <= left_s + 1e-6
    else:
        assert elapsed_s + bound > 60.0 or bound > left_s


@pytest.mark.parametrize("attempt", [1, 4, 7, 9])
def test_jitter_fills_its_range(attempt):
    """Waits spread over the whole range: a herd that failed together does not come back together."""
    limits = RetryLimits(max_attempts=10, total_s=1e6)
    bound = min(0.5 * 2 ** (attempt - 1), 20.0)
    waits = []
    for _ in range(400):
        decision = decide(status(500), attempt=attempt, elapsed_s=0, left_s=1e6, limits=limits)
        assert isinstance(decision, Again)
        waits.append(decision.wait_s)
    assert min(waits) < bound * 0.1
    assert max(waits) > bound * 0.9
    assert 0.35 * bound < sum(waits) / len(waits) < 0.65 * bound


def test_own_waits_end_with_the_total():
    """When the total is used up, nothing is tried again, whatever the attempts."""
    assert after(status(529), elapsed_s=120.1) == GiveUp(FAILED)


def test_own_waits_leave_room_for_the_deadline():
    """Nothing is tried after the task's deadline."""
    assert after(status(529), left_s=-1.0) == GiveUp(FAILED)


@pytest.mark.parametrize("wait_s", [0.25, 7.0, 90.0, 599.0])
def test_retry_after_is_obeyed(wait_s):
    """The server's wait is taken as it is, beyond our own total too, as long as the deadline allows."""
    failure = status(429, "rate_limit_error", retry_after_s=wait_s)
    assert after(failure, elapsed_s=100.0) == Again(wait_s, "retry-after")


@pytest.mark.parametrize("wait_s", [600.0, 3_600.0, 1e9])
def test_retry_after_beyond_the_deadline_gives_up(wait_s):
    """A wait that the deadline would interrupt is not begun."""
    assert after(status(429, retry_after_s=wait_s)) == GiveUp(FAILED)


def test_retry_after_of_zero_is_no_invitation_to_hammer():
    """`retry-after: 0` falls back to our own wait."""
    decisions = [after(status(429, retry_after_s=0.0)) for _ in range(20)]
    waits = {d.wait_s for d in decisions if isinstance(d, Again)}
    assert len(waits) > 10


@pytest.mark.parametrize("code", [404, 400])
def test_retry_after_does_not_make_a_permanent_error_pass(code):
    """A permanent error stays one, whatever its headers say about waiting."""
    assert after(status(code, retry_after_s=1.0)) == GiveUp(REJECTED)


def test_reason_of_a_retry_names_the_error():
    """The event of a retry says what it is for."""
    decision = after(status(529, "overloaded_error"))
    assert isinstance(decision, Again)
    assert decision.reason == "overloaded_error"


phases = st.sampled_from(list(Phase))
failures = st.builds(
    ModelFailure,
    st.sampled_from(["api_error", "overloaded_error", "x"]),
    st.just("m"),
    phase=phases,
    status=st.sampled_from([None, 200, 400, 429, 500, 529]),
    api_shaped=st.booleans(),
    retry_after_s=st.none() | st.floats(0, 1e6),
    should_retry=st.none() | st.booleans(),
)


@given(failures)
def test_only_what_is_known_unbilled_is_released(failure):
    """Nothing that left and did not come back is free; an own error page of a proxy is not trusted."""
    free = known_unbilled(failure)
    if failure.phase in {Phase.LOST, Phase.STREAM}:
        assert not free
    if failure.phase is Phase.CONNECT:
        assert free
    if failure.phase is Phase.RESPONSE and (failure.status or 0) >= 500:
        assert free is failure.api_shaped


@given(failures, st.integers(1, 5), st.floats(0, 1e4), st.floats(-10, 1e4))
def test_every_failure_is_decided(failure, attempt, elapsed_s, left_s):
    """Whatever comes back, there is a decision, and no wait is endless or negative."""
    decision = after(failure, attempt=attempt, elapsed_s=elapsed_s, left_s=left_s)
    if isinstance(decision, Again):
        assert 0 <= decision.wait_s <= left_s + 1e-6
        assert attempt < LIMITS.max_attempts
