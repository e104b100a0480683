"""One model's lane: what each kind of answer teaches, and what then keeps a call from leaving."""

import pytest

from app.llm.governor.breaker import OPENS_AT, BreakerState
from app.llm.governor.concurrency import FEWEST
from app.llm.governor.lane import LONGEST_S, Charge, Lane, Reason, Told, Verdict, verdict_of
from app.llm.provider import ModelFailure
from app.llm.rates import Rates
from app.llm.usage import Tokens, Usage
from tests.support.provider import HAIKU, in_stream, lost, status, unreachable

PROMPT = 1_000


def lane(start: int = 64) -> Lane:
    """A lane that knows nothing yet."""
    return Lane("claude-haiku-5-5", start=start, most=1_000)


def rates(requests: int = 60, remaining: int = 60) -> Rates:
    """What the provider says of its requests; there is no want of tokens."""
    return Rates((requests, remaining, *(1_000_000, 1_000_000) * 2, -1, -1))


def used(tokens: int, output: int, **meters: int) -> Usage:
    """A usage report."""
    return Usage(((HAIKU, Tokens(input=tokens, output=output, **meters)),))


def limited(retry_after_s: float | None = 7.0, **details: str) -> ModelFailure:
    """A 429."""
    return status(429, "rate_limit_error", retry_after_s=retry_after_s, **details)


def left(one: Lane, now_s: float = 0.0) -> Charge:
    """A call that has left; nothing may be in its way."""
    assert one.hold(now_s, PROMPT) is None
    return one.take(now_s, PROMPT)


def test_nothing_known_holds_nobody():
    """Without a word of limits only the calls in flight are counted."""
    one = lane(start=3)
    for _ in range(3):
        left(one)
    hold = one.hold(0.0, PROMPT)
    assert hold is not None
    assert (hold.reason, hold.wait_s) == (Reason.BUSY, None)


def test_a_429_holds_all_until_its_retry_after():
    """One call learns it for everybody: nobody else walks into the same limit."""
    one = lane()
    assert one.failed(left(one), 1.0, limited(), None) == Told(Reason.RATE_LIMITED, 7.0)
    hold = one.hold(2.0, PROMPT)
    assert hold is not None
    assert (hold.reason, hold.wait_s) == (Reason.RATE_LIMITED, 6.0)
    assert one.hold(8.0, PROMPT) is None
    assert one.limited_count == 1


def test_a_429_without_a_time_is_waited_out_longer_and_longer():
    """Many gateways name no time: a second, then two, then four; an answer begins anew."""
    one, now_s = lane(), 0.0
    for expected_s in (1.0, 2.0, 4.0, 8.0):
        one.failed(left(one, now_s), now_s, limited(None), None)
        hold = one.hold(now_s, PROMPT)
        assert hold is not None
        assert hold.wait_s == expected_s
        now_s += expected_s
    one.answered(left(one, now_s), now_s, None, None)
    one.failed(left(one, now_s), now_s, limited(None), None)
    hold = one.hold(now_s, PROMPT)
    assert hold is not None
    assert hold.wait_s == 1.0


def test_a_429_without_headers_lowers_the_calls_in_flight():
    """Where no limit is known, fewer calls at once is all that can be done; so it is for sharp growth."""
    blind, sharp = lane(), lane()
    for _ in range(20):
        left(blind)
    blind.failed(left(blind), 0.0, limited(), None)
    assert blind.concurrency.limit == 10.5
    sharp.answered(left(sharp), 0.0, None, rates())
    sharp.failed(left(sharp), 0.0, limited(error_code="ramp_limit_exceeded"), rates())
    assert sharp.concurrency.limit == FEWEST


def test_a_spend_cap_is_no_rate_limit():
    """It is fatal for the run, and waiting would not help the others."""
    one = lane()
    cap = limited(None, error_code="enforced_spend_limit_reached")
    assert one.failed(left(one), 0.0, cap, None) is None
    assert one.hold(0.0, PROMPT) is None


def test_headers_pace_the_calls():
    """Sixty requests a minute, five of them left: the sixth waits for a second."""
    one = lane()
    one.answered(left(one), 0.0, None, rates(60, 5))
    for _ in range(5):
        left(one)
    hold = one.hold(0.0, PROMPT)
    assert hold is not None
    assert (hold.reason, hold.wait_s) == (Reason.RATE_LIMITED, 1.0)


def test_cache_reads_do_not_count_and_estimates_are_learned():
    """Uncached input and cache writes count on the limit; a bound that is far too high is seen through."""
    one = lane()
    for _ in range(200):
        report = used(100, 20, cache_write_5m=100, cache_read=5_000)
        one.answered(left(one), 0.0, report, None)
    assert one.input_share == pytest.approx(0.2, abs=0.01)
    assert one.output_mean == pytest.approx(20, abs=1)


def test_tokens_hold_calls_up_as_well():
    """With tokens used up it does not matter that requests are left."""
    one = lane()
    scarce = Rates((1_000, 1_000, 10_000, 0, 1_000_000, 1_000_000, -1, -1))
    one.answered(left(one), 0.0, used(PROMPT, 10), scarce)
    hold = one.hold(0.0, PROMPT)
    assert hold is not None
    assert hold.reason is Reason.RATE_LIMITED
    assert hold.wait_s is not None
    assert 0 < hold.wait_s < 10


def test_refused_with_room_left_means_shorter_intervals():
    """The headers promise room and the call is refused: sixty a minute may be one a second."""
    one = lane()
    one.answered(left(one), 0.0, None, rates())
    one.failed(left(one, 5.0), 5.0, limited(1.0), rates())
    assert one.requests.burst == 30
    assert one.concurrency.limit == 64


def test_an_outage_opens_the_breaker_and_ends_slowly():
    """Ten failures, one probe, and then not everybody at once."""
    one = lane()
    charges, overloaded = [left(one) for _ in range(40)], status(529, "overloaded_error")
    told = [one.failed(charge, 1.0, overloaded, None) for charge in charges[:OPENS_AT]]
    assert told[-1] == Told(Reason.OUTAGE, 2.0)
    assert told[:-1] == [None] * (OPENS_AT - 1)
    hold = one.hold(1.0, PROMPT)
    assert hold is not None
    assert (hold.reason, hold.wait_s) == (Reason.OUTAGE, 2.0)
    for charge in charges[OPENS_AT:]:
        one.failed(charge, 2.0, status(529, "overloaded_error"), None)
    probe = left(one, 3.0)
    assert one.hold(3.0, PROMPT) is not None
    assert one.state(3.0) is BreakerState.HALF_OPEN
    one.answered(probe, 4.0, None, None)
    assert one.state(4.0) is BreakerState.CLOSED
    for _ in range(2):
        left(one, 4.0)
    assert one.hold(4.0, PROMPT) is not None


def test_a_probe_that_is_refused_shows_that_the_provider_lives():
    """A 400 or a 429 is an answer: the outage is over."""
    for failure in (status(400, "invalid_request_error"), limited()):
        one = lane()
        one.heard(Told(Reason.OUTAGE, 2.0), 0.0)
        one.failed(left(one, 2.0), 3.0, failure, None)
        assert one.state(3.0) is BreakerState.CLOSED


def test_what_others_have_learned_holds_here_too():
    """Hints of other processes: they lapse by themselves."""
    one = lane()
    one.heard(Told(Reason.RATE_LIMITED, 3.0), 0.0)
    assert one.hold(2.9, PROMPT) is not None
    assert one.hold(3.0, PROMPT) is None
    one.heard(Told(Reason.OUTAGE, 3.0), 4.0)
    hold = one.hold(5.0, PROMPT)
    assert hold is not None
    assert hold.reason is Reason.OUTAGE


def test_calls_that_did_not_leave_cost_nothing():
    """No reservation was to be had: request and tokens are given back, and nothing is learned."""
    one = lane()
    one.answered(left(one), 0.0, None, rates(60, 10))
    one.unused(left(one), 0.0)
    assert one.requests.level(0.0) == 10
    assert one.concurrency.in_flight == 0
    one.given_up(left(one), 0.0)
    assert one.requests.level(0.0) == 9
    assert one.concurrency.in_flight == 0


@pytest.mark.parametrize(
    ("failure", "verdict"),
    [
        (unreachable(), Verdict.DOWN),
        (lost("answer_lost"), Verdict.DOWN),
        (lost("timeout"), Verdict.UNSURE),
        (in_stream("overloaded_error"), Verdict.OVERLOADED),
        (in_stream("rate_limit_error"), Verdict.LIMITED),
        (in_stream("api_error"), Verdict.DOWN),
        (in_stream("invalid_request_error"), Verdict.ALIVE),
        (status(529, "overloaded_error"), Verdict.OVERLOADED),
        (status(503), Verdict.DOWN),
        (status(501), Verdict.ALIVE),
        (status(400), Verdict.ALIVE),
        (limited(), Verdict.LIMITED),
    ],
)
def test_each_failure_says_something(failure, verdict):
    """Only what speaks of the provider's health counts; a timeout soon after the start speaks of our deadline."""
    assert verdict_of(failure, 1.0) is verdict


def test_a_long_silence_is_an_outage():
    """No answer for half a minute says something of the provider."""
    assert verdict_of(lost("timeout"), 31.0) is Verdict.DOWN


EPOCH_S = 1_790_000_000.0


@pytest.mark.parametrize("said", [None, rates(60, 0)])
def test_an_absurd_retry_after_shuts_it_for_an_hour_at_most(said: Rates | None) -> None:
    """A gateway that names a date must not shut the model until the process ends."""
    one = lane()
    told = one.failed(left(one), 0.0, limited(EPOCH_S), said)
    assert told == Told(Reason.RATE_LIMITED, LONGEST_S)
    assert one.hold(LONGEST_S - 1, PROMPT) is not None
    assert one.hold(LONGEST_S + 1, PROMPT) is None


@pytest.mark.parametrize("reason", [Reason.RATE_LIMITED, Reason.OUTAGE])
def test_nor_does_what_another_process_says(reason: Reason) -> None:
    """It may have believed it."""
    one = lane()
    one.heard(Told(reason, EPOCH_S), 0.0)
    assert one.hold(LONGEST_S - 1, PROMPT) is not None
    assert one.hold(LONGEST_S + 1, PROMPT) is None


def test_nor_does_an_outage_with_an_absurd_retry_after():
    """The next probe leaves within the hour."""
    one = lane()
    down = status(503, "api_error", retry_after_s=EPOCH_S)
    charges = [left(one) for _ in range(OPENS_AT)]
    told = [one.failed(charge, 0.0, down, None) for charge in charges][-1]
    assert told == Told(Reason.OUTAGE, LONGEST_S)
    one.failed(left(one, LONGEST_S), LONGEST_S, down, None)
    assert one.hold(2 * LONGEST_S - 1, PROMPT) is not None
    assert one.hold(2 * LONGEST_S, PROMPT) is None
