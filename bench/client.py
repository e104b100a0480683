"""An HTTP client that is cheaper than what it measures: prepared requests, the least of parsing."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from time import monotonic

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


class Connection(asyncio.Protocol):
    """One connection, one request at a time."""

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        length = _LENGTH.search(self._received, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) >= whole:
            body, status = self._received[end + 4 : whole], int(self._received[9:12])
            self._received = self._received[whole:]
            self._answer.set_result((status, body))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server closed: {exc}"))

    async def ask(self, request: bytes) -> tuple[int, bytes]:
        """Send a request; its status and body."""
        if self._transport is None or self._transport.is_closing():
            message = "not connected"
            raise ConnectionError(message)
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.abort()


@asynccontextmanager
async def connected(port: int) -> AsyncIterator[Connection]:
    """A connection to a port of loopback."""
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(Connection, "127.0.0.1", port)
    try:
        yield connection
    finally:
        connection.close()


def get(path: str, *headers: str) -> bytes:
    """A GET request."""
    lines = (f"GET {path} HTTP/1.1", "host: 127.0.0.1", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST request with a JSON body."""
    lines = (
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        "content-type: application/json",
        f"content-length: {len(body)}",
        *headers,
    )
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def submit_all(
    port: int, body: bytes, count: int, connections: int, taken_s: list[float] | None = None
) -> bytes:
    """POST `count` tasks over `connections`; the answer to the one accepted last.

    How long each took is added to `taken_s`.

    Raises:
        ConnectionError: one was not accepted.
    """
    request, last = post("/tasks", body), b""

    async def submit(numbers: Iterator[int]) -> None:
        nonlocal last
        async with connected(port) as connection:
            for _ in numbers:
                began_s = monotonic()
                status, answer = await connection.ask(request)
                if taken_s is not None:
                    taken_s.append(monotonic() - began_s)
                if status != 202:
                    message = f"POST /tasks answered {status}: {answer[:300]!r}"
                    raise ConnectionError(message)
                last = answer

    waiting = iter(range(count))
    await asyncio.gather(*(submit(waiting) for _ in range(connections)))
    return last
