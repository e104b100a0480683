"""A way to a PostgreSQL server that can be cut where it hurts: around a COMMIT.

It runs on threads of its own: a store that connects blocks the event loop of its test.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal
from urllib.parse import urlsplit

from tests.support.postgres import Server

_COMMIT = b"COMMIT\x00"
_CHUNK = 1 << 16

Cut = Literal["before", "after", "silent"]
"""The COMMIT is lost; or its answer is; or its answer never comes, and nothing else, either."""


class Proxy:
    """Passes everything on, until it is told not to."""

    def __init__(self, server: Server) -> None:
        self._target = ("127.0.0.1", server.port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._passages: list[_Passage] = []
        self._lock = threading.Lock()
        self.cuts: list[Cut | None] = []
        """What happens to the next COMMITs, in order."""
        self.refusing = False
        """Whoever connects is hung up on."""
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    def url(self, direct: str) -> str:
        """The database at `direct`, by this way."""
        port = self._listener.getsockname()[1]
        return direct.replace(f":{urlsplit(direct).port}/", f":{port}/")

    def next_cut(self) -> Cut | None:
        """What happens to a COMMIT that comes now."""
        with self._lock:
            return self.cuts.pop(0) if self.cuts else None

    def hang_up(self) -> None:
        """Cut every connection there is."""
        for passage in self._passages:
            passage.hang_up()

    def close(self) -> None:
        """Take no more, and hang up everywhere."""
        _shut(self._listener)
        self._accepting.join()
        self._listener.close()
        for passage in self._passages:
            passage.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refusing:
                    client.close()
                else:
                    self._passages.append(_Passage(self, client, self._target))


class _Passage:
    """One connection."""

    def __init__(self, proxy: Proxy, client: socket.socket, target: tuple[str, int]) -> None:
        self._proxy = proxy
        self._client = client
        self._server = socket.create_connection(target)
        self._cut: Cut | None = None
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._upward, self._downward)
        ]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Hang up, and be gone."""
        self.hang_up()
        for thread in self._threads:
            thread.join()
        self._client.close()
        self._server.close()

    def hang_up(self) -> None:
        """Cut it on both sides."""
        for end in (self._client, self._server):
            _shut(end)

    def _upward(self) -> None:
        with suppress(OSError):
            while data := self._client.recv(_CHUNK):
                if data.endswith(_COMMIT):
                    self._cut = self._proxy.next_cut()
                if self._cut == "before":
                    break
                self._server.sendall(data)
        self.hang_up()

    def _downward(self) -> None:
        with suppress(OSError):
            while data := self._server.recv(_CHUNK):
                if self._cut == "after":
                    break
                if self._cut != "silent":
                    self._client.sendall(data)
        self.hang_up()


def _shut(end: socket.socket) -> None:
    with suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)


@contextmanager
def proxy(server: Server) -> Iterator[Proxy]:
    """A way to the server; cut after the block."""
    made = Proxy(server)
    try:
        yield made
    finally:
        made.close()
