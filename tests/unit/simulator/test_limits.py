"""Rate limits: headers, refusal, refill."""

from app.simulator.core import Simulator
from app.simulator.limits import Limits
from tests.unit.simulator.driving import Driver, asking, read


def _limited(**limits: int) -> Driver:
    driver = Driver()
    driver.simulator = Simulator(driver.clock, limits=Limits(**limits))
    return driver


def test_defaults_bother_nobody(driver: Driver) -> None:
    """Thousands of requests at one instant are fine."""
    assert {driver.plan(asking()).status for _ in range(2_000)} == {200}


def test_headers_tell_what_is_left() -> None:
    """Limits, what remains (tokens by the thousand), and when all of it is back, in RFC 3339."""
    driver = _limited(requests=60, input_tokens=50_000, output_tokens=8_000)
    headers = driver.plan(asking("x" * 20_000)).headers
    prefix = "anthropic-ratelimit-"
    assert headers[f"{prefix}requests-limit"] == "60"
    assert headers[f"{prefix}requests-remaining"] == "59"
    assert headers[f"{prefix}input-tokens-limit"] == "50000"
    assert headers[f"{prefix}input-tokens-remaining"] == "45000"
    assert headers[f"{prefix}output-tokens-remaining"] == "8000"
    assert headers[f"{prefix}tokens-limit"] == "58000"
    assert headers[f"{prefix}tokens-remaining"] == "53000"
    assert headers[f"{prefix}requests-reset"] == "2026-09-21T14:13:22Z"
    assert headers[f"{prefix}input-tokens-reset"] == "2026-09-21T14:13:27Z"


def test_an_empty_bucket_refuses_until_it_refills() -> None:
    """The request too many gets a 429 with a retry-after that is true, and no line on the bill."""
    driver = _limited(requests=2)
    assert [driver.plan(asking()).status for _ in range(2)] == [200, 200]
    refused = driver.plan(asking())
    assert (refused.status, read(refused)["error"]["type"]) == (429, "rate_limit_error")
    assert len(driver.lines) == 2
    driver.clock.advance(29)
    assert driver.plan(asking()).status == 429
    driver.clock.advance(int(refused.headers["retry-after"]) - 29)
    assert driver.plan(asking()).status == 200


def test_models_have_their_own_buckets() -> None:
    """One model's empty bucket is no other model's business."""
    driver = _limited(requests=1)
    models = ("claude-haiku-5-5", "claude-haiku-5-5", "claude-sonnet-5-5")
    assert [driver.plan(asking(model=model)).status for model in models] == [200, 429, 200]


def test_output_is_charged_after_the_fact() -> None:
    """Real output empties the output bucket, max_tokens does not."""
    driver = _limited(output_tokens=100)
    asked = asking('[[sim {"answer_tokens": 300}]]', max_tokens=1_000)
    assert [driver.plan(asked).status for _ in range(2)] == [200, 429]
    driver.clock.advance(180)
    assert driver.plan(asked).status == 200


def test_cache_reads_do_not_count() -> None:
    """Cached input passes an input bucket that is nearly empty."""
    driver = _limited(input_tokens=6_000)
    request = asking("x" * 20_000, cache_control={"type": "ephemeral"})
    assert [driver.plan(request).status for _ in range(3)] == [200, 200, 200]
    assert driver.plan(asking("y" * 20_000)).status == 429
