"""A server that sends exactly the bytes it is told to, and remembers what it was sent."""

import asyncio
import json
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Any, Self


class Then(Enum):
    """What the server does between or after bytes."""

    CLOSE = "close"
    """End the connection in good order."""
    RESET = "reset"
    """Tear the connection down."""
    STALL = "stall"
    """Say nothing more, until the client has gone."""


@dataclass(frozen=True)
class Received:
    """One request as it came in; header names in lower case."""

    line: str
    headers: dict[str, str]
    body: bytes
    connection: int
    """Which connection it came over, counted from 1."""


class Wire:
    """Answers the n-th request with the n-th script; a script without an ending keeps the connection."""

    def __init__(self) -> None:
        self.requests: list[Received] = []
        self.connection_count = 0
        self.arrived = asyncio.Event()
        """A request has come in whole."""
        self.client_gone = asyncio.Event()
        """The client closed a connection on which the server stalled."""
        self._scripts: deque[tuple[bytes | Then, ...]] = deque()
        self._talks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.url = ""

    def play(self, *script: bytes | Then) -> None:
        """Answer the next unanswered request with this."""
        self._scripts.append(script)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._talk, "127.0.0.1", 0, limit=1 << 24)
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for talk in self._talks:
            talk.cancel()
        await asyncio.gather(*self._talks, return_exceptions=True)
        assert not self._scripts, f"{len(self._scripts)} scripts were never asked for"

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talk = asyncio.current_task()
        assert talk is not None
        self._talks.add(talk)
        self.connection_count += 1
        number = self.connection_count
        try:
            while await self._answer_one(reader, writer, number):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self._talks.discard(talk)
            writer.close()

    async def _answer_one(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int
    ) -> bool:
        self.requests.append(await receive(reader, number))
        self.arrived.set()
        for step in self._scripts.popleft():
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case Then.CLOSE:
                    return False
                case Then.RESET:
                    writer.transport.abort()
                    return False
                case Then.STALL:
                    await reader.read()
                    self.client_gone.set()
                    return False
        return True


async def receive(reader: asyncio.StreamReader, connection: int) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in head[1:] if line)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Received(head[0], headers, body, connection)


def reply(
    body: bytes, *, status: int = 200, length: int | None = None, **headers: str | None
) -> bytes:
    """A whole HTTP answer; `length` lies about the body's. Header names use `_` for `-`; None drops one."""
    fields: dict[str, str | None] = {
        "content_type": "application/json",
        "content_length": str(len(body) if length is None else length),
        "request_id": "req_wire",
    }
    return _head(status, fields | headers) + body


def json_reply(value: object, *, status: int = 200, **headers: str | None) -> bytes:
    """An HTTP answer with a JSON body."""
    return reply(json.dumps(value).encode(), status=status, length=None, **headers)


def stream_head(**headers: str | None) -> bytes:
    """The start of a streamed answer in chunks."""
    fields: dict[str, str | None] = {
        "content_type": "text/event-stream; charset=utf-8",
        "transfer_encoding": "chunked",
        "request_id": "req_wire",
    }
    return _head(200, fields | headers)


def chunk(data: bytes) -> bytes:
    """One HTTP chunk; of no data, the last one."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(value: Mapping[str, Any]) -> bytes:
    """One server-sent event, named by its type."""
    return f"event: {value['type']}\ndata: {json.dumps(value)}\n\n".encode()


def _head(status: int, fields: Mapping[str, str | None]) -> bytes:
    lines = [f"HTTP/1.1 {status} Scripted"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in fields.items() if value]
    return "\r\n".join([*lines, "", ""]).encode()
