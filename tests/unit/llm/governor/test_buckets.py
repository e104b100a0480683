"""The learned token buckets: charged by estimate, put right by answers and by what the provider says."""

from app.llm.governor.buckets import Bucket
from app.llm.rates import Rates, read_rates


def bucket(limit: int = 60, remaining: int = 60, slack: int = 0) -> Bucket:
    """A bucket that was told its limit at second 0."""
    made = Bucket(slack=slack)
    made.told(limit, remaining, 0.0)
    return made


def test_without_a_limit_nobody_waits():
    """Local servers say nothing of limits: then there are none."""
    unknown = Bucket()
    for _ in range(10_000):
        assert unknown.wait_s(1.0, 0.0) == 0
        unknown.take(1.0)


def test_it_is_emptied_and_refilled_all_the_time():
    """Sixty a minute: after sixty the next waits a second, not a minute."""
    full = bucket()
    for _ in range(60):
        assert full.wait_s(1.0, 0.0) == 0
        full.take(1.0)
    assert full.wait_s(1.0, 0.0) == 1.0
    assert full.wait_s(1.0, 0.5) == 0.5
    assert full.wait_s(1.0, 1.0) == 0


def test_an_answer_puts_the_estimate_right():
    """What was charged too much comes back, what was too little is taken."""
    one = bucket(limit=6_000, remaining=6_000)
    one.take(1_000.0)
    one.settle(1_000.0, 200.0)
    assert one.level(0.0) == 5_800
    one.take(100.0)
    one.settle(100.0, 7_000.0)
    assert one.level(0.0) == -1_200
    assert one.wait_s(600.0, 0.0) == 18.0


def test_what_others_take_is_learned_from_what_remains():
    """Another process draws on the same limit: the provider's word pulls our level down."""
    shared = bucket()
    shared.told(60, 5, 0.0)
    assert shared.level(0.0) == 5


def test_calls_on_their_way_are_not_given_twice():
    """A word that is older than calls in flight does not give back what they were charged."""
    busy = bucket()
    for _ in range(50):
        busy.take(1.0)
    busy.told(60, 58, 0.0)
    assert busy.level(0.0) == 10
    for _ in range(50):
        busy.settle(1.0, 1.0)
    busy.told(60, 58, 0.0)
    assert busy.level(0.0) == 58


def test_rounding_takes_nothing_and_gives_nothing():
    """Tokens remaining are told to the nearest thousand: within that our own count stands."""
    tokens = bucket(limit=10_000, remaining=10_000, slack=500)
    tokens.take(400.0)
    tokens.settle(400.0, 400.0)
    tokens.told(10_000, 10_000, 0.0)
    assert tokens.level(0.0) == 9_600
    tokens.told(10_000, 9_000, 0.0)
    assert tokens.level(0.0) == 9_500


def test_more_than_fits_goes_when_the_bucket_is_full():
    """A prompt larger than the whole limit must not wait for ever."""
    small = bucket(limit=100, remaining=100)
    assert small.wait_s(1_000.0, 0.0) == 0
    small.take(1_000.0)
    assert small.wait_s(1.0, 60.0) > 0


def test_a_limit_counted_by_the_second_is_learned():
    """Refused with room left: smaller bursts from then on, larger ones again when that went well."""
    strict = bucket(limit=60, remaining=60)
    strict.overrun()
    assert strict.burst == 30
    for _ in range(10):
        strict.overrun()
    assert strict.burst == 1.0
    assert strict.level(10.0) == 1.0
    for _ in range(10):
        strict.forgive()
    assert strict.burst == 60


def test_a_new_limit_takes_over():
    """The account was moved to another tier: its buckets follow."""
    moved = bucket(limit=60, remaining=10)
    moved.told(600, 590, 0.0)
    assert (moved.limit, moved.level(0.0)) == (600, 590)


def test_headers_are_read():
    """The four buckets by name; what is missing stays unknown."""
    head = {
        b"date": b"today",
        b"anthropic-ratelimit-requests-limit": b"50",
        b"anthropic-ratelimit-requests-remaining": b"49",
        b"anthropic-ratelimit-requests-reset": b"2026-11-22T12:00:00Z",
        b"anthropic-ratelimit-input-tokens-limit": b"30000",
        b"anthropic-ratelimit-input-tokens-remaining": b"29000",
        b"anthropic-ratelimit-tokens-remaining": b"1000",
    }
    assert read_rates(head) == Rates((50, 49, 30_000, 29_000, -1, -1, -1, 1_000))


def test_headers_that_are_none_are_ignored():
    """No header, or nonsense in one, teaches nothing."""
    assert read_rates({b"content-type": b"application/json"}) is None
    for value in (b"-1", b"x", b"9" * 40):
        assert read_rates({b"anthropic-ratelimit-requests-limit": value}) is None
