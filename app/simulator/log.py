"""The latest requests, for whoever asks what a client really sent. Credentials are not kept."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import blake2b
from itertools import islice, takewhile

from app.domain.clock import rfc3339
from app.simulator.errors import JsonObject

KEPT = 1_000
_SECRET = frozenset({"authorization", "x-api-key", "cookie", "proxy-authorization", "api-key"})


@dataclass(slots=True)
class Seen:
    """One request, and what became of it."""

    number: int
    at_us: int
    method: str
    path: str
    headers: dict[str, str]
    key: str | None
    request_id: str
    body_bytes: int
    status: int = 0
    fault: str | None = None
    request: JsonObject = field(default_factory=dict)

    def as_json(self) -> JsonObject:
        return {
            "number": self.number,
            "at": rfc3339(self.at_us),
            "method": self.method,
            "path": self.path,
            "headers": self.headers,
            "key": self.key,
            "request_id": self.request_id,
            "body_bytes": self.body_bytes,
            "status": self.status,
            "fault": self.fault,
            **self.request,
        }


@dataclass(slots=True)
class RequestLog:
    """The last `KEPT` requests."""

    seen: deque[Seen] = field(default_factory=lambda: deque(maxlen=KEPT))

    def latest(self, count: int, after: int = 0) -> list[JsonObject]:
        """The last `count`, newest first, of those numbered above `after`."""
        newer = takewhile(lambda seen: seen.number > after, reversed(self.seen))
        return [seen.as_json() for seen in islice(newer, count)]


def safe_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers without credentials."""
    return {name: value for name, value in headers.items() if name not in _SECRET}


def key_of(headers: Mapping[str, str]) -> str | None:
    """A fingerprint of the key in lower-cased `headers` (Bearer or `x-api-key`); None without one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    key = token.strip() if scheme.lower() == "bearer" else ""
    key = key or headers.get("x-api-key", "").strip()
    return blake2b(key.encode(), digest_size=6).hexdigest() if key else None


def summary(request: JsonObject) -> JsonObject:
    """What the log keeps of a request's body: sizes and switches, no text."""
    return {
        "model": request.get("model"),
        "stream": bool(request.get("stream")),
        "max_tokens": request.get("max_tokens"),
        "messages": len(request["messages"]),
        "tools": [tool["name"] for tool in request.get("tools") or ()],
    }
