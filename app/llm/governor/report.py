"""What the governor knows, for people and monitors. Nothing here decides anything."""

from app.domain.record import record
from app.llm.governor.breaker import BreakerState
from app.llm.governor.buckets import Bucket
from app.llm.governor.governor import Governor


@record(frozen=True, slots=True)
class LimitReport:
    """One learned rate limit."""

    kind: str
    per_minute: int
    remaining: int
    """By our own count, what is in flight taken off."""


@record(frozen=True, slots=True)
class PoolReport:
    """One pool of limits."""

    pool: str
    models: tuple[str, ...]
    """Those that were asked for."""
    breaker: BreakerState
    outage_s: float | None
    """How long the outage has lasted."""
    next_probe_s: float | None
    blocked_s: float
    """What is left of a 429's wait."""
    in_flight: int
    concurrency_limit: int
    waiting: int
    """Calls that wait for their turn, those of parked tasks too."""
    called: int
    """Turns that are held for tasks on their way back."""
    limits: tuple[LimitReport, ...]
    rate_limited_count: int
    waited_count: int
    parked_count: int
    outage_count: int


def report(governor: Governor) -> list[PoolReport]:
    """Every pool that was asked for, by name."""
    now_s, found = governor.now_s(), []
    for road in governor.roads():
        lane = road.lane
        breaker, state = lane.breaker, lane.state(now_s)
        outage_s = breaker.outage_s(now_s)
        found.append(
            PoolReport(
                pool=lane.pool,
                models=tuple(sorted(road.models)),
                breaker=state,
                outage_s=outage_s,
                next_probe_s=None if outage_s is None else breaker.wait_s(now_s),
                blocked_s=max(lane.blocked_until_s - now_s, 0.0),
                in_flight=lane.concurrency.in_flight,
                concurrency_limit=int(lane.concurrency.limit),
                waiting=len(road.line),
                called=len(road.promised),
                limits=_limits(
                    now_s,
                    requests=lane.requests,
                    input_tokens=lane.input,
                    output_tokens=lane.output,
                    tokens=lane.tokens,
                ),
                rate_limited_count=lane.limited_count,
                waited_count=road.waited_count,
                parked_count=road.parked_count,
                outage_count=breaker.opened_count,
            )
        )
    return sorted(found, key=lambda pool: pool.pool)


def _limits(now_s: float, **buckets: Bucket) -> tuple[LimitReport, ...]:
    return tuple(
        LimitReport(kind, bucket.limit, max(int(bucket.level(now_s)), 0))
        for kind, bucket in buckets.items()
        if bucket.limit
    )
