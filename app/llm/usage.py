"""What a call used: tokens by meter, as the provider reports them. A number we cannot trust is None."""

from collections.abc import Sequence
from typing import Any, Literal

from app.domain.record import record

WriteLifetime = Literal["5m", "1h"]
TOKENS_LIMIT = 1_000_000_000
"""A larger count is a broken report, not a call: no model's window comes near it."""

_TIERS = frozenset({"standard", "priority", "batch"})
_GEOS = frozenset({"global", "us"})
_SPEEDS = frozenset({"standard", "fast"})


@record(frozen=True, slots=True)
class Tokens:
    """Tokens by meter. The prompt's size is the sum of the four input meters."""

    input: int = 0
    """Uncached input only: what stands after the last cache breakpoint."""
    output: int = 0
    """Billed output, thinking included."""
    cache_read: int = 0
    cache_write_5m: int = 0
    cache_write_1h: int = 0

    @property
    def prompt(self) -> int:
        """Size of the prompt, in tokens."""
        return self.input + self.cache_read + self.cache_write_5m + self.cache_write_1h


@record(frozen=True, slots=True)
class Usage:
    """One answer's usage, ready to be priced.

    `parts` has one entry per billed model pass: one for an ordinary answer, one per entry of
    `usage.iterations` (compaction, advisor, fallback), each with the model that ran it.
    """

    parts: tuple[tuple[str, Tokens], ...]
    web_searches: int = 0
    service_tier: str = "standard"
    inference_geo: str = "global"
    speed: str = "standard"


def read_usage(raw: object, model: str, *, unsplit_writes: WriteLifetime = "1h") -> Usage | None:
    """Read a Messages API `usage` object (plain JSON) of an answer by `model`.

    None, never a guess, when the report cannot be trusted: it is missing, `input_tokens` or
    `output_tokens` is missing or null, or any number that is billed is negative, absurd or not an
    integer. Other meters that are absent or null count 0. Source: Messages API documentation.

    Cache writes that `cache_creation` does not split count as `unsplit_writes`: the longest
    lifetime the request asked for. When that is not known, one hour is the bound that cannot undercount.
    """
    try:
        return _read(raw, model, unsplit_writes)
    except _NotTrustedError:
        return None


class _NotTrustedError(ValueError):
    pass


def _read(raw: object, model: str, unsplit: WriteLifetime) -> Usage:
    usage = _object(raw)
    top = _tokens(usage, unsplit)
    iterations = usage.get("iterations")
    if iterations:
        parts = _iteration_parts(iterations, model, top, unsplit)
    elif iterations is None or iterations == []:
        parts = ((model, top),)
    else:
        raise _NotTrustedError
    server_tools = usage.get("server_tool_use")
    return Usage(
        parts=parts,
        web_searches=0
        if server_tools is None
        else _count(_object(server_tools), "web_search_requests"),
        service_tier=_known(usage.get("service_tier"), _TIERS, "standard"),
        inference_geo=_known(usage.get("inference_geo"), _GEOS, "global"),
        speed=_known(usage.get("speed"), _SPEEDS, "standard"),
    )


def _tokens(usage: dict[str, Any], unsplit: WriteLifetime) -> Tokens:
    split = usage.get("cache_creation")
    split = {} if split is None else _object(split)
    write_5m = _count(split, "ephemeral_5m_input_tokens")
    write_1h = _count(split, "ephemeral_1h_input_tokens")
    # What the split leaves unexplained; all of it when there is no split. Never below either report.
    rest = max(_count(usage, "cache_creation_input_tokens") - write_5m - write_1h, 0)
    return Tokens(
        input=_required(usage, "input_tokens"),
        output=_required(usage, "output_tokens"),
        cache_read=_count(usage, "cache_read_input_tokens"),
        cache_write_5m=write_5m + (rest if unsplit == "5m" else 0),
        cache_write_1h=write_1h + (rest if unsplit == "1h" else 0),
    )


def _iteration_parts(
    iterations: object, model: str, top: Tokens, unsplit: WriteLifetime
) -> tuple[tuple[str, Tokens], ...]:
    """One part per billed pass.

    The top level sums the passes of the model that answered and leaves out compaction and advisor
    passes. Passes that explain less than the top level says are an incomplete list: not trusted.
    """
    if not isinstance(iterations, list):
        raise _NotTrustedError
    entries = [_object(entry) for entry in iterations]
    read = [(_model(entry, model), _tokens(entry, unsplit)) for entry in entries]
    explained_prompt = explained_output = 0
    for entry, (_, tokens) in zip(entries, read, strict=True):
        if entry.get("type") not in ("compaction", "advisor_message"):
            explained_prompt += tokens.prompt
            explained_output += tokens.output
    if explained_prompt < top.prompt or explained_output < top.output:
        raise _NotTrustedError
    return tuple(
        part
        for at, part in enumerate(read)
        if not _declined(entries[at], part[1], entries[at + 1 :])
    )


def _declined(
    entry: dict[str, Any], tokens: Tokens, later_entries: Sequence[dict[str, Any]]
) -> bool:
    """A model refused before any output and another answered: the refusal is shown, not billed."""
    return (
        entry.get("type") == "message"
        and tokens.output == 0
        and any(later.get("type") == "fallback_message" for later in later_entries)
    )


def _model(entry: dict[str, Any], default: str) -> str:
    model = entry.get("model")
    if model is None:
        return default
    if not isinstance(model, str) or not model:
        raise _NotTrustedError
    return model


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _NotTrustedError
    return value


def _required(usage: dict[str, Any], key: str) -> int:
    if usage.get(key) is None:
        raise _NotTrustedError
    return _count(usage, key)


def _count(usage: dict[str, Any], key: str) -> int:
    value = usage.get(key)
    if value is None:
        return 0
    # `type`, not `isinstance`: True is an int to Python.
    if type(value) is not int or not 0 <= value <= TOKENS_LIMIT:
        raise _NotTrustedError
    return value


def _known(value: object, known: frozenset[str], default: str) -> str:
    return value if isinstance(value, str) and value in known else default
