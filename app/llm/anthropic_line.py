"""The way to the Messages API: the official SDK's client, reduced to what the adapter uses, opened beside the loop.

The SDK brings the headers, the authentication and the pool. To load it takes more than a second of CPU, half of
what a start takes: so a thread does it while the service takes tasks already.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, cast

from app.domain.record import record
from app.llm.anthropic_batches import Request
from app.llm.anthropic_reply import Reply, reply_of
from app.llm.provider import ModelFailure, Phase

if TYPE_CHECKING:
    # Importing this module must not load it, see above.
    import httpx2

_log = logging.getLogger(__name__)
DEFAULT_BASE_URL = "https://api.anthropic.com"
PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
REFERENCE_HEADER = "x-bursar-attempt"
"""Names the attempt in our ledger, so that both sides' records can be matched."""
CONNECTION_LIMIT = 2_000
KEEPALIVE_S = 60.0
"""An idle connection is kept this long: a new one costs a TLS handshake."""


OnReply = Callable[[Reply], Awaitable[None]]
"""Raises for an answer that is none."""


class Send(Protocol):
    """POST a body under our reference; returns once the headers are there, with the body unread."""

    def __call__(
        self, body: bytes, reference: str | None, path: str = PATH, *, beta: str | None = None
    ) -> Awaitable[Reply]: ...


@record(frozen=True, slots=True)
class Line:
    """An open client, reduced to what the adapter uses."""

    send: Send
    request: Request
    close: Callable[[], Awaitable[None]]
    errors: tuple[type[Exception], ...]
    """What the SDK and the transports under it raise."""


class Opening:
    """A line that is opened once, by a thread of its own, when it is first wanted."""

    def __init__(self, make: Callable[[], Line]) -> None:
        self._make = make
        self._line: Line | None = None
        self._task: asyncio.Task[Line] | None = None
        self.failed = False
        """It could not be opened when that was tried last."""

    def begin(self) -> None:
        """Open it, for whoever will want it."""
        if self._task is None:
            self._task = asyncio.create_task(self._open(), name="open-line")
            self._task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def line(self) -> Line:
        """The open line.

        Raises:
            ModelFailure: it cannot be opened; the next who wants it tries again.
        """
        if self._line is None:
            self.begin()
            assert self._task is not None  # noqa: S101  (it has just begun)
            self._line = await asyncio.shield(self._task)
        return self._line

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What the line raises; before there is one, whoever waits for it may run out of time."""
        return (OSError,) if self._line is None else self._line.errors

    async def close(self) -> None:
        """Close what is open, and what is being opened once it is."""
        if self._task is not None:
            (opened,) = await asyncio.gather(self._task, return_exceptions=True)
            if isinstance(opened, Line):
                await opened.close()

    async def _open(self) -> Line:
        loader = ThreadPoolExecutor(1, thread_name_prefix="sdk-loader")
        try:
            line = await asyncio.get_running_loop().run_in_executor(loader, self._make)
        except Exception as error:
            self._task, self.failed = None, True
            _log.exception("upstream_client_failed")
            message = f"the client cannot be opened: {type(error).__name__}: {error}"
            raise ModelFailure("client_failed", message, phase=Phase.CONNECT) from error
        finally:
            loader.shutdown(wait=False)
        self.failed = False
        return line


def open_line(
    api_key: str | None,
    base_url: str,
    *,
    connect_timeout_s: float,
    max_connections: int,
    on_reply: OnReply,
    transport: "httpx2.AsyncBaseTransport | None",
) -> Line:
    import aiohttp  # noqa: PLC0415
    import anthropic  # noqa: PLC0415
    import httpx2  # noqa: PLC0415

    class Client(anthropic.AsyncAnthropic):
        def __init__(self, http_client: httpx2.AsyncClient) -> None:
            super().__init__(
                # Any key, even an empty one, keeps the SDK from looking for one by itself.
                api_key=api_key or "",
                base_url=base_url,
                max_retries=0,
                timeout=http_client.timeout,
                open_telemetry=False,
                http_client=http_client,
            )
            # Takes back what the SDK has read from ANTHROPIC_CUSTOM_HEADERS.
            self._custom_headers = cast(
                "dict[str, str]", {} if api_key else {"Authorization": anthropic.omit}
            )

    async def on_response(response: httpx2.Response) -> None:
        await on_reply(reply_of(response))

    http_client = anthropic.DefaultAioHttpClient(
        limits=httpx2.Limits(max_connections=max_connections, keepalive_expiry=KEEPALIVE_S),
        # `ask` bounds the whole attempt. A wait for a connection is bounded apart, because an attempt
        # that ended there has certainly not been billed.
        timeout=httpx2.Timeout(None, connect=connect_timeout_s, pool=connect_timeout_s),
        # A redirected POST would be a second send that nobody has reserved money for.
        follow_redirects=False,
        event_hooks={"response": [on_response]},  # of what is seldom asked: `send` goes past them
        transport=transport,
    )
    client = Client(http_client)
    address = httpx2.URL(base_url)
    if address.userinfo and isinstance(client.default_headers.get("Authorization"), str):
        message = "a base URL with a login and an API key: a request can carry only one of them"
        raise ValueError(message)

    send = _sender(http_client, base_url, client.default_headers, on_reply)
    request = _requester(http_client, base_url, client.default_headers)
    errors = (anthropic.AnthropicError, httpx2.HTTPError, aiohttp.ClientError, OSError)
    return Line(send, request, client.close, errors)


def _sender(
    http_client: "httpx2.AsyncClient",
    base_url: str,
    sdk_headers: Mapping[str, object],
    on_reply: OnReply,
) -> Send:
    """How to POST a body: the SDK rebuilds address and headers for every request, at half the call's price.

    The client's transport is asked itself, the environment's proxy if there is one: redirects, cookies and
    authentication are not for us.
    """
    import httpx2  # noqa: PLC0415

    transport = http_client._transport_for_url(httpx2.URL(base_url))  # noqa: SLF001
    urls = {path: httpx2.URL(base_url.rstrip("/") + path) for path in (PATH, COUNT_PATH)}
    fixed = {"Host": urls[PATH].netloc.decode("ascii")}
    fixed |= {name: value for name, value in sdk_headers.items() if isinstance(value, str)}
    post = _post_straight(transport, urls, http_client.timeout)
    if post is None:
        post = _post(transport, urls, http_client.timeout)

    async def send(
        body: bytes, reference: str | None, path: str = PATH, *, beta: str | None = None
    ) -> Reply:
        headers = fixed.copy()
        if reference:
            headers[REFERENCE_HEADER] = reference
        if beta is not None:
            headers["anthropic-beta"] = beta
        reply = await post(path, headers, body)
        if not 200 <= reply.status < 300:
            try:
                await on_reply(reply)
            except BaseException:
                await reply.close()
                raise
        return reply

    return send


_Post = Callable[[str, Mapping[str, str], bytes], Awaitable[Reply]]


def _post(
    transport: "httpx2.AsyncBaseTransport",
    urls: Mapping[str, "httpx2.URL"],
    timeout: "httpx2.Timeout",
) -> _Post:
    """By way of httpx, whatever the transport."""
    import httpx2  # noqa: PLC0415

    extensions = {"timeout": timeout.as_dict()}

    async def post(path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        # Given a stream, a request takes its headers as they are and adds none.
        stream = httpx2.ByteStream(body)
        request = httpx2.Request("POST", urls[path], stream=stream, extensions=extensions)
        request.headers = httpx2.Headers(
            {**headers, "Content-Length": str(len(body))}, encoding="ascii"
        )
        request.read()
        return reply_of(await transport.handle_async_request(request))

    return post


def _post_straight(
    transport: "httpx2.AsyncBaseTransport",
    urls: Mapping[str, "httpx2.URL"],
    timeout: "httpx2.Timeout",
) -> _Post | None:
    """By way of the transport's own session of aiohttp: what httpx puts around it costs half as much again."""
    import aiohttp  # noqa: PLC0415
    from anthropic._vendor.httpx_aiohttp import AiohttpTransport  # noqa: PLC0415
    from yarl import URL  # noqa: PLC0415

    if not isinstance(transport, AiohttpTransport) or transport.proxy is not None:
        return None
    straight = {path: URL(str(url), encoded=True) for path, url in urls.items()}
    limits = aiohttp.ClientTimeout(
        sock_connect=timeout.connect, sock_read=timeout.read, connect=timeout.pool
    )

    async def post(path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        session = transport.client
        if not isinstance(session, aiohttp.ClientSession):
            session = transport.client = transport.get_client()
        response = await session.post(
            straight[path],
            headers=headers,
            data=body,
            allow_redirects=False,
            auto_decompress=False,
            compress=False,
            timeout=limits,
        )

        async def close() -> None:
            response.release()
            await response.wait_for_close()

        return Reply(response.status, response.raw_headers, response.content.iter_any(), close)

    return post


def _requester(
    http_client: "httpx2.AsyncClient", base_url: str, sdk_headers: Mapping[str, object]
) -> Request:
    """Any method and path, for what is seldom asked."""
    import httpx2  # noqa: PLC0415

    headers = {name: value for name, value in sdk_headers.items() if isinstance(value, str)}

    async def request(method: str, path: str, body: bytes | None) -> httpx2.Response:
        asked = httpx2.Request(
            method,
            base_url.rstrip("/") + path,
            headers=headers,
            content=body,
            extensions={"timeout": http_client.timeout.as_dict()},
        )
        return await http_client.send(asked, stream=True)

    return request
