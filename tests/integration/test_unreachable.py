"""An upstream that cannot be reached at all: no name, nobody there, a handshake that is cut. Nothing is spent on it."""

import asyncio
from pathlib import Path

import pytest

from app.simulator.core import Simulator
from tests.support.clock import FakeClock
from tests.support.service import Running, started_at

NO_NAME = "x." * 130 + "test"
"""Longer than any host's name can be: no resolver has to be asked."""


async def failed(bursar: Running) -> None:
    """A task fails for want of an upstream, after both attempts, and has cost nothing."""
    task = await bursar.run(deadline_s=25)
    assert (task["outcome"], task["error"]["type"]) == ("upstream_failed", "connection_error")
    assert bursar.rows("SELECT * FROM ledger_lines WHERE entry = 'settlement'") == []
    phases = [
        e["data"]["phase"] for e in await bursar.events(task["id"]) if e["type"] == "attempt_failed"
    ]
    assert phases == ["connect", "connect"]


@pytest.mark.parametrize("url", [f"http://{NO_NAME}", f"https://{NO_NAME}"])
async def test_no_such_name(tmp_path: Path, url: str) -> None:
    """DNS does not know it."""
    async with started_at(url, Simulator(FakeClock()), tmp_path, retry_attempts=2) as bursar:
        await failed(bursar)


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x16\x03\x03\x00\x7a\x02"]
)
async def test_a_handshake_that_is_cut(tmp_path: Path, said: bytes) -> None:
    """Before TLS stands nothing of a request can have left: the other side hangs up, or speaks something else."""

    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(said)
        writer.close()

    server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
    url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with (
        server,
        started_at(url, Simulator(FakeClock()), tmp_path, retry_attempts=2) as bursar,
    ):
        await failed(bursar)
