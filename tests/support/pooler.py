"""A pooler in front of PostgreSQL, as PgBouncer is one: by the session, or by the transaction.

It knows simple queries only, on threads of its own: a store that connects blocks the event loop of its test.
"""

import socket
import struct
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from tests.support.postgres import USER, Server

Mode = Literal["session", "latest", "in turn"]
"""A client keeps its server; or each transaction gets the one that was used last, or the next one."""
_PROTOCOL = 196_608
_ENCRYPTED = {80_877_103, 80_877_104}
"""Clients ask for that first."""
_SERVERS = 3
_KEY = struct.pack("!cIII", b"K", 12, 4_242_424, 4_242)
"""Nobody's process id: it is the pooler whom a client would ask to cancel."""


class Pooler:
    """Takes clients, and passes their transactions on."""

    def __init__(self, server: Server, database: str, mode: Mode) -> None:
        self._target = ("127.0.0.1", server.port)
        self._database = database
        self._mode = mode
        self._lock = threading.Lock()
        self._greeting = b""
        self._free = deque(self._logged_in() for _ in range(_SERVERS))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open = [self._listener, *self._free]
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, direct: str) -> str:
        """The database at `direct`, by this way."""
        port = self._listener.getsockname()[1]
        return direct.replace(f":{urlsplit(direct).port}/", f":{port}/")

    def close(self) -> None:
        """Hang up on everybody."""
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _logged_in(self) -> socket.socket:
        """A server; what it says of itself is said to clients."""
        server = socket.create_connection(self._target)
        words = f"user\0{USER}\0database\0{self._database}\0\0".encode()
        server.sendall(struct.pack("!II", len(words) + 8, _PROTOCOL) + words)
        said = list(_answer(server))
        self._greeting = b"".join([*(one for one in said if one[:1] in b"RS"), _KEY, said[-1]])
        return server

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._open.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        server: socket.socket | None = None
        with suppress(OSError):
            while True:
                size, what = struct.unpack("!II", _exactly(client, 8))
                if what not in _ENCRYPTED:
                    break
                client.sendall(b"N")
            _exactly(client, size - 8)
            client.sendall(self._greeting)
            while (asked := _message(client))[:1] == b"Q":
                server = server or self._take()
                server.sendall(asked)
                said = list(_answer(server))
                client.sendall(b"".join(said))
                if said[-1].endswith(b"I") and self._mode != "session":  # in no transaction
                    self._give(server)
                    server = None
        if server is not None:
            with suppress(OSError):
                server.sendall(_query("ROLLBACK"))
                list(_answer(server))
                self._give(server)

    def _take(self) -> socket.socket:
        with self._lock:
            return self._free.popleft() if self._mode == "in turn" else self._free.pop()

    def _give(self, server: socket.socket) -> None:
        with self._lock:
            self._free.append(server)


def _query(text: str) -> bytes:
    return struct.pack("!cI", b"Q", len(text) + 5) + text.encode() + b"\0"


def _answer(server: socket.socket) -> Iterator[bytes]:
    """Messages, up to the one that says that it is ready."""
    while True:
        said = _message(server)
        yield said
        if said[:1] == b"Z":
            return


def _message(end: socket.socket) -> bytes:
    head = _exactly(end, 5)
    return head + _exactly(end, struct.unpack("!I", head[1:])[0] - 4)


def _exactly(end: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        more = end.recv(count - len(found))
        if not more:
            raise ConnectionError
        found += more
    return found


@contextmanager
def pooler(server: Server, direct: str, mode: Mode) -> Iterator[str]:
    """The address of the database at `direct` behind a pooler; it is gone after the block."""
    made = Pooler(server, direct.rpartition("/")[2], mode)
    try:
        yield made.url(direct)
    finally:
        made.close()
