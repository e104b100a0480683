"""What the provider says of its rate limits with every answer.

Source: Messages API documentation, "Rate limits", response headers. All of them are optional: local servers and
many gateways send none. `…-reset` (when a bucket will be full again) follows from limit and remaining: not read.
"""

from collections.abc import Mapping

from app.domain.record import record

_DIGITS_LIMIT = 15
KINDS = ("requests", "input_tokens", "output_tokens", "tokens")
"""The buckets, in the order of `Rates.values`; `tokens` is the most restrictive of those in force."""
_NAMES = tuple(
    f"anthropic-ratelimit-{kind.replace('_', '-')}-{what}".encode()
    for kind in KINDS
    for what in ("limit", "remaining")
)
_NONE = [-1] * len(_NAMES)


@record(frozen=True, slots=True)
class Rates:
    """Limit a minute and what remains of it, for each of `KINDS` in turn; -1 where it was not said."""

    values: tuple[int, ...]


def read_rates(head: Mapping[bytes, bytes]) -> Rates | None:
    """The rate limits among an answer's headers, by lower-case name; None when there are none."""
    found = [-1] * len(_NAMES)
    for place, name in enumerate(_NAMES):
        value = head.get(name, b"")
        if value.isdigit() and len(value) <= _DIGITS_LIMIT:
            found[place] = int(value)
    return None if found == _NONE else Rates(tuple(found))
