"""A streamed response over ASGI, read piece by piece as the application sends it."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Scope

WAIT_S = 30.0


@dataclass(slots=True)
class Stream:
    """Server-sent events as they come."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    _sent: "asyncio.Queue[Message]" = field(default_factory=asyncio.Queue)
    _rest: str = ""
    _ended: bool = False

    async def begin(self) -> None:
        """Wait for the head of the response."""
        head = await asyncio.wait_for(self._sent.get(), WAIT_S)
        assert head["type"] == "http.response.start"
        self.status = head["status"]
        self.headers = {name.decode(): value.decode() for name, value in head["headers"]}

    async def part(self) -> bytes | None:
        """The next bytes as the application sent them; None at the end. Not to be mixed with the others."""
        if self._ended:
            return None
        sent = await asyncio.wait_for(self._sent.get(), WAIT_S)
        self._ended = not sent.get("more_body", False)
        return bytes(sent.get("body", b""))

    async def message(self) -> str | None:
        """The next message without its empty line; None at the end."""
        while "\n\n" not in self._rest:
            if self._ended:
                assert not self._rest, f"the stream ends inside a message: {self._rest!r}"
                return None
            part = await asyncio.wait_for(self._sent.get(), WAIT_S)
            self._rest += part.get("body", b"").decode()
            self._ended = not part.get("more_body", False)
        text, _, self._rest = self._rest.partition("\n\n")
        return text

    async def event(self) -> dict[str, Any] | None:
        """The next event: `id`, `event`, and `data` parsed; None at the end."""
        text = await self.message()
        if text is None:
            return None
        found: dict[str, Any] = dict(line.split(": ", 1) for line in text.split("\n"))
        assert set(found) == {"id", "event", "data"}, text
        return {**found, "id": int(found["id"]), "data": json.loads(found["data"])}

    async def rest(self) -> list[dict[str, Any]]:
        """Every event until the end."""
        found = []
        while (event := await self.event()) is not None:
            found.append(event)
        return found


@asynccontextmanager
async def opened(app: ASGIApp, path: str, headers: Mapping[str, str]) -> AsyncIterator[Stream]:
    """GET `path`; leaving the block hangs up."""
    stream, gone = Stream(), asyncio.Event()
    asked = iter([{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        for message in asked:
            return message
        await gone.wait()
        return {"type": "http.disconnect"}

    answering = asyncio.create_task(_answer(app, _scope(path, headers), receive, stream))
    try:
        await stream.begin()
        yield stream
    finally:
        gone.set()
        await asyncio.wait_for(answering, WAIT_S)


async def _answer(app: ASGIApp, scope: Scope, receive: Any, stream: Stream) -> None:
    async def send(message: Message) -> None:
        stream._sent.put_nowait(message)

    await app(scope, receive, send)


def _scope(path: str, headers: Mapping[str, str]) -> Scope:
    parts = urlsplit(path)
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": parts.path,
        "raw_path": parts.path.encode(),
        "query_string": parts.query.encode(),
        "root_path": "",
        "headers": [
            (name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()
        ],
        "client": ("127.0.0.1", 1),
        "server": ("bursar.test", 80),
    }
