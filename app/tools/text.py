"""A tool's result as text for the model: JSON where it is not text, safe on the wire, capped in size."""

from typing import Any

from pydantic_core import to_json, to_jsonable_python

from app.domain.record import record

RESULT_LIMIT_MIN_BYTES = 256
"""Below this, the marker would be most of what is kept."""
_HEAD_SHARE = (2, 3)
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


@record(frozen=True, slots=True)
class Rendered:
    """A result as text. `original_bytes` is its size in UTF-8 before the middle was left out."""

    text: str
    original_bytes: int
    truncated: bool
    empty: bool
    """Nothing, white space, or a container without content."""
    whole: bytes | None = None
    """All of it, where it was cut."""
    left_out: tuple[int, int] | None = None
    """The bytes that were: from, to."""


def render(value: object, *, limit_bytes: int) -> Rendered:
    """`value` as text of at most `limit_bytes` bytes of UTF-8.

    Raises:
        ValueError, RecursionError: not text and not expressible as JSON (an open file, a cycle).
    """
    text = safe_text(value if isinstance(value, str) else _as_json(value))
    data = text.encode()
    empty = _is_empty(value) or not text.strip()
    if len(data) <= limit_bytes:
        return Rendered(text, len(data), truncated=False, empty=empty)
    cut, left_out = _cut_middle(data, limit_bytes)
    return Rendered(cut, len(data), truncated=True, empty=empty, whole=data, left_out=left_out)


def safe_text(text: str) -> str:
    """Text that UTF-8 and every database can hold.

    Surrogate halves that belong together are joined; a lone one, and NUL, becomes U+FFFD.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.replace("\0", _REPLACEMENT)


def one_line(text: str, limit: int) -> str:
    """The first `limit` characters, safe, with white space folded."""
    folded = " ".join(safe_text(text[: limit * 4]).split())
    return folded if len(folded) <= limit else f"{folded[: limit - 1]}…"


def _as_json(value: object) -> str:
    """JSON in UTF-8. NaN and the infinities, which JSON lacks, become strings: the model sees them."""
    try:
        return to_json(value, inf_nan_mode="strings", bytes_mode="utf8").decode()
    except ValueError:
        # Surrogates inside, or bytes that are not text: slower, and still JSON or an error.
        return to_json(_repaired(value), inf_nan_mode="strings").decode()


def _repaired(value: Any) -> Any:
    """`value` as plain JSON values with every string made safe."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        return safe_text(value)
    if isinstance(value, dict):
        return {_repaired(key): _repaired(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_repaired(item) for item in value]
    return _repaired(to_jsonable_python(value, bytes_mode="base64"))


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, _CONTAINERS) and not value)


_CONTAINERS = (str, bytes, bytearray, list, tuple, dict, set, frozenset)


def _cut_middle(data: bytes, limit_bytes: int) -> tuple[str, tuple[int, int]]:
    """Head, marker, tail; both cuts between characters. And what lies between the cuts."""
    room = limit_bytes - len(_marker(len(data), len(data)))
    head_end = room * _HEAD_SHARE[0] // _HEAD_SHARE[1]
    tail_start = len(data) - (room - head_end)
    while _is_continuation(data[head_end]):
        head_end -= 1
    while tail_start < len(data) and _is_continuation(data[tail_start]):
        tail_start += 1
    marker = _marker(tail_start - head_end, len(data))
    text = f"{data[:head_end].decode()}{marker}{data[tail_start:].decode()}"
    return text, (head_end, tail_start)


def _marker(left_out: int, total: int) -> str:
    return f"\n[... {left_out} of {total} bytes left out ...]\n"


def _is_continuation(byte: int) -> bool:
    return byte & 0xC0 == 0x80
