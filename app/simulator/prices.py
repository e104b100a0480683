"""The simulator's own price table, so that its bill can convict a client's arithmetic.

Published prices of November 2026 (pricing page), in integer nano-dollars (1e-9 USD) per million tokens.
"""

from dataclasses import fields
from decimal import Decimal

from app.domain.money import NANO_PER_USD
from app.domain.record import record

MTOK = 1_000_000
LONG_PROMPT = 100_000
"""Above this many prompt tokens Haiku 5.5 bills every token of the request at its long row."""
_FAST = 2
_BATCH_DIVISOR = 2
"""A batch costs half."""
_US_NUMERATOR, _US_DENOMINATOR = 11, 10


@record(frozen=True, slots=True)
class Meters:
    """What one generation used, in tokens; `thinking` is a part of `output`."""

    input: int = 0
    output: int = 0
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0
    thinking: int = 0

    @property
    def prompt(self) -> int:
        """Size of the prompt, in tokens."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


def total(one: Meters, other: Meters) -> Meters:
    """Both together."""
    return Meters(
        **{
            meter.name: getattr(one, meter.name) + getattr(other, meter.name)
            for meter in fields(Meters)
        }
    )


@record(frozen=True, slots=True)
class Price:
    """One row, nano-dollars per million tokens."""

    input: int
    write_5m: int
    write_1h: int
    read: int
    output: int

    def times_mtok(self, meters: Meters) -> int:
        """The price of `meters`, in nano-dollars times one million."""
        return (
            meters.input * self.input
            + meters.cache_write_5m * self.write_5m
            + meters.cache_write_1h * self.write_1h
            + meters.cache_read * self.read
            + meters.output * self.output
        )


def _row(usd_per_mtok: str) -> Price:
    return Price(*(int(Decimal(usd) * NANO_PER_USD) for usd in usd_per_mtok.split()))


_OPUS_BEFORE_55 = _row("5 6.25 10 0.50 25")
_SONNET_4 = _row("3 3.75 6 0.30 15")
#                            input  5m-write 1h-write read output, USD per million tokens
PRICES: dict[str, Price] = {
    "claude-fable-5-2": _row("8 10 16 0.20 40"),
    "claude-mythos-5-2": _row("8 10 16 0.20 40"),
    "claude-fable-5-1": _row("10 12.50 20 0.25 50"),
    "claude-mythos-5-1": _row("10 12.50 20 0.25 50"),
    "claude-fable-5": _row("10 12.50 20 1.00 50"),
    "claude-mythos-5": _row("10 12.50 20 1.00 50"),
    "claude-opus-5-5": _row("4 5 8 0.20 20"),
    "claude-opus-5": _OPUS_BEFORE_55,
    "claude-opus-4-8": _OPUS_BEFORE_55,
    "claude-opus-4-7": _OPUS_BEFORE_55,
    "claude-opus-4-6": _OPUS_BEFORE_55,
    "claude-opus-4-5-20251101": _OPUS_BEFORE_55,
    "claude-sonnet-5-5": _row("2 2.50 4 0.10 10"),
    "claude-sonnet-5": _row("2 2.50 4 0.20 10"),
    "claude-sonnet-4-6": _SONNET_4,
    "claude-sonnet-4-5-20250929": _SONNET_4,
    "claude-haiku-5-5": _row("0.10 0.125 0.20 0.01 0.50"),
    "claude-haiku-4-5-20251001": _row("1 1.25 2 0.10 5"),
}
LONG_PRICES: dict[str, Price] = {"claude-haiku-5-5": _row("0.50 0.625 1.00 0.05 2.50")}


def charge_nano(model: str, *passes: Meters, fast: bool, us_only: bool, batch: bool = False) -> int:
    """The charge for one generation in nano-dollars, rounded up once; `model` as the response names it."""
    scaled = 0
    for meters in passes:
        row = PRICES[model]
        if meters.prompt > LONG_PROMPT:
            row = LONG_PRICES.get(model, row)
        scaled += row.times_mtok(meters) * (_FAST if fast else 1)
    denominator = MTOK * (_BATCH_DIVISOR if batch else 1)
    if us_only:
        scaled, denominator = scaled * _US_NUMERATOR, denominator * _US_DENOMINATOR
    return -(-scaled // denominator)
