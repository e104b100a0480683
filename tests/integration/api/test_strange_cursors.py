"""Cursors of nobody's making."""

import base64

import pytest

from tests.support.service import Running


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("/tasks", "5.a\x00b"),
        ("/sessions/s/usage", "5.a\x00b"),
        ("/sessions/s/ledger", '[5,"a\\u0000b",0,0,0]'),
        ("/sessions/s/ledger", '[5,"a",4294967296,0,0]'),
        ("/sessions/s/ledger", '[5,"a",0,0,-4611686018427387904]'),
    ],
)
async def test_a_cursor_that_no_row_can_have(bursar: Running, path: str, text: str) -> None:
    """It is refused: the request is wrong, neither the service nor its store is."""
    put = await bursar.client.put("/sessions/s/budget", json={"budget_usd": 1})
    assert put.status_code == 200
    cursor = base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")
    answer = await bursar.client.get(path, params={"cursor": cursor})
    assert answer.status_code == 400, answer.text
