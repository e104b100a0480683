"""The Anthropic adapter: one attempt over HTTP through the official SDK, with its retries switched off.

The SDK brings the headers, the authentication and the pool. Bodies are ours: encoding and parsing them
here costs a fraction of what the SDK's models do, and the transcript goes out as it was stored.
"""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol, cast

import orjson

from app.domain.clock import Clock, SystemClock
from app.domain.record import record
from app.llm.answers import parse_answer
from app.llm.anthropic_batches import AnthropicBatches, Request
from app.llm.body import COMPACTION_BETA, counting_body, request_body
from app.llm.failures import hide, malformed_answer, status_failure, transport_failure
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Phase
from app.llm.rates import read_rates
from app.llm.stream import MessageStream

if TYPE_CHECKING:
    # Loading it takes a second of CPU: opening a client does that, importing this module must not.
    import httpx2

DEFAULT_BASE_URL = "https://api.anthropic.com"
PATH = "/v1/messages"
COUNT_PATH = "/v1/messages/count_tokens"
REFERENCE_HEADER = "x-bursar-attempt"
"""Names the attempt in our ledger, so that both sides' records can be matched."""
CONNECTION_LIMIT = 2_000
KEEPALIVE_S = 60.0
"""An idle connection is kept this long: a new one costs a TLS handshake."""
BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of an answer, after decompression."""
ERROR_BODY_LIMIT = 1024 * 1024
ERROR_BODY_TIMEOUT_S = 10.0
"""For the body of an error: its status has already said what matters."""
STREAM_END_TIMEOUT_S = 0.25
"""For the end of the body after `message_stop`: a connection read to its end can be used again."""


class _Send(Protocol):
    """POST a body under our reference; returns once the headers are there, with the body unread."""

    def __call__(
        self, body: bytes, reference: str | None, path: str = PATH, *, beta: str | None = None
    ) -> Awaitable["httpx2.Response"]: ...


@record(frozen=True, slots=True)
class _Line:
    """An open client, reduced to what the adapter uses."""

    send: _Send
    request: Request
    close: Callable[[], Awaitable[None]]
    errors: tuple[type[Exception], ...]
    """What the SDK and the transports under it raise."""


class AnthropicProvider:
    """A `Provider`: Claude models over the Messages API, or whatever speaks it at `base_url`.

    One instance a process, made at start-up. Nothing is taken from the environment but proxies and
    certificate authorities: no key, no address, no header.
    """

    def __init__(
        self,
        api_key: str | None,
        base_url: str | None,
        *,
        connect_timeout_s: float = 60.0,
        max_connections: int = CONNECTION_LIMIT,
        clock: Clock | None = None,
        transport: "httpx2.AsyncBaseTransport | None" = None,
    ) -> None:
        """Open the client; connections are made when they are needed.

        `api_key` None sends no credential (local servers). `base_url` is without `/v1`; None is the
        Anthropic API. `connect_timeout_s` bounds the wait for a free connection, too. `transport`
        takes the network's place.

        Raises:
            ValueError: the key has characters that a header cannot carry. The key is not shown.
        """
        if api_key is not None and not (api_key.isascii() and api_key.isprintable()):
            message = "the API key has characters that an HTTP header cannot carry"
            raise ValueError(message)
        self._api_key = api_key or None
        self._clock = clock or SystemClock()
        self._line = _open(
            self._api_key,
            base_url or DEFAULT_BASE_URL,
            connect_timeout_s=connect_timeout_s,
            max_connections=max_connections,
            on_response=self._refuse_error_status,
            transport=transport,
        )

    @property
    def batches(self) -> AnthropicBatches:
        """The same account's batches."""
        return AnthropicBatches(self._line.request, self._line.errors, self._api_key)

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        """Make exactly one attempt, within `request.timeout_s` in all.

        Raises:
            ModelFailure: the attempt failed.
            TypeError: the request is not plain JSON; nothing was sent.
            asyncio.CancelledError: the caller gave up; the connection is closed at once.
        """
        body = request_body(request)
        progress = request.progress
        stream = MessageStream(
            None if progress is None else progress.on_text,
            "1h" if request.marks is None else request.marks.ttl,
        )
        try:
            async with asyncio.timeout(request.timeout_s) as deadline:
                return await self._attempt(body, request, stream, deadline)
        except ModelFailure as failure:
            hide(failure, self._api_key)
            raise
        except asyncio.CancelledError:
            if progress is not None:
                progress.usage_so_far = stream.usage_so_far()
            raise
        except self._line.errors as error:
            if stream.complete:
                return stream.answer()
            told = transport_failure(
                error, request_id=stream.request_id, usage_so_far=stream.usage_so_far()
            )
            # The SDK wraps what `_refuse_error_status` raised: then its exception says nothing more.
            cause = None if told.phase is Phase.RESPONSE else error
            raise hide(told, self._api_key) from cause

    async def count_tokens(self, request: ModelRequest) -> int:
        """The provider's own estimate of the prompt, in tokens. Source: Messages API, token counting.

        Raises:
            ModelFailure: no count.
        """
        try:
            async with asyncio.timeout(request.timeout_s):
                response = await self._line.send(counting_body(request), None, COUNT_PATH)
                try:
                    pieces = _pieces(response, _head(response))
                    found = orjson.loads(await _read(pieces, ERROR_BODY_LIMIT))
                finally:
                    await response.aclose()
        except ModelFailure as failure:
            hide(failure, self._api_key)
            raise
        except self._line.errors as error:
            raise hide(transport_failure(error), self._api_key) from error
        except orjson.JSONDecodeError as error:
            reason = "a token count that is not JSON"
            raise malformed_answer(reason, request_id=None) from error
        count = found.get("input_tokens") if isinstance(found, dict) else None
        if type(count) is not int or count < 0:
            raise malformed_answer("a token count without input_tokens", request_id=None)
        return count

    async def close(self) -> None:
        """Close the connections, those in use too."""
        await self._line.close()

    async def _attempt(
        self, body: bytes, request: ModelRequest, stream: MessageStream, deadline: asyncio.Timeout
    ) -> ModelAnswer:
        beta = COMPACTION_BETA if request.compacted else None
        response = await self._line.send(body, request.reference, beta=beta)
        try:
            head = _head(response)
            if request.progress is not None:
                request.progress.rates = read_rates(head)
            request_id = head.get(b"request-id")
            stream.request_id = None if request_id is None else request_id.decode("latin-1")
            pieces = _pieces(response, head)
            if head.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
                return await _read_stream(pieces, stream, deadline)
            raw = await _read(pieces, BODY_LIMIT)
            if len(raw) > BODY_LIMIT:
                raise _too_long(stream)
            return parse_answer(raw, stream.request_id, unsplit_writes=stream.unsplit_writes)
        finally:
            await response.aclose()

    async def _refuse_error_status(self, response: "httpx2.Response") -> None:
        """Read the body of an error ourselves: the SDK would read it without bound."""
        if 200 <= response.status_code < 300:
            return
        head, body = _head(response), b""
        with suppress(*self._line.errors):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                body = await _read(_pieces(response, head), ERROR_BODY_LIMIT)
        failure = status_failure(
            response.status_code, response.headers, body, now_us=self._clock.now_us()
        )
        failure.rates = read_rates(head)
        raise failure


def _head(response: "httpx2.Response") -> dict[bytes, bytes]:
    """The headers, by lower-case name: each look into the response's own costs as much as all of this."""
    return {name.lower(): value for name, value in response.headers.raw}


async def _read(pieces: AsyncIterator[bytes], limit: int) -> bytes:
    """The body; reading stops as soon as it is longer than `limit` bytes."""
    chunks, size = [], 0
    async for chunk in pieces:
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(chunks)


def _pieces(response: "httpx2.Response", head: Mapping[bytes, bytes]) -> AsyncIterator[bytes]:
    """The body as it comes. What is not encoded needs no decoder: that is most of what reading it would cost."""
    if b"content-encoding" in head:
        return response.aiter_bytes()
    return aiter(cast("AsyncIterable[bytes]", response.stream))


async def _read_stream(
    pieces: AsyncIterator[bytes], stream: MessageStream, deadline: asyncio.Timeout
) -> ModelAnswer:
    size = 0
    async for chunk in pieces:
        if stream.complete:
            continue
        size += len(chunk)
        if size > BODY_LIMIT:
            raise _too_long(stream)
        stream.feed(chunk)
        if stream.complete:
            deadline.reschedule(asyncio.get_running_loop().time() + STREAM_END_TIMEOUT_S)
    return stream.answer()


def _too_long(stream: MessageStream) -> ModelFailure:
    return malformed_answer(
        f"it is longer than {BODY_LIMIT} bytes",
        request_id=stream.request_id,
        usage_so_far=stream.usage_so_far(),
    )


def _open(
    api_key: str | None,
    base_url: str,
    *,
    connect_timeout_s: float,
    max_connections: int,
    on_response: Callable[["httpx2.Response"], Awaitable[None]],
    transport: "httpx2.AsyncBaseTransport | None",
) -> _Line:
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

    send = _sender(http_client, base_url, client.default_headers, on_response)
    request = _requester(http_client, base_url, client.default_headers)
    errors = (anthropic.AnthropicError, httpx2.HTTPError, aiohttp.ClientError, OSError)
    return _Line(send, request, client.close, errors)


def _sender(
    http_client: "httpx2.AsyncClient",
    base_url: str,
    sdk_headers: Mapping[str, object],
    on_response: Callable[["httpx2.Response"], Awaitable[None]],
) -> _Send:
    """How to POST a body: the SDK rebuilds address and headers for every request, at half the call's price.

    The client's transport is asked itself, the environment's proxy if there is one: redirects, cookies and
    authentication are not for us.
    """
    import httpx2  # noqa: PLC0415

    transport = http_client._transport_for_url(httpx2.URL(base_url))  # noqa: SLF001
    urls = {path: httpx2.URL(base_url.rstrip("/") + path) for path in (PATH, COUNT_PATH)}
    named = {name: value for name, value in sdk_headers.items() if isinstance(value, str)}
    fixed = httpx2.Headers({"Host": urls[PATH].netloc.decode("ascii"), **named}, encoding="ascii")
    extensions = {"timeout": http_client.timeout.as_dict()}

    async def send(
        body: bytes, reference: str | None, path: str = PATH, *, beta: str | None = None
    ) -> httpx2.Response:
        headers = httpx2.Headers(fixed, encoding="ascii")
        headers["Content-Length"] = str(len(body))
        if reference:
            headers[REFERENCE_HEADER] = reference
        if beta is not None:
            headers["anthropic-beta"] = beta
        # Given a stream, a request takes its headers as they are and adds none: that is half its price.
        request = httpx2.Request(
            "POST", urls[path], stream=httpx2.ByteStream(body), extensions=extensions
        )
        request.headers = headers
        request.read()
        response = await transport.handle_async_request(request)
        try:
            await on_response(response)
        except BaseException:
            await response.aclose()
            raise
        return response

    return send


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
