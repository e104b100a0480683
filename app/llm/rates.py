"""What the provider says of its rate limits with every answer.

Source: Messages API documentation, "Rate limits", response headers. All of them are optional: local servers and
many gateways send none. `…-reset` (when a bucket will be full again) follows from limit and remaining: not read.
"""

from collections.abc import Iterable

from app.domain.record import record

_PREFIX = b"anthropic-ratelimit-"
_PLACES = {
    b"requests-limit": 0,
    b"requests-remaining": 1,
    b"input-tokens-limit": 2,
    b"input-tokens-remaining": 3,
    b"output-tokens-limit": 4,
    b"output-tokens-remaining": 5,
    b"tokens-limit": 6,
    b"tokens-remaining": 7,
}
_DIGITS_LIMIT = 15
KINDS = ("requests", "input_tokens", "output_tokens", "tokens")
"""The buckets, in the order of `Rates.values`; `tokens` is the most restrictive of those in force."""


@record(frozen=True, slots=True)
class Rates:
    """Limit a minute and what remains of it, for each of `KINDS` in turn; -1 where it was not said."""

    values: tuple[int, ...]


def read_rates(raw: Iterable[tuple[bytes, bytes]]) -> Rates | None:
    """The rate limits among an answer's headers; None when there are none. Costs a few microseconds."""
    found: list[int] | None = None
    for name, value in raw:
        lowered = name.lower()
        if not lowered.startswith(_PREFIX):
            continue
        place = _PLACES.get(lowered[20:])
        if place is not None and value.isdigit() and len(value) <= _DIGITS_LIMIT:
            if found is None:
                found = [-1] * 8
            found[place] = int(value)
    return None if found is None else Rates(tuple(found))
