"""Cursors of lists of tasks, newest first: the place after a task, as a text of our own making."""

import base64
import binascii

from fastapi import HTTPException

_FAR_FUTURE_US = 1 << 62


def cursor_after(created_at_us: int, task_id: str) -> str:
    """The cursor for what comes after this task."""
    return base64.urlsafe_b64encode(f"{created_at_us}.{task_id}".encode()).decode().rstrip("=")


def position(cursor: str | None) -> tuple[int, str]:
    """What a page stands strictly before; without a cursor, before nothing.

    Raises:
        HTTPException: a cursor of nobody's making.
    """
    if cursor is None:
        return _FAR_FUTURE_US, ""
    try:
        text = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)).decode()
        created_at_us, _, task_id = text.partition(".")
        at_us = int(created_at_us)
    except (binascii.Error, UnicodeError, ValueError):
        at_us, task_id = -1, ""
    if not 0 <= at_us <= _FAR_FUTURE_US or not task_id or "\x00" in task_id:
        raise HTTPException(400, "The cursor is not one that this service gave out.")
    return at_us, task_id
