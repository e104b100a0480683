"""What to do about a failed attempt, and what it may have cost. Pure decisions; `caller` carries them out.

docs/retries.md has the whole table, and a test that goes through it row by row. In short:

| what came back                                   | again?                | money                       |
|--------------------------------------------------|-----------------------|-----------------------------|
| no connection: the request never left            | yes                   | released                    |
| timeout, cut connection, cut stream, broken body | yes                   | presumed at the reservation |
| an error inside a stream: overloaded, api, timeout, rate limit | yes     | presumed                    |
| an error inside a stream: any other              | no: upstream_failed   | presumed                    |
| 408, 409                                         | yes                   | released                    |
| a spend-cap code in a status                     | no: upstream_spend_cap| released                    |
| the same inside a stream                         | no: upstream_spend_cap| presumed                    |
| any other 429                                    | yes, after retry-after| released                    |
| 500, 529 and other 5xx in the API's own shape    | yes (501: no)         | released                    |
| 5xx of something in between (a proxy's page)     | yes (501: no)         | presumed                    |
| every other status: 400, 401, 402, 403, 404, 413 | no: upstream_rejected | released                    |

`x-should-retry` overrides the status's answer both ways, spend caps excepted. `retry-after` is obeyed where
the task's deadline leaves room; without it the wait is full jitter below an exponential bound. While the budget
of retries is empty (`app.llm.retry_budget`), whoever failed at no cost waits until the upstream answers again.
Sources: Messages API documentation, "Errors" and "Rate limits"; SDK 2.12 `_base_client.py`.
"""

import backoff

from app.domain.record import record
from app.domain.task import Outcome
from app.llm.provider import ModelFailure, Phase

SPEND_CAP_ENDING = "spend_limit_reached"
"""How the codes of the provider's own spend caps end: enforced_…, contract_…"""
_STREAM_TRANSIENT = frozenset(
    {"overloaded_error", "api_error", "timeout_error", "rate_limit_error"}
)
_BASE_WAIT_S = 0.5
_MAX_WAIT_S = 20.0
_LAST_CHANCE_S = 5.0
"""Before the deadline: no wait for the end of an outage reaches beyond it."""


@record(frozen=True, slots=True)
class RetryLimits:
    """How far retries go, for one model call."""

    max_attempts: int = 3
    total_s: float = 120.0
    """Own waits end this long after the first failing attempt began; a `retry-after` is bounded by the deadline alone."""


@record(frozen=True, slots=True)
class Again:
    """Try again after `wait_s`."""

    wait_s: float
    reason: str


@record(frozen=True, slots=True)
class Wait:
    """The upstream fails everybody: look again after `wait_s`, or when it answers. What failed so far counts no more."""

    wait_s: float
    reason: str


@record(frozen=True, slots=True)
class GiveUp:
    """The call has failed; the task ends with `outcome`."""

    outcome: Outcome


Decision = Again | Wait | GiveUp


def decide(
    failure: ModelFailure,
    *,
    attempt: int,
    elapsed_s: float,
    left_s: float,
    limits: RetryLimits,
    outage_s: float | None = None,
) -> Decision:
    """What follows the failure of an attempt.

    Args:
        failure: what came back.
        attempt: how many attempts of this call the upstream has failed, this one included (1, 2, …).
        elapsed_s: seconds since the first of them began.
        left_s: seconds until the task's deadline.
        limits: how far retries go.
        outage_s: how long to wait where the upstream fails everybody; None: it does not, as far as is known.
    """
    permanent = _permanent(failure)
    if permanent is not None:
        return GiveUp(permanent)
    if outage_s is not None and known_unbilled(failure):
        return _sit_out(failure, outage_s, left_s)
    if attempt >= limits.max_attempts:
        return GiveUp(Outcome.UPSTREAM_FAILED)
    if failure.retry_after_s is not None and failure.retry_after_s > 0:
        if failure.retry_after_s >= left_s:
            return GiveUp(Outcome.UPSTREAM_FAILED)
        return Again(failure.retry_after_s, "retry-after")
    wait_s = backoff.full_jitter(min(_BASE_WAIT_S * 2 ** (attempt - 1), _MAX_WAIT_S))
    if elapsed_s + wait_s > min(limits.total_s, elapsed_s + left_s):
        return GiveUp(Outcome.UPSTREAM_FAILED)
    return Again(wait_s, failure.error_type)


def sit_out_s(wait_s: float, left_s: float) -> float | None:
    """The wait, cut so that a last attempt fits before the deadline; None when that is too close."""
    last_s = left_s - _LAST_CHANCE_S
    return min(wait_s, last_s) if last_s > 0 else None


def _sit_out(failure: ModelFailure, outage_s: float, left_s: float) -> Decision:
    asked_s = failure.retry_after_s or 0.0
    wait_s = sit_out_s(max(outage_s, asked_s), left_s)
    if wait_s is None or asked_s >= left_s:
        return GiveUp(Outcome.UPSTREAM_FAILED)
    return Wait(wait_s, "outage")


def may_pass(failure: ModelFailure) -> bool:
    """Whether another attempt might fare better, or another model.

    The provider's word against another attempt at this model says nothing of the others.
    """
    if _permanent(failure) is None:
        return True
    if is_spend_cap(failure) or failure.phase is not Phase.RESPONSE or failure.status is None:
        return False
    return failure.status >= 500 and failure.status != 501


def is_spend_cap(failure: ModelFailure) -> bool:
    """The provider's own spend cap is reached: no wait of ours helps."""
    return failure.error_code is not None and failure.error_code.endswith(SPEND_CAP_ENDING)


def known_unbilled(failure: ModelFailure) -> bool:
    """The request never left, or the provider is known not to bill it: the reservation is released."""
    if failure.phase in {Phase.CONNECT, Phase.UNDONE}:
        return True
    if failure.phase is not Phase.RESPONSE or failure.status is None:
        return False
    return failure.status < 500 or failure.api_shaped


def _permanent(failure: ModelFailure) -> Outcome | None:
    if is_spend_cap(failure):
        return Outcome.UPSTREAM_SPEND_CAP
    if failure.phase is Phase.STREAM:
        return None if failure.error_type in _STREAM_TRANSIENT else Outcome.UPSTREAM_FAILED
    if failure.phase is not Phase.RESPONSE or failure.status is None:
        return None
    if failure.should_retry is not None:
        retry = failure.should_retry
    else:
        retry = failure.status in {408, 409, 429} or (
            failure.status >= 500 and failure.status != 501
        )
    if retry:
        return None
    return Outcome.UPSTREAM_FAILED if failure.status >= 500 else Outcome.UPSTREAM_REJECTED
