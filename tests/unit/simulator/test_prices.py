"""The bill's arithmetic, against computations that share nothing with the code."""

from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal

import genai_prices
import pytest
from genai_prices import Usage

from app.simulator.models import MODELS
from app.simulator.prices import LONG_PRICES, PRICES, Meters, charge_nano
from tests.unit.simulator.driving import Driver

_DAY = datetime(2026, 11, 22, tzinfo=UTC)


def _nano(usd: str) -> int:
    return int((Decimal(usd) * 10**9).to_integral_value(ROUND_CEILING))


def test_every_model_has_a_price() -> None:
    """No model is sold without a price, and none is priced that is not sold."""
    assert set(PRICES) == set(MODELS)
    assert set(LONG_PRICES) <= set(MODELS)


@pytest.mark.parametrize("model", sorted(set(PRICES) - {"claude-mythos-5", "claude-mythos-5-1"}))
@pytest.mark.parametrize("prompt", [900, 150_000])
def test_against_a_public_price_list(model: str, prompt: int) -> None:
    """A charge equals what an independent price list says of the same usage."""
    meters = Meters(input=prompt, output=77, cache_read=1_000, cache_write_5m=2_000)
    usage = Usage(
        input_tokens=meters.prompt,
        output_tokens=77,
        cache_read_tokens=1_000,
        cache_write_tokens=2_000,
    )
    public = genai_prices.calc_price(
        usage, model_ref=model, provider_id="anthropic", genai_request_timestamp=_DAY
    )
    charged = charge_nano(model, meters, fast=False, us_only=False)
    assert charged == _nano(str(public.total_price))


@pytest.mark.parametrize(
    ("meters", "fast", "us_only", "usd"),
    [
        # 3 in, 5 out, 7 read, 11 5m, 13 1h at 4, 20, 0.20, 5, 8 USD per million tokens
        (Meters(3, 5, 7, 11, 13), False, False, "0.0002724"),
        (Meters(3, 5, 7, 11, 13), True, False, "0.0005448"),
        (Meters(3, 5, 7, 11, 13), False, True, "0.00029964"),
        (Meters(3, 5, 7, 11, 13), True, True, "0.00059928"),
    ],
)
def test_multipliers(meters: Meters, fast: bool, us_only: bool, usd: str) -> None:
    """Fast doubles, US-only adds a tenth, and both stack."""
    assert charge_nano("claude-opus-5-5", meters, fast=fast, us_only=us_only) == _nano(usd)


def test_a_line_is_rounded_up_once() -> None:
    """A fraction of a nano-dollar left at the end of a line becomes a whole one."""
    one_read = Meters(cache_read=1)  # 10 nano each, times 1.1 = 11: exact
    assert charge_nano("claude-haiku-5-5", one_read, fast=False, us_only=True) == 11
    one_write = Meters(cache_write_5m=1)  # 125 nano, times 1.1 = 137.5
    assert charge_nano("claude-haiku-5-5", one_write, fast=False, us_only=True) == 138
    three = Meters(cache_write_5m=3)  # 412.5, not 3 x 138
    assert charge_nano("claude-haiku-5-5", three, fast=False, us_only=True) == 413


def test_the_cliff_of_haiku_5_5() -> None:
    """One prompt token above 100,000 makes every token of the request five times as dear."""
    below = Meters(input=60_000, cache_read=0, cache_write_5m=0, output=1_000)
    at = Meters(input=100_000, output=1_000)
    above = Meters(input=100_001, output=1_000)
    read = Meters(input=1, cache_read=100_000, output=1_000)
    charges = [
        charge_nano("claude-haiku-5-5", meters, fast=False, us_only=False)
        for meters in (below, at, above, read)
    ]
    assert charges == [6_500_000, 10_500_000, 52_500_500, 7_500_500]


def test_a_line_prices_the_usage_it_states(driver: Driver) -> None:
    """The bill's amount follows from the usage the answer reported, by hand-written prices."""
    answer = driver.ask("Tell me a story", model="claude-sonnet-5-5")
    usage = answer["usage"]
    (line,) = driver.lines
    assert line["nano"] == usage["input_tokens"] * 2_000 + usage["output_tokens"] * 10_000
    assert line["usd"] == line["nano"] / 1e9
    assert line["usage"]["output_tokens"] == usage["output_tokens"]


def test_geography_and_speed_reach_the_bill(driver: Driver) -> None:
    """Usage names the tier used, and the line is charged at it."""
    plain = driver.ask("Hi", model="claude-opus-5-5")
    dear = driver.ask("Hi", model="claude-opus-5-5", inference_geo="us", speed="fast")
    assert (plain["usage"]["inference_geo"], plain["usage"]["speed"]) == ("global", "standard")
    assert (dear["usage"]["inference_geo"], dear["usage"]["speed"]) == ("us", "fast")
    first, second = driver.lines
    assert second["nano"] * 10 == first["nano"] * 22


def test_speed_that_a_model_ignores_costs_nothing(driver: Driver) -> None:
    """Opus 4.6 takes `fast`, stays standard, and says so."""
    answer = driver.ask("Hi", model="claude-opus-4-6", speed="fast")
    assert answer["usage"]["speed"] == "standard"
    assert driver.ask("Hi", model="claude-opus-4-6")["usage"] == answer["usage"]
    first, second = driver.lines
    assert first["nano"] == second["nano"]
