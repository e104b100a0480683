"""GET /models: every model with a price, what it costs, how long it lasts, and which tasks go to it."""

from datetime import UTC, date, datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field

from app.api import present
from app.api.guarded import GuardedRoute
from app.api.services import services_of
from app.domain.clock import US_PER_S
from app.domain.money import usd_from_nano
from app.domain.task import Complexity
from app.llm.catalog import ModelEntry, Status, describe
from app.llm.models import facts_of
from app.llm.price_overrides import METERS
from app.llm.pricing import PriceRow, Rates

router = APIRouter(route_class=GuardedRoute, tags=["models"])


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class RatesOut(_Shape):
    """Prices in USD per million tokens, by meter; exact to the ninth decimal."""

    input: float = Field(description="Uncached input.")
    output: float = Field(description="Output, thinking included.")
    cache_read: float = Field(description="Input read from the cache.")
    cache_write_5m: float = Field(description="Input written to the cache for five minutes.")
    cache_write_1h: float = Field(description="Input written to the cache for an hour.")


class LongContextOut(_Shape):
    """Prices of a long prompt: they hold for every token of the call, output too."""

    above_tokens: int = Field(description="A prompt with more tokens than this, cached or not.")
    prices: RatesOut


class ModelOut(_Shape):
    """A model, and what it costs today."""

    model: str = Field(description="Its name, as a task or a route gives it.")
    status: Status = Field(
        description="`deprecated`: its end is announced; `retired`: that day has passed."
    )
    retires_on: date | None = Field(
        description="Its announced last day, past or to come; unset when none is announced."
    )
    routed_to: list[Complexity] = Field(
        description="Tasks of these complexities go to it unless they name a model."
    )
    prices: RatesOut
    long_context: LongContextOut | None = Field(
        description="Unset when a long prompt costs the same."
    )
    fast: RatesOut | None = Field(
        description="Fast mode, whatever the prompt's size; unset: no price is known, it counts twice."
    )
    web_search_usd: float = Field(description="USD for each web search.")
    price_row: str = Field(
        description="Where the prices come from, as ledger lines name it: the price list with its version, or your file."
    )
    valid_from: date | None = Field(
        description="The day these prices began; unset when the source names none."
    )
    context_window_tokens: int = Field(
        description="Prompt and output together, as the service reckons with it."
    )
    max_output_tokens: int = Field(
        description="The most one answer can have, as the service reckons with it."
    )


class ModelsOut(_Shape):
    """The known models, by name."""

    models: list[ModelOut]


@router.get("/models", response_model=ModelsOut, summary="Models, their prices and their end")
async def list_models(request: Request) -> Response:
    """Every model with a price. Dated variants of these names have theirs; any other model is refused."""
    services = services_of(request)
    today = datetime.fromtimestamp(services.clock.now_us() // US_PER_S, UTC).date()
    entries = describe(services.prices, services.defaults.routes, today)
    return present.json({"models": [_model(entry) for entry in entries]})


def _model(entry: ModelEntry) -> dict[str, Any]:
    row, facts = entry.row, facts_of(entry.model)
    return {
        "model": entry.model,
        "status": entry.status,
        "retires_on": entry.retires_on,
        "routed_to": entry.routed_to,
        "prices": _rates(row.rates),
        "long_context": _long_context(row),
        "fast": None if row.fast is None else _rates(row.fast),
        "web_search_usd": usd_from_nano(row.web_search_nano),
        "price_row": row.row_id,
        "valid_from": row.valid_from,
        "context_window_tokens": facts.context_window_tokens,
        "max_output_tokens": facts.max_output_tokens,
    }


def _long_context(row: PriceRow) -> dict[str, Any] | None:
    if row.long is None:
        return None
    return {"above_tokens": row.long_above_tokens, "prices": _rates(row.long)}


def _rates(rates: Rates) -> dict[str, float]:
    return {meter: usd_from_nano(getattr(rates, meter)) for meter in METERS}
