"""What tokens cost: dated price rows from genai-prices and the operator's file, exact arithmetic.

Rates are integer nano-dollars per million tokens; a cost is integer nano-dollars, rounded up once.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time
from decimal import ROUND_CEILING, Decimal
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Self

from app.domain.record import record
from app.llm.models import facts_of
from app.llm.price_overrides import METERS, NANO_PER_MTOK_USD, FilePrice, read_price_file
from app.llm.usage import Tokens, Usage

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

WEB_SEARCH_NANO = 10_000_000
"""0.01 USD a search, batch or not. Source: Messages API documentation, pricing."""
TOKENS_PER_RATE = 1_000_000
BATCH_DIVISOR = 2
"""A batch costs half of everything but searches."""
_CACHED_ROWS_LIMIT = 4_096
# The package has no rows for these; their documented prices are those of the Fable beside them.
_PRICED_AS = {"claude-mythos-5": "claude-fable-5", "claude-mythos-5-1": "claude-fable-5-1"}


@record(frozen=True, slots=True)
class Rates:
    """Nano-dollars per million tokens, by meter."""

    input: int
    output: int
    cache_read: int
    cache_write_5m: int
    cache_write_1h: int

    def of(self, tokens: Tokens) -> int:
        """Price of the tokens in nano-dollars times a million: exact, not yet divided."""
        return (
            tokens.input * self.input
            + tokens.output * self.output
            + tokens.cache_read * self.cache_read
            + tokens.cache_write_5m * self.cache_write_5m
            + tokens.cache_write_1h * self.cache_write_1h
        )

    def times(self, factor: int) -> "Rates":
        """Every rate times `factor`."""
        return Rates(**{meter: getattr(self, meter) * factor for meter in METERS})

    def dearest(self, other: "Rates") -> "Rates":
        """Meter by meter the dearer of the two."""
        return Rates(
            **{meter: max(getattr(self, meter), getattr(other, meter)) for meter in METERS}
        )


@record(frozen=True, slots=True)
class PriceRow:
    """One model's prices on a date. `row_id` names where they come from, for the ledger line."""

    model: str
    row_id: str
    """Such as "genai-prices/0.2.3:claude-haiku-5-5" or "override:prices.toml:my-model"."""
    rates: Rates
    long: Rates | None = None
    """For every token of a call whose prompt is larger than `long_above_tokens`, output too."""
    long_above_tokens: int | None = None
    fast: Rates | None = None
    """Fast mode, whatever the prompt's size; None when the source names no price for it."""
    web_search_nano: int = WEB_SEARCH_NANO
    valid_from: date | None = None

    def rates_for(self, prompt_tokens: int, speed: str = "standard") -> Rates:
        """The rates of one model pass.

        Fast mode without a price of its own counts twice the standard one, as all known fast
        prices are: better than taking its tokens for standard ones.
        """
        if speed == "fast" and self.fast is not None:
            return self.fast
        is_long = self.long_above_tokens is not None and prompt_tokens > self.long_above_tokens
        rates = self.long if is_long and self.long is not None else self.rates
        return rates.times(2) if speed == "fast" else rates


@record(frozen=True, slots=True)
class Cost:
    """What a call cost, and by which price row (joined by "+" when several models ran)."""

    nano: int
    price_row: str
    cache_saved_nano: int = 0
    """What the same tokens would have cost without caching, less what they did cost."""


class UnknownModel(Exception):  # noqa: N818  (a finding about the caller's model, not a bug)
    """No price is known for the model, so no budget can hold it."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"There is no price for model {model!r}. Add it to the price file, in USD per million "
            f"tokens, and start again:\n\n[models.{json.dumps(model, ensure_ascii=False)}]\n"
            'input = "1.00"\noutput = "5.00"\ncache_read = "0.10"'
        )
        self.model = model


class PriceBook:
    """All known prices; immutable after `load`, safe to share. The operator's file goes first."""

    def __init__(self, override_rows: Mapping[str, PriceRow], models: "list[ModelInfo]") -> None:
        self._override_rows = dict(override_rows)
        self._models = models
        self._source = f"genai-prices/{version('genai-prices')}"
        self._rows: dict[tuple[str, date], PriceRow] = {}

    @classmethod
    def load(cls, override_path: Path | None = None) -> Self:
        """Read all prices. Call it at start-up: it imports the price data (0.03 to 0.25 s).

        Raises:
            PriceFileError: the override file has mistakes.
        """
        from genai_prices.data import providers  # noqa: PLC0415  (heavy: paid here, not on import)

        prices = read_price_file(override_path) if override_path else {}
        file = override_path.name if override_path else ""
        rows = {model: _override_row(file, model, price) for model, price in prices.items()}
        (anthropic,) = (provider for provider in providers if provider.id == "anthropic")
        return cls(rows, anthropic.models)

    def row(self, model: str, at: date) -> PriceRow:
        """The price row of a model on a date (UTC).

        Raises:
            UnknownModel: no source has a price; the message says how to add one.
        """
        row = self._rows.get((model, at))
        if row is None:
            row = self._find(model, at)
            if len(self._rows) >= _CACHED_ROWS_LIMIT:  # names come from outside: keep it bounded
                self._rows.clear()
            self._rows[model, at] = row
        return row

    def known_models(self) -> tuple[str, ...]:
        """The models with a price, sorted; dated variants of these names have one too."""
        names = {info.id for info in self._models} | self._override_rows.keys() | _PRICED_AS.keys()
        return tuple(sorted(names))

    def rows(self, at: date, also: Iterable[str] = ()) -> list[PriceRow]:
        """The rows of all known models on a date, and of those named in `also`, sorted by name.

        A name in `also` is shown as spelled there. A model without a price on that date is left out.
        """
        names = {name.lower(): name for name in (*self.known_models(), *also)}
        found = []
        for _, name in sorted(names.items()):
            try:
                found.append(self.row(name, at))
            except UnknownModel:
                continue
        return found

    def cost(self, usage: Usage, at: date) -> Cost:
        """Price an answer's usage, each part by the model that ran it.

        The long-context tier follows each part's own prompt. Rounded up to a whole nano-dollar
        once, over everything. Searches are at the price of the model of the last pass: the one
        that answered. Source: Messages API documentation, pricing.

        Raises:
            UnknownModel: a part's model has no price.
        """
        millionths = plain = 0
        row_ids: list[str] = []
        web_search_nano = WEB_SEARCH_NANO
        for model, tokens in usage.parts:
            row = self.row(model, at)
            us_only = usage.inference_geo == "us" and facts_of(model).geo_premium
            rates = row.rates_for(tokens.prompt, usage.speed)
            tenths = 11 if us_only else 10
            millionths += rates.of(tokens) * tenths
            plain += (tokens.prompt * rates.input + tokens.output * rates.output) * tenths
            web_search_nano = row.web_search_nano
            if row.row_id not in row_ids:
                row_ids.append(row.row_id)
        # 10 undoes the geography's tenths; batch halves tokens, not searches.
        divisor = TOKENS_PER_RATE * (20 if usage.service_tier == "batch" else 10)
        nano, plain_nano = -(-millionths // divisor), -(-plain // divisor)
        searches_nano = usage.web_searches * web_search_nano
        return Cost(nano + searches_nano, "+".join(row_ids), plain_nano - nano)

    def _find(self, model: str, at: date) -> PriceRow:
        name = model.lower()
        override = self._override_rows.get(name)
        if override is not None:
            return replace(override, model=model)
        name = _PRICED_AS.get(name, name)
        for info in self._models:
            if info.is_match(name):
                return _package_row(self._source, model, info, at)
        raise UnknownModel(model)


def _override_row(file: str, model: str, price: FilePrice) -> PriceRow:
    search_nano = price.web_search_nano
    return PriceRow(
        model=model,
        row_id=f"override:{file}:{model}",
        rates=_rates(price.meters),
        long=None if price.long_meters is None else _rates(price.long_meters),
        long_above_tokens=price.long_above_tokens,
        fast=None if price.fast_meters is None else _rates(price.fast_meters),
        web_search_nano=WEB_SEARCH_NANO if search_nano is None else search_nano,
    )


def _package_row(source: str, model: str, info: "ModelInfo", at: date) -> PriceRow:
    noon = datetime.combine(at, time(12), UTC)
    standard = info.get_prices(noon)
    if standard.input_mtok is None or standard.output_mtok is None:
        raise UnknownModel(model)
    fast = info.get_prices(noon, {"speed": "fast"})
    starts = _tier_starts(standard)
    searches = standard.web_searches_kcount
    return PriceRow(
        model=model,
        row_id=f"{source}:{info.id}",
        rates=_rates(_meters(standard, long=False)),
        long=_rates(_meters(standard, long=True)) if starts else None,
        long_above_tokens=min(starts, default=None),
        fast=None if fast == standard else _rates(_meters(fast, long=True)),
        web_search_nano=WEB_SEARCH_NANO
        if searches is None
        else _nano(searches, long=True) // 1_000,
        valid_from=_valid_from(info, at),
    )


def _rates(meters: Mapping[str, int]) -> Rates:
    """Rates from meters; a missing cache price is the dearest that is usual.

    Cache reads at the input price, writes at 1.25 (5 minutes) and 2 (1 hour) times it, and never
    a long write below a short one.
    """
    price_in = meters["input"]
    write_5m = meters.get("cache_write_5m", -(-price_in * 5 // 4))
    return Rates(
        input=price_in,
        output=meters["output"],
        cache_read=meters.get("cache_read", price_in),
        cache_write_5m=write_5m,
        cache_write_1h=meters.get("cache_write_1h", max(price_in * 2, write_5m)),
    )


def _meters(prices: "ModelPrice", *, long: bool) -> dict[str, int]:
    named = {
        "input": prices.input_mtok,
        "output": prices.output_mtok,
        "cache_read": prices.cache_read_mtok,
        "cache_write_5m": prices.cache_write_5m_mtok or prices.cache_write_mtok,
        "cache_write_1h": prices.cache_write_1h_mtok,
    }
    return {meter: _nano(price, long=long) for meter, price in named.items() if price is not None}


def _nano(price: "Decimal | TieredPrices", *, long: bool) -> int:
    """USD to nano-dollars, rounded up; of several tiers the dearest, should there ever be more."""
    if not isinstance(price, Decimal):
        price = max([price.base, *(tier.price for tier in price.tiers)]) if long else price.base
    return int((price * NANO_PER_MTOK_USD).to_integral_value(ROUND_CEILING))


def _tier_starts(prices: "ModelPrice") -> list[int]:
    tiered = [price for price in vars(prices).values() if price is not None]
    return [
        tier.start for price in tiered if not isinstance(price, Decimal) for tier in price.tiers
    ]


def _valid_from(info: "ModelInfo", at: date) -> date | None:
    if not isinstance(info.prices, list):
        return None
    starts = (getattr(dated.constraint, "start_date", None) for dated in info.prices)
    return max((start for start in starts if start is not None and start <= at), default=None)
