"""Rate limits: three token buckets a model, refilled continuously (documentation page "Rate limits")."""

import time
from dataclasses import dataclass, field
from functools import lru_cache

from app.domain.clock import US_PER_S
from app.domain.record import record
from app.simulator.errors import ApiError

_MINUTE_US = 60 * US_PER_S


@record(frozen=True, slots=True)
class Limits:
    """What each model takes a minute; the defaults never bother anybody."""

    requests: int = 1_000_000
    input_tokens: int = 10_000_000_000
    """Uncached input and cache writes; cache reads are free."""
    output_tokens: int = 1_000_000_000


@dataclass(slots=True)
class Bucket:
    """A bucket of `size`, full again a minute after it was empty. May be overdrawn."""

    size: int
    level: float
    filled_at_us: int

    def refill(self, now_us: int) -> None:
        """Bring the level up to date. A clock that was set back takes nothing away."""
        gained = self.size * max(now_us - self.filled_at_us, 0) / _MINUTE_US
        self.level = min(self.size, self.level + gained)
        self.filled_at_us = now_us

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` is there."""
        return max(0.0, (min(amount, self.size) - self.level) / self.size * 60)

    def full_at_s(self) -> int:
        """When it is full again, in whole seconds since the epoch."""
        missing_us = (self.size - self.level) / self.size * _MINUTE_US
        return int((self.filled_at_us + missing_us) // US_PER_S) + 1


@lru_cache(maxsize=64)
def _instant(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(second))


@dataclass(slots=True)
class Pool:
    """One model's buckets."""

    requests: Bucket
    input: Bucket
    output: Bucket

    def buckets(self) -> tuple[Bucket, Bucket, Bucket]:
        return self.requests, self.input, self.output

    def headers(self) -> dict[str, str]:
        """The `anthropic-ratelimit-*` headers; token counts to the nearest thousand."""
        both = self.input.size + self.output.size
        left = self.input.level + self.output.level
        latest = max(self.input.full_at_s(), self.output.full_at_s())
        return {
            **_three(
                "requests", self.requests.size, int(self.requests.level), self.requests.full_at_s()
            ),
            **_three("tokens", both, _thousands(left), latest),
            **_three(
                "input-tokens",
                self.input.size,
                _thousands(self.input.level),
                self.input.full_at_s(),
            ),
            **_three(
                "output-tokens",
                self.output.size,
                _thousands(self.output.level),
                self.output.full_at_s(),
            ),
        }


def _thousands(level: float) -> int:
    return max(0, round(level / 1_000) * 1_000)


def _three(name: str, limit: int, remaining: int, reset_s: int) -> dict[str, str]:
    prefix = f"anthropic-ratelimit-{name}-"
    return {
        f"{prefix}limit": str(limit),
        f"{prefix}remaining": str(max(0, remaining)),
        f"{prefix}reset": _instant(reset_s),
    }


@dataclass(slots=True)
class RateLimits:
    """All pools, by model."""

    limits: Limits
    pools: dict[str, Pool] = field(default_factory=dict)

    def pool(self, model: str, now_us: int) -> Pool:
        """The model's pool, up to date."""
        pool = self.pools.get(model)
        if pool is None:
            wanted = (self.limits.requests, self.limits.input_tokens, self.limits.output_tokens)
            pool = Pool(*(Bucket(size, size, now_us) for size in wanted))
            self.pools[model] = pool
        for bucket in pool.buckets():
            bucket.refill(now_us)
        return pool

    def take(self, model: str, input_tokens: int, now_us: int) -> Pool:
        """Take one request and its input; output is charged later, with `Pool.output`.

        Raises:
            ApiError: 429 with `retry-after`, a bucket is empty.
        """
        pool = self.pool(model, now_us)
        waits = (
            ("requests", pool.requests.wait_s(1)),
            ("input tokens", pool.input.wait_s(input_tokens)),
            ("output tokens", pool.output.wait_s(1)),
        )
        name, wait_s = max(waits, key=lambda wait: wait[1])
        if wait_s > 0:
            raise ApiError(
                429,
                "rate_limit_error",
                f"This request would exceed the rate limit of {name} per minute (model: {model}).",
                headers={
                    **pool.headers(),
                    "retry-after": str(int(wait_s) + 1),
                    "x-should-retry": "true",
                },
            )
        pool.requests.level -= 1
        pool.input.level -= input_tokens
        return pool
