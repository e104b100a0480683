"""Public ids: a prefix, then 32 hexadecimal digits. Random enough not to be guessed.

The first twelve digits carry the millisecond of creation, so that rows made together lie together on disk.
Nothing may use the id for order: clocks jump.
"""

import os
from collections.abc import Callable
from contextvars import ContextVar

_RANDOM_BYTES = 10
ENTROPY: ContextVar[Callable[[int], bytes]] = ContextVar("ENTROPY", default=os.urandom)
"""Where random bytes come from; a run that must be repeatable brings its own, for its context only."""


def new_id(prefix: str, now_us: int) -> str:
    """A new id such as `task_01933c…`: 48 bits of milliseconds, 80 random bits."""
    return f"{prefix}_{now_us // 1_000:012x}{ENTROPY.get()(_RANDOM_BYTES).hex()}"
