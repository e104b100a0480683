"""What faults do to the bytes of an answer: parts of it, bytes too many, bytes that are no text."""

import re
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import orjson

from app.simulator.faults import Kind

_MIB = 1 << 20
_BOMB_MIB = 1_024
_CRC_OF_A_GIB_OF_ZEROS = 0x5B64C2B0
_INPUT_TOKENS = re.compile(rb'"input_tokens":\d+')
FILLING = b" " * 65_536
FILLING_EVENT = b": %s\n\n" % (b"-" * 65_528)


def first_part(pieces: Sequence[bytes], size: int | None) -> tuple[bytes, ...]:
    """The first `size` bytes; None is half of it: of the bytes of one piece, of the number of many."""
    if size is None:
        if len(pieces) > 1:
            return tuple(pieces[: len(pieces) // 2])
        size = len(pieces[0]) // 2
    return (b"".join(pieces)[:size],)


def parted(body: bytes, count: int) -> list[bytes]:
    """The bytes in so many pieces, or as many as there are bytes."""
    size = max(1, -(-len(body) // max(count, 1)))
    return [body[at : at + size] for at in range(0, len(body), size)]


def garbled(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """The answer with bytes in its middle that no text has: in the middle of an event's, if it is a stream."""
    at = len(pieces) // 2
    piece = pieces[at]
    half = len(piece) // 2
    return (*pieces[:at], piece[:half] + b"\xff\xfe\xc0" + piece[half:], *pieces[at + 1 :])


def not_a_number(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """The answer with `NaN` for its prompt's tokens, which is no JSON."""
    return tuple(_INPUT_TOKENS.sub(b'"input_tokens":NaN', piece) for piece in pieces)


def taken_back(pieces: Sequence[bytes]) -> tuple[bytes, ...]:
    """The stream with one more report of usage before its end, of a tenth of what the one before it had said."""
    report = orjson.loads(pieces[-2].partition(b"data: ")[2])
    tenth = {
        name: value // 10 if isinstance(value, int) else value
        for name, value in report["usage"].items()
    }
    less = b"event: message_delta\ndata: %s\n\n" % orjson.dumps({**report, "usage": tenth})
    return (*pieces[:-1], less, pieces[-1])


@cache
def gzip_bomb() -> bytes:
    """A gigabyte of zeros, packed into a megabyte."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    block = packer.compress(bytes(_MIB)) + packer.flush(zlib.Z_FULL_FLUSH)
    end = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS).flush()
    size = (_BOMB_MIB * _MIB) & 0xFFFF_FFFF
    trailer = _CRC_OF_A_GIB_OF_ZEROS.to_bytes(4, "little") + size.to_bytes(4, "little")
    return b"\x1f\x8b\x08" + bytes(6) + b"\x03" + block * _BOMB_MIB + end + trailer


MANGLES: dict[Kind, Callable[[tuple[bytes, ...]], tuple[bytes, ...]]] = {
    Kind.DRIP: lambda pieces: tuple(parted(b"".join(pieces), sum(map(len, pieces)))),
    Kind.GZIP_BOMB: lambda _pieces: (gzip_bomb(),),
    Kind.EMPTY_BODY: lambda _pieces: (),
    Kind.INVALID_UTF8: garbled,
    Kind.DUPLICATE_EVENTS: lambda pieces: tuple(one for one in pieces for _ in range(2)),
    Kind.REORDERED_EVENTS: lambda pieces: (pieces[0], *pieces[-2:0:-1], pieces[-1]),
    Kind.USAGE_NAN: not_a_number,
    Kind.USAGE_CHANGING: taken_back,
}
"""What becomes of an answer's pieces."""
