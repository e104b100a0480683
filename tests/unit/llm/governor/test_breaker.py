"""The breaker: open when the provider is down, one probe at a time, closed by its answer."""

from app.llm.governor.breaker import (
    FIRST_WAIT_S,
    FORGET_S,
    LONGEST_WAIT_S,
    OPENS_AT,
    PROBE_PATIENCE_S,
    Breaker,
    BreakerState,
)


def opened(now_s: float = 0.0) -> Breaker:
    """A breaker that has just opened."""
    breaker = Breaker()
    found = [breaker.failed(now_s, 0.0, probe=False) for _ in range(OPENS_AT)]
    assert found == [False] * (OPENS_AT - 1) + [True]
    return breaker


def test_a_few_failures_do_not_open_it():
    """Every second call fails: that is not an outage as long as the others come through."""
    breaker = Breaker()
    for _ in range(200):
        assert not breaker.failed(0.0, 0.0, probe=False)
        for _ in range(2):
            breaker.succeeded(0.0, probe=False)
    assert breaker.state(0.0) is BreakerState.CLOSED


def test_failures_long_ago_are_forgotten():
    """One failure an hour never adds up to an outage."""
    breaker = Breaker()
    for hour in range(50):
        assert not breaker.failed(hour * (FORGET_S + 1), 0.0, probe=False)


def test_open_it_lets_nobody_through_and_then_exactly_one():
    """Half open, the first call is the probe and everybody else waits for its end."""
    breaker = opened()
    assert breaker.state(0.0) is BreakerState.OPEN
    assert breaker.wait_s(0.0) == FIRST_WAIT_S
    assert breaker.state(FIRST_WAIT_S) is BreakerState.HALF_OPEN
    assert breaker.wait_s(FIRST_WAIT_S) == 0
    assert breaker.leaves(FIRST_WAIT_S)
    assert breaker.wait_s(FIRST_WAIT_S) == PROBE_PATIENCE_S
    assert breaker.wait_s(FIRST_WAIT_S + 10) > 0


def test_the_probes_answer_closes_it():
    """Only the probe's: what an older call brings home says nothing of now."""
    breaker = opened()
    breaker.leaves(FIRST_WAIT_S)
    assert not breaker.succeeded(3.0, probe=False)
    assert breaker.state(3.0) is BreakerState.HALF_OPEN
    assert breaker.succeeded(3.0, probe=True)
    assert breaker.state(3.0) is BreakerState.CLOSED
    assert not breaker.failed(3.0, 0.0, probe=False)


def test_a_failing_probe_doubles_the_wait():
    """Ten minutes of outage cost about a dozen probes."""
    breaker, now_s, probes = opened(), 0.0, 0
    while now_s < 600:
        now_s += breaker.wait_s(now_s)
        assert breaker.leaves(now_s)
        probes += 1
        breaker.failed(now_s, 0.0, probe=True)
        assert breaker.wait_s(now_s) <= LONGEST_WAIT_S
    assert 10 <= probes <= 16


def test_older_calls_that_fail_change_nothing():
    """Sixty calls were in flight when it opened: their failures do not move the next probe."""
    breaker = opened()
    for _ in range(60):
        assert not breaker.failed(1.0, 0.0, probe=False)
    assert breaker.wait_s(1.0) == FIRST_WAIT_S - 1.0


def test_retry_after_is_obeyed():
    """The provider said when it wants to be asked again."""
    breaker = Breaker()
    for _ in range(OPENS_AT):
        breaker.failed(0.0, 30.0, probe=False)
    assert breaker.wait_s(0.0) == 30


def test_a_probe_that_was_given_up_leaves_the_next_one_its_place():
    """A cancelled probe decides nothing, and must not shut the door for ever."""
    breaker = opened()
    breaker.leaves(FIRST_WAIT_S)
    breaker.undecided()
    assert breaker.wait_s(FIRST_WAIT_S) == 0


def test_an_outage_that_nobody_looks_at_is_forgotten():
    """Nobody asked all night: in the morning nobody knows of an outage, and nobody has to be its probe."""
    breaker = opened()
    late_s = FIRST_WAIT_S + FORGET_S + 1
    assert breaker.outage_s(late_s - 2) == late_s - 2
    assert breaker.outage_s(late_s) is None
    assert breaker.state(late_s) is BreakerState.CLOSED
    assert breaker.wait_s(late_s) == 0
    assert not breaker.leaves(late_s)
    assert not breaker.succeeded(late_s, probe=False)
    assert [breaker.failed(late_s, 0.0, probe=False) for _ in range(OPENS_AT)][-1]
    assert breaker.outage_s(late_s) == 0
    assert breaker.opened_count == 2


def test_an_outage_whose_probe_is_out_is_not_forgotten():
    """Its answer may take long, and decides."""
    breaker = opened()
    breaker.leaves(FIRST_WAIT_S)
    assert breaker.outage_s(10 * FORGET_S) == 10 * FORGET_S
