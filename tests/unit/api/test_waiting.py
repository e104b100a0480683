"""The `Prefer` header."""

import pytest
from fastapi import Request

from app.api.waiting import WAIT_LIMIT_S, wished_wait_s


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0),
        ("", 0),
        ("respond-async", 0),
        ("wait=5", 5),
        ("wait=0", 0),
        ("Wait=5", 5),
        ("wait = 5", 5),
        ('wait="5"', 5),
        ("respond-async, wait=10", 10),
        ("wait=10,respond-async", 10),
        ("respond-async; foo=bar, wait=7; a=b", 7),
        ("wait=60", 60),
        ("wait=61", WAIT_LIMIT_S),
        ("wait=999999", WAIT_LIMIT_S),
        ("wait=-1", 0),
        ("wait=x", 0),
        ("wait=1.5", 0),
        ("wait=", 0),
        ("await=5", 0),
        ("wait=²", 0),
        ("wait=5x", 0),
    ],
)
def test_wishes(header: str | None, seconds: int) -> None:
    """Seconds as RFC 7240 writes them; what is not understood is no wish."""
    sent = [] if header is None else [(b"prefer", header.encode("latin-1"))]
    assert wished_wait_s(Request({"type": "http", "headers": sent})) == seconds
