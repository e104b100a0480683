"""GET /upstream: how fast this process may ask each model, and what it waits for; the same for Prometheus."""

from collections.abc import Iterator
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector
from pydantic import BaseModel, ConfigDict, Field

from app.api import present
from app.api.guarded import GuardedRoute
from app.api.services import services_of
from app.llm.governor.breaker import BreakerState
from app.llm.governor.governor import Governor
from app.llm.governor.report import PoolReport, report

router = APIRouter(route_class=GuardedRoute, tags=["operations"])
_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid")


class LimitOut(_Shape):
    """A rate limit, as learned from the provider's headers."""

    kind: str = Field(
        description="`requests`, `input_tokens` (uncached input and cache writes), `output_tokens`, or `tokens`: both."
    )
    per_minute: int
    remaining: int = Field(description="By this process's count; what is in flight is taken off.")


class PoolOut(_Shape):
    """The models that share one set of limits, as this process sees them."""

    pool: str
    models: list[str] = Field(description="Those it has asked for.")
    breaker: BreakerState = Field(
        description="`open`: the provider is down, nothing is asked; `half_open`: one call finds out."
    )
    outage_s: float | None = Field(description="How long it has been down.")
    next_probe_s: float | None = Field(description="When it is asked again.")
    blocked_s: float = Field(description="How long nothing is asked after a 429.")
    in_flight: int
    concurrency_limit: int = Field(
        description="Calls in flight, at most: raised by answers, lowered by overload."
    )
    waiting: int = Field(description="Calls that wait for their turn, with a worker or without.")
    called: int = Field(description="Turns that are held for tasks on their way back to a worker.")
    limits: list[LimitOut] = Field(
        description="Empty as long as the provider has named none: then there is none."
    )
    rate_limited_count: int = Field(description="429s since the start.")
    waited_count: int = Field(description="Calls that had to wait, since the start.")
    parked_count: int = Field(description="How often a task gave its worker back meanwhile.")
    outage_count: int = Field(description="How often the provider was found to be down.")


class UpstreamOut(_Shape):
    """What this process knows of its provider."""

    pools: list[PoolOut] = Field(description="By name; empty before the first call.")


@router.get("/upstream", response_model=UpstreamOut, summary="Limits, waits and outages by model")
async def get_upstream(request: Request) -> Response:
    """How fast this process may ask each model. Other processes know the same, or something else: ask them, too.

    Nothing here is about a task, a session or a key.
    """
    pools = report(services_of(request).governor)
    return present.json({"pools": [_shown(pool) for pool in pools]})


def _shown(pool: PoolReport) -> dict[str, Any]:
    limits = [
        {"kind": one.kind, "per_minute": one.per_minute, "remaining": one.remaining}
        for one in pool.limits
    ]
    return {
        "pool": pool.pool,
        "models": pool.models,
        "breaker": pool.breaker,
        "outage_s": _seconds(pool.outage_s),
        "next_probe_s": _seconds(pool.next_probe_s),
        "blocked_s": _seconds(pool.blocked_s),
        "in_flight": pool.in_flight,
        "concurrency_limit": pool.concurrency_limit,
        "waiting": pool.waiting,
        "called": pool.called,
        "limits": limits,
        "rate_limited_count": pool.rate_limited_count,
        "waited_count": pool.waited_count,
        "parked_count": pool.parked_count,
        "outage_count": pool.outage_count,
    }


def _seconds(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


class UpstreamCollector(Collector):
    """The same as metrics, read when Prometheus asks. `model` is the pool's name."""

    def __init__(self, governor: Governor) -> None:
        self._governor = governor

    def collect(self) -> Iterator[Metric]:
        """One family after the other."""
        pools = report(self._governor)
        for name, text, field in _GAUGES:
            gauge = GaugeMetricFamily(name, text, labels=["model"])
            for pool in pools:
                gauge.add_metric([pool.pool], float(getattr(pool, field)))
            yield gauge
        breaker = GaugeMetricFamily(
            "bursar_breaker_state", "0 closed, 1 half open, 2 open.", labels=["model"]
        )
        limit = GaugeMetricFamily(
            "bursar_rate_limit", "Learned rate limits, per minute.", labels=["model", "kind"]
        )
        left = GaugeMetricFamily(
            "bursar_rate_limit_remaining", "What is left of them.", labels=["model", "kind"]
        )
        for pool in pools:
            breaker.add_metric([pool.pool], _STATES[pool.breaker])
            for one in pool.limits:
                limit.add_metric([pool.pool, one.kind], one.per_minute)
                left.add_metric([pool.pool, one.kind], one.remaining)
        yield from (breaker, limit, left)
        for name, text, field in _COUNTERS:
            counter = CounterMetricFamily(name, text, labels=["model"])
            for pool in pools:
                counter.add_metric([pool.pool], getattr(pool, field))
            yield counter


_GAUGES = (
    ("bursar_upstream_in_flight", "Model calls in flight.", "in_flight"),
    ("bursar_upstream_concurrency_limit", "Calls in flight, at most.", "concurrency_limit"),
    ("bursar_upstream_waiting", "Calls that wait for their turn.", "waiting"),
    ("bursar_upstream_blocked_seconds", "What is left of a 429's wait.", "blocked_s"),
)
_COUNTERS = (
    ("bursar_upstream_rate_limited", "429s.", "rate_limited_count"),
    ("bursar_upstream_waits", "Calls that had to wait.", "waited_count"),
    ("bursar_upstream_parked", "Waits that gave the worker back.", "parked_count"),
    ("bursar_upstream_outages", "Times the breaker opened.", "outage_count"),
)
