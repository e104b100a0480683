"""Prompt caching by its documented rules (documentation page "Prompt caching").

Writes happen only at markers; a marker looks back over 20 blocks, itself the first, for a prefix that some
earlier request wrote; prefixes shorter than the model's minimum are not cached; an entry lives five
minutes or an hour from the start of the request that last touched it.
"""

from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import orjson

from app.domain.clock import US_PER_S
from app.domain.record import record
from app.simulator.errors import JsonObject, require
from app.simulator.models import Model
from app.simulator.prices import Meters
from app.simulator.prompt import Part, parts

MARKER_LIMIT = 4
LOOKBACK_BLOCKS = 20
TTL_S = {"5m": 300, "1h": 3_600}
ENTRY_LIMIT = 50_000
"""Entries kept at most; the expired go first, then the oldest."""
_UNMARKABLE = ("thinking", "redacted_thinking")
_MESSAGE_OPTIONS = ("tool_choice", "thinking", "output_config")
"""Fields whose change invalidates the cached messages."""


@dataclass(slots=True)
class _Entry:
    ttl_us: int
    readable_at_us: int
    expires_at_us: int


@record(frozen=True, slots=True)
class _Prefix:
    key: bytes
    tokens: int
    ttl: str | None


@record(frozen=True, slots=True)
class CachePlan:
    """How a prompt meets the cache: the input meters, and what to write once it is billed."""

    meters: Meters
    writes: tuple[tuple[bytes, str], ...] = ()
    touches: tuple[bytes, ...] = ()


@dataclass(slots=True)
class PromptCache:
    """Every cached prefix, by digest."""

    entries: dict[bytes, _Entry] = field(default_factory=dict)

    def plan(self, request: JsonObject, model: Model, owner: str, now_us: int) -> CachePlan:
        """What of the prompt is read, written and plain. Changes nothing.

        Raises:
            ApiError: 400, the markers break a rule.
        """
        prefixes = _prefixes(request, model, owner)
        marked = [index for index, prefix in enumerate(prefixes) if prefix.ttl is not None]
        _check_markers([prefixes[index].ttl for index in marked])
        hit = max((self._longest_hit(prefixes, index, now_us) for index in marked), default=-1)
        new = [i for i in marked if i > hit and prefixes[i].tokens >= model.cache_minimum]
        touched = {prefixes[i].key for i in [*marked, hit] if 0 <= i <= hit}
        return CachePlan(
            _meters(prefixes, hit, new),
            tuple((prefixes[i].key, prefixes[i].ttl or "5m") for i in new),
            tuple(touched),
        )

    def _longest_hit(self, prefixes: list[_Prefix], marker: int, now_us: int) -> int:
        for index in range(marker, max(-1, marker - LOOKBACK_BLOCKS), -1):
            entry = self.entries.get(prefixes[index].key)
            if entry and entry.readable_at_us <= now_us < entry.expires_at_us:
                return index
        return -1

    def commit(self, plan: CachePlan, now_us: int, readable_at_us: int) -> None:
        """Do what `plan` said: its request was answered. Lives count from `now_us`, its start."""
        for key in plan.touches:
            entry = self.entries.get(key)
            if entry and now_us < entry.expires_at_us:
                entry.expires_at_us = now_us + entry.ttl_us
        for key, ttl in plan.writes:
            ttl_us = TTL_S[ttl] * US_PER_S
            self.entries[key] = _Entry(ttl_us, readable_at_us, now_us + ttl_us)
        if len(self.entries) > ENTRY_LIMIT:
            self._prune(now_us)

    def _prune(self, now_us: int) -> None:
        live = {key: e for key, e in self.entries.items() if now_us < e.expires_at_us}
        self.entries = dict(list(live.items())[-ENTRY_LIMIT // 2 :])


def _prefixes(request: JsonObject, model: Model, owner: str) -> list[_Prefix]:
    running = blake2b(f"{owner}|{model.name}|{request.get('speed')}".encode(), digest_size=16)
    in_messages = False
    tokens = 0
    prefixes = []
    for part in parts(request, model):
        if not in_messages and part.owner not in {"tools", "system"}:
            in_messages = True
            running.update(orjson.dumps([request.get(name) for name in _MESSAGE_OPTIONS]))
        tokens += part.tokens
        running.update(part.owner.encode())
        running.update(orjson.dumps(_bare(part.block)))
        prefixes.append(_Prefix(running.digest(), tokens, _ttl(part)))
    return _with_automatic(prefixes, request)


def _bare(block: JsonObject) -> JsonObject:
    return {name: value for name, value in block.items() if name != "cache_control"}


def _ttl(part: Part) -> str | None:
    marker = part.block.get("cache_control")
    if marker is None:
        return None
    kind = part.block.get("type")
    require(kind not in _UNMARKABLE, f"cache_control cannot be set on `{kind}` blocks")
    return _marker_ttl(marker)


def _marker_ttl(marker: Any) -> str:
    ephemeral = isinstance(marker, dict) and marker.get("type") == "ephemeral"
    require(ephemeral, "cache_control.type: Input should be 'ephemeral'")
    ttl = marker.get("ttl") or "5m"
    require(ttl in ("5m", "1h"), "cache_control.ttl: Input should be '5m' or '1h'")
    return str(ttl)


def _with_automatic(prefixes: list[_Prefix], request: JsonObject) -> list[_Prefix]:
    """Put the top-level marker on the last block that can carry one."""
    marker = request.get("cache_control")
    if marker is None:
        return prefixes
    ttl = _marker_ttl(marker)
    last = len(prefixes) - 1
    content = request["messages"][-1]["content"]
    blocks = [] if isinstance(content, str) else content
    for block in reversed(blocks):
        if block["type"] not in _UNMARKABLE:
            break
        last -= 1
    present = prefixes[last].ttl
    require(present in {None, ttl}, "cache_control: the last block has a marker of another ttl")
    prefixes[last] = _Prefix(prefixes[last].key, prefixes[last].tokens, ttl)
    return prefixes


def _check_markers(ttls: list[str | None]) -> None:
    require(
        len(ttls) <= MARKER_LIMIT,
        f"A maximum of {MARKER_LIMIT} blocks with cache_control may be provided. Found {len(ttls)}.",
    )
    require(
        ttls == sorted(ttls, key=lambda ttl: ttl == "5m"),
        "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block",
    )


def _meters(prefixes: list[_Prefix], hit: int, new: list[int]) -> Meters:
    read = prefixes[hit].tokens if hit >= 0 else 0
    hour = max((prefixes[i].tokens for i in new if prefixes[i].ttl == "1h"), default=read)
    five = max((prefixes[i].tokens for i in new), default=read)
    return Meters(
        input=prefixes[-1].tokens - five,
        cache_read=read,
        cache_write_5m=five - hour,
        cache_write_1h=hour - read,
    )
