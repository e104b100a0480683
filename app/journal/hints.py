"""What replicas tell each other of a commit: whose it is, and which tasks it is about; and what they met upstream.

A hint may be lost, doubled or late; whoever hears one looks at the rows. There are none for what was met upstream:
such a hint saves others from finding out by themselves, nothing depends on it.
"""

from collections.abc import Iterable
from urllib.parse import quote, unquote

from app.domain.record import record

LIMIT_BYTES = 7_900
"""PostgreSQL carries 8,000 bytes."""
_ANY = "*"
_UPSTREAM = "^"


@record(frozen=True, slots=True)
class UpstreamHint:
    """A model, or those that share its limits, need not be asked for `wait_s`."""

    pool: str
    reason: str
    wait_s: float


@record(frozen=True, slots=True)
class Hint:
    """Something happened to these tasks; None: perhaps to any."""

    task_ids: frozenset[str] | None = None
    upstream: tuple[UpstreamHint, ...] = ()


ANYTHING = Hint()


def hint_texts(
    origin: str, task_ids: Iterable[str], upstream: Iterable[UpstreamHint] = ()
) -> list[str]:
    """The hint as it is sent, in one text where it fits; `origin` names the process, which needs no hint of its own commits.

    Too many tasks become "perhaps any": that can be looked up. What was met upstream cannot, and goes in texts of its own.
    """
    met = [f"{_UPSTREAM}{quote(h.pool, safe='')}={h.reason}={h.wait_s:.3f}" for h in upstream]
    ids = sorted(set(task_ids))
    if _fits(whole := _text(origin, [*ids, *met])):
        return [whole]
    texts, packed = list[str](), list[str]()
    for word in met:
        if not _fits(_text(origin, [*packed, word])):
            texts.append(_text(origin, packed))
            packed = []
        packed.append(word)
    texts.append(_text(origin, packed))
    if ids:
        tasks = _text(origin, ids)
        texts.append(tasks if _fits(tasks) else _text(origin, [_ANY]))
    return [text for text in texts if _fits(text) and text != _text(origin, [])]


def _text(origin: str, words: Iterable[str]) -> str:
    return f"{origin} {' '.join(words)}"


def _fits(text: str) -> bool:
    return len(text.encode()) <= LIMIT_BYTES


def parse_hint(text: str, me: str) -> Hint | None:
    """The hint of another process; None for one of our own."""
    origin, _, ids = text.partition(" ")
    if origin == me:
        return None
    if ids == _ANY:
        return ANYTHING
    words = ids.split()
    met = (_upstream(word) for word in words if word.startswith(_UPSTREAM))
    tasks = frozenset(word for word in words if not word.startswith(_UPSTREAM))
    return Hint(tasks, tuple(hint for hint in met if hint is not None))


def _upstream(word: str) -> UpstreamHint | None:
    """None when it is none that this version knows."""
    pool, _, told = word.removeprefix(_UPSTREAM).partition("=")
    reason, _, wait = told.partition("=")
    try:
        return UpstreamHint(unquote(pool), reason, float(wait))
    except ValueError:
        return None
