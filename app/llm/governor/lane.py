"""One model's way out of this process: its learned limits, its calls in flight, its outages.

No waiting in here, and no clock: `hold` says whether a call may leave, `take` lets it leave, a permit's end teaches.
"""

import math
from dataclasses import dataclass
from enum import StrEnum

from app.domain.record import record
from app.llm.governor.breaker import Breaker, BreakerState
from app.llm.governor.buckets import Bucket
from app.llm.governor.concurrency import Concurrency
from app.llm.provider import ModelFailure, Phase
from app.llm.rates import Rates
from app.llm.retry import SPEND_CAP_ENDING
from app.llm.usage import Usage

SLACK_TOKENS = 500
"""Token counts are told to the nearest thousand."""
UNNAMED_WAIT_S = 1.0
"""After a 429 that names no time; doubled with each that follows."""
UNNAMED_LONGEST_S = 30.0
LONGEST_S = 3_600.0
"""No word of the provider's, or of another process, shuts a lane for longer: it may be a mistake, a date say."""
RECOVERY_START = 2
"""Calls in flight when an outage has just ended; doubled with each round of answers."""
SLOW_S = 30.0
"""A timeout that came sooner says more of the task's deadline than of the provider."""
_FIRST_INPUT_SHARE = 0.5
_FIRST_OUTPUT = 500.0
_LEARN = 0.1
_FORGIVE_S = 60.0
_DOWN_IN_STREAM = frozenset({"overloaded_error", "api_error", "timeout_error"})


class Verdict(StrEnum):
    """What a failed attempt says of the provider."""

    ALIVE = "alive"
    LIMITED = "limited"
    DOWN = "down"
    OVERLOADED = "overloaded"
    UNSURE = "unsure"


class Reason(StrEnum):
    """Why a call has to wait; also why its task was given back."""

    RATE_LIMITED = "rate_limited"
    OUTAGE = "upstream_outage"
    BUSY = "upstream_busy"


@record(frozen=True, slots=True)
class Hold:
    """A call may not leave for `wait_s`, or until another has ended."""

    reason: Reason
    wait_s: float | None


@dataclass(slots=True)
class Charge:
    """What a call that leaves was charged, and under which circumstances it left."""

    input: float
    output: float
    prompt: int
    left_s: float
    epoch: int
    probe: bool


@record(frozen=True, slots=True)
class Told:
    """What others should know: nothing leaves for `wait_s`."""

    reason: Reason
    wait_s: float


class Lane:
    """The state of one pool of limits. Models that share their limits share a lane."""

    def __init__(self, pool: str, *, start: int, most: int) -> None:
        self.pool = pool
        self.requests = Bucket()
        self.input = Bucket(slack=SLACK_TOKENS)
        self.output = Bucket(slack=SLACK_TOKENS)
        self.tokens = Bucket(slack=SLACK_TOKENS)
        self.concurrency = Concurrency(start=start, most=most)
        self.breaker = Breaker()
        self.blocked_until_s = -math.inf
        """A 429's `retry-after`: nothing leaves before."""
        self.limited_count = 0
        """429s, and their like inside streams."""
        self.input_share = _FIRST_INPUT_SHARE
        """What of a prompt's upper bound really counts, as learned."""
        self.output_mean = _FIRST_OUTPUT
        self.rates_known = False
        self._unnamed_wait_s = UNNAMED_WAIT_S
        self._limited_s = 0.0

    def hold(self, now_s: float, prompt: int) -> Hold | None:
        """What keeps a call with this prompt from leaving now; None: it may."""
        if self.breaker.opened_s is not None:
            wait_s = self.breaker.wait_s(now_s)
            if wait_s > 0:
                return Hold(Reason.OUTAGE, wait_s)
        if now_s < self.blocked_until_s:
            return Hold(Reason.RATE_LIMITED, self.blocked_until_s - now_s)
        if self.concurrency.in_flight + 1 > self.concurrency.limit:
            return Hold(Reason.BUSY, None)
        if not self.rates_known:
            return None
        wait_s = self._bucket_wait_s(now_s, prompt * self.input_share)
        return Hold(Reason.RATE_LIMITED, wait_s) if wait_s > 0 else None

    def _bucket_wait_s(self, now_s: float, tokens: float) -> float:
        output = self.output_mean
        return max(
            self.requests.wait_s(1.0, now_s),
            self.input.wait_s(tokens, now_s),
            self.output.wait_s(output, now_s),
            self.tokens.wait_s(tokens + output, now_s),
        )

    def pace_s(self, prompt: int) -> float:
        """Seconds between two such calls when the limits are all that counts."""
        tokens = prompt * self.input_share
        costs = (
            (1.0, self.requests.limit),
            (tokens, self.input.limit),
            (self.output_mean, self.output.limit),
            (tokens + self.output_mean, self.tokens.limit),
        )
        return max((60.0 * cost / limit for cost, limit in costs if limit), default=0.0)

    def take(self, now_s: float, prompt: int) -> Charge:
        """A call leaves; `hold` was None."""
        tokens, output = prompt * self.input_share, self.output_mean
        probe = self.breaker.leaves(now_s)
        epoch = self.concurrency.enter(now_s)
        self.requests.take(1.0)
        self.input.take(tokens)
        self.output.take(output)
        self.tokens.take(tokens + output)
        return Charge(tokens, output, prompt, now_s, epoch, probe)

    def unused(self, charge: Charge, now_s: float) -> None:
        """It did not leave after all."""
        if charge.probe:
            self.breaker.undecided()
        self._end(charge, now_s, 0.0, 0.0, 0.0)

    def given_up(self, charge: Charge, now_s: float) -> None:
        """It left, and nobody waits for its answer any more."""
        if charge.probe:
            self.breaker.undecided()
        self._end(charge, now_s, 1.0, charge.input, charge.output)

    def answered(
        self, charge: Charge, now_s: float, usage: Usage | None, rates: Rates | None
    ) -> None:
        """It came through."""
        self.concurrency.answered(now_s)
        if self.breaker.succeeded(now_s, probe=charge.probe):
            self.concurrency.restart(RECOVERY_START, now_s)
        self._unnamed_wait_s = UNNAMED_WAIT_S
        tokens, output = charge.input, charge.output
        if usage is not None:
            tokens, output = _counted(usage)
            if charge.prompt:
                share = min(tokens / charge.prompt, 1.0)
                self.input_share += _LEARN * (share - self.input_share)
            self.output_mean += _LEARN * (output - self.output_mean)
        self._end(charge, now_s, 1.0, tokens, output)
        if rates is not None:
            self._told(rates, now_s)
            if self._limited_s and now_s - self._limited_s > _FORGIVE_S:
                self._limited_s = now_s
                self.requests.forgive()

    def failed(
        self, charge: Charge, now_s: float, failure: ModelFailure, rates: Rates | None
    ) -> Told | None:
        """It failed; returns what other processes should hear of."""
        verdict = verdict_of(failure, now_s - charge.left_s)
        told = None
        match verdict:
            case Verdict.LIMITED:
                told = self._limited(charge, now_s, failure, rates)
            case Verdict.DOWN | Verdict.OVERLOADED:
                told = self._down(charge, now_s, failure, overloaded=verdict is Verdict.OVERLOADED)
            case Verdict.ALIVE:
                self._is_up(charge, now_s)
            case Verdict.UNSURE:
                if charge.probe:
                    self.breaker.undecided()
        free = verdict is Verdict.LIMITED or failure.phase is Phase.CONNECT
        tokens, output = (0.0, 0.0) if free else (charge.input, 0.0)
        self._end(charge, now_s, 0.0 if free else 1.0, tokens, output)
        if rates is not None:
            self._told(rates, now_s)
            if verdict is Verdict.LIMITED and failure.retry_after_s is not None:
                self._emptied(charge, rates, min(failure.retry_after_s, LONGEST_S), now_s)
        return told

    def block(self, now_s: float, wait_s: float) -> None:
        """Nothing leaves for so long."""
        self.blocked_until_s = max(self.blocked_until_s, now_s + min(wait_s, LONGEST_S))

    def heard(self, told: Told, now_s: float) -> None:
        """Another process has learned this."""
        if told.reason is Reason.OUTAGE:
            self.breaker.open(now_s, min(told.wait_s, LONGEST_S))
        else:
            self.block(now_s, told.wait_s)

    def state(self, now_s: float) -> BreakerState:
        """How the breaker stands."""
        return self.breaker.state(now_s)

    def _limited(
        self, charge: Charge, now_s: float, failure: ModelFailure, rates: Rates | None
    ) -> Told | None:
        self.limited_count += 1
        self._is_up(charge, now_s)
        wait_s = failure.retry_after_s
        if wait_s is None:
            wait_s = self._unnamed_wait_s
            self._unnamed_wait_s = min(wait_s * 2, UNNAMED_LONGEST_S)
        blocked = self.blocked_until_s
        self.block(now_s, wait_s)
        sharp = failure.error_code == "ramp_limit_exceeded"
        if sharp or rates is None:
            self.concurrency.overloaded(charge.epoch)
        elif now_s - self._limited_s > 1.0 and _has_room(rates, charge):
            self.requests.overrun()
        self._limited_s = now_s
        news = self.blocked_until_s > blocked + 1.0 and wait_s >= 1.0
        return Told(Reason.RATE_LIMITED, min(wait_s, LONGEST_S)) if news else None

    def _down(
        self, charge: Charge, now_s: float, failure: ModelFailure, *, overloaded: bool
    ) -> Told | None:
        if overloaded:
            self.concurrency.overloaded(charge.epoch)
        retry_after_s = min(failure.retry_after_s or 0.0, LONGEST_S)
        if self.breaker.failed(now_s, retry_after_s, probe=charge.probe):
            return Told(Reason.OUTAGE, self.breaker.until_s - now_s)
        return None

    def _is_up(self, charge: Charge, now_s: float) -> None:
        if self.breaker.succeeded(now_s, probe=charge.probe):
            self.concurrency.restart(RECOVERY_START, now_s)

    def _end(
        self, charge: Charge, now_s: float, requests: float, tokens: float, output: float
    ) -> None:
        self.concurrency.leave(now_s)
        self.requests.settle(1.0, requests)
        self.input.settle(charge.input, tokens)
        self.output.settle(charge.output, output)
        self.tokens.settle(charge.input + charge.output, tokens + output)

    def _emptied(self, charge: Charge, rates: Rates, wait_s: float, now_s: float) -> None:
        """What is told of an overdrawn bucket is that nothing remains; how much is lacking, `retry-after` says."""
        left, tokens, output = rates.values[1::2], charge.input, charge.output
        costs = (1.0, tokens, output, tokens + output)
        buckets = (self.requests, self.input, self.output, self.tokens)
        for bucket, remaining, cost in zip(buckets, left, costs, strict=True):
            if 0 <= remaining <= bucket.slack:
                bucket.emptied(cost, wait_s, now_s)

    def _told(self, rates: Rates, now_s: float) -> None:
        said = rates.values
        self.rates_known = True
        self.requests.told(said[0], said[1], now_s)
        self.input.told(said[2], said[3], now_s)
        self.output.told(said[4], said[5], now_s)
        self.tokens.told(said[6], said[7], now_s)


def verdict_of(failure: ModelFailure, duration_s: float) -> Verdict:
    """What a failed attempt says of the provider."""
    match failure.phase:
        case Phase.RESPONSE:
            return _by_status(failure)
        case Phase.STREAM:
            return _in_stream(failure)
        case Phase.UNDONE:  # of a batch, which has nothing to do with what is governed here
            return Verdict.ALIVE
        case Phase.CONNECT:
            return Verdict.DOWN
        case Phase.LOST:
            soon = failure.error_type == "timeout" and duration_s < SLOW_S
            return Verdict.UNSURE if soon else Verdict.DOWN


def _in_stream(failure: ModelFailure) -> Verdict:
    if _is_spend_cap(failure):
        return Verdict.ALIVE
    if failure.error_type == "rate_limit_error":
        return Verdict.LIMITED
    if failure.error_type == "overloaded_error":
        return Verdict.OVERLOADED
    return Verdict.DOWN if failure.error_type in _DOWN_IN_STREAM else Verdict.ALIVE


def _is_spend_cap(failure: ModelFailure) -> bool:
    return failure.error_code is not None and failure.error_code.endswith(SPEND_CAP_ENDING)


def _has_room(rates: Rates, charge: Charge) -> bool:
    """By its own headers the provider could have taken the call that it refused."""
    requests, tokens, output = rates.values[1], rates.values[3], rates.values[5]
    return requests > 0 and tokens > charge.input + SLACK_TOKENS and output > SLACK_TOKENS


def _by_status(failure: ModelFailure) -> Verdict:
    status = failure.status or 0
    if status == 429:
        return Verdict.ALIVE if _is_spend_cap(failure) else Verdict.LIMITED
    if status == 529 or failure.error_type == "overloaded_error":
        return Verdict.OVERLOADED
    return Verdict.DOWN if status >= 500 and status != 501 else Verdict.ALIVE


def _counted(usage: Usage) -> tuple[float, float]:
    """What counts on the limits: uncached input and cache writes, and output. Source: "Rate limits"."""
    tokens = output = 0
    for _, part in usage.parts:
        tokens += part.input + part.cache_write_5m + part.cache_write_1h
        output += part.output
    return float(tokens), float(output)
