"""Public ids: a prefix, then 26 characters of Crockford base 32. Random enough not to be guessed.

The first ten characters carry the millisecond of creation, so that rows made together lie together on
disk. Nothing may use the id for order: clocks jump.
"""

import os

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_RANDOM_BITS = 80


def new_id(prefix: str, now_us: int) -> str:
    """A new id such as `task_01k…`: 48 bits of milliseconds, 80 random bits."""
    value = (now_us // 1_000) << _RANDOM_BITS | int.from_bytes(os.urandom(_RANDOM_BITS // 8), "big")
    chars = [""] * 26
    for position in range(25, -1, -1):
        chars[position] = _ALPHABET[value & 31]
        value >>= 5
    return f"{prefix}_{''.join(chars)}"
