"""TLS in front of a server on loopback, which breaks answers off in the middle in every way that TLS knows."""

import asyncio
import ssl
import subprocess
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from tests.support.wire import Received, receive

_ANSWER_LIMIT = 1 << 24


class Cut(Enum):
    """How a connection ends before its answer does."""

    NOTIFIED = "close_notify"
    """The TLS session is ended in good order: nothing tells the client that more was to come."""
    FIN = "fin"
    """TCP ends; the TLS session does not."""
    RESET = "reset"
    """The connection is torn down."""


@dataclass(frozen=True)
class Break:
    """One answer breaks off."""

    cut: Cut
    share: float
    """After this part of its bytes, head included; 0: before the first."""


@dataclass
class TlsFront:
    """Takes each answer whole from the server behind, and passes on as much of it as it is told to."""

    url: str = ""
    breaks: deque[Break] = field(default_factory=deque)
    """One for each of the next answers; those after them go through whole."""
    passed_bytes: list[int] = field(default_factory=list)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that vouches for itself, and its key, made in the folder."""
    made, key = folder / "tls.pem", folder / "tls.key"
    subprocess.run(  # noqa: S603
        [
            *("openssl", "req", "-x509", "-nodes", "-days", "2", "-newkey", "ec"),
            *("-pkeyopt", "ec_paramgen_curve:prime256v1", "-subj", "/CN=127.0.0.1"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
            *("-addext", "keyUsage=critical,digitalSignature,keyCertSign"),
            *("-keyout", str(key), "-out", str(made)),
        ],
        check=True,
        capture_output=True,
    )
    return made, key


@asynccontextmanager
async def tls_front(port: int, made: Path, key: Path) -> AsyncIterator[TlsFront]:
    """TLS in front of the server at 127.0.0.1:`port`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    front = TlsFront()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            answer = await _answer_of(port, await receive(reader, 1))
            ending = front.breaks.popleft() if front.breaks else Break(Cut.NOTIFIED, 1.0)
            part = answer[: int(len(answer) * ending.share)]
            front.passed_bytes.append(len(part))
            writer.write(part)
            await writer.drain()
            await _end(writer, ending.cut)
        except (asyncio.IncompleteReadError, ConnectionError):  # the client has gone
            writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0, ssl=context)
    front.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server:
        yield front


async def _answer_of(port: int, asked: Received) -> bytes:
    """The whole answer of the server behind, as bytes, its connection ended after it."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=_ANSWER_LIMIT)
    kept = {**asked.headers, "connection": "close"}
    lines = [asked.line, *(f"{name}: {value}" for name, value in kept.items()), "", ""]
    writer.write("\r\n".join(lines).encode("latin-1") + asked.body)
    try:
        return await reader.read()
    finally:
        writer.close()


async def _end(writer: asyncio.StreamWriter, cut: Cut) -> None:
    match cut:
        case Cut.NOTIFIED:
            writer.close()
        case Cut.FIN:
            writer.get_extra_info("socket").shutdown(1)
        case Cut.RESET:
            writer.transport.abort()
