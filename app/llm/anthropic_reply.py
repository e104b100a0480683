"""An answer of the upstream: its headers are there, its body is still to come."""

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Loading it takes a second of CPU: importing this module must not.
    import httpx2

Close = Callable[[], Awaitable[None]]


class Reply:
    """What is read of an answer, whichever library brought it. Whoever holds it closes it."""

    __slots__ = ("_body", "_raw_headers", "close", "head", "status")

    def __init__(
        self,
        status: int,
        raw_headers: Sequence[tuple[bytes, bytes]],
        body: AsyncIterable[bytes],
        close: Close,
    ) -> None:
        self.status = status
        self._raw_headers = raw_headers
        self.head = {name.lower(): value for name, value in raw_headers}
        """The headers, by lower-case name."""
        self._body = body
        self.close = close
        """Give the connection back, or hang up where the body was not read to its end."""

    @property
    def headers(self) -> "httpx2.Headers":
        """The headers as text: each look into them costs as much as all of `head`."""
        import httpx2  # noqa: PLC0415

        return httpx2.Headers(list(self._raw_headers))

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. What is not encoded needs no decoder: that is most of what reading it would cost."""
        if b"content-encoding" not in self.head:
            return aiter(self._body)
        return _decoded(list(self._raw_headers), self._body)


def reply_of(response: "httpx2.Response") -> Reply:
    """What httpx brought, its body unread."""
    # A response's stream is an asynchronous one where its client is.
    body: AsyncIterable[bytes] = response.stream  # type: ignore[assignment]
    return Reply(response.status_code, response.headers.raw, body, response.aclose)


def _decoded(
    raw_headers: list[tuple[bytes, bytes]], body: AsyncIterable[bytes]
) -> AsyncIterator[bytes]:
    import httpx2  # noqa: PLC0415

    class Body(httpx2.AsyncByteStream):
        def __aiter__(self) -> AsyncIterator[bytes]:
            return aiter(body)

    return httpx2.Response(200, headers=raw_headers, stream=Body()).aiter_bytes()
