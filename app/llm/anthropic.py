"""The Anthropic adapter: one attempt over HTTP through the official SDK, with its retries switched off.

The SDK brings the headers, the authentication and the pool. Bodies are ours: encoding and parsing them
here costs a fraction of what the SDK's models do, and the transcript goes out as it was stored.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING

import orjson

from app.domain.clock import Clock, SystemClock
from app.llm.answers import parse_answer
from app.llm.anthropic_batches import AnthropicBatches
from app.llm.anthropic_line import (
    CONNECTION_LIMIT,
    COUNT_PATH,
    DEFAULT_BASE_URL,
    Line,
    Opening,
    open_line,
)
from app.llm.anthropic_reply import Reply
from app.llm.body import COMPACTION_BETA, counting_body, request_body
from app.llm.failures import hide, malformed_answer, status_failure, transport_failure
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest, Phase
from app.llm.rates import read_rates
from app.llm.stream import MessageStream

if TYPE_CHECKING:
    # Loading it takes a second of CPU: opening a client does that, importing this module must not.
    import httpx2

BODY_LIMIT = 64 * 1024 * 1024
"""Bytes of an answer, after decompression."""
ERROR_BODY_LIMIT = 1024 * 1024
ERROR_BODY_TIMEOUT_S = 10.0
"""For the body of an error: its status has already said what matters."""
STREAM_END_TIMEOUT_S = 0.25
"""For the end of the body after `message_stop`: a connection read to its end can be used again."""


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
        """The client is opened when it is needed, by `warm_up` at the latest then; connections likewise.

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
        self._opening = Opening(
            lambda: open_line(
                self._api_key,
                base_url or DEFAULT_BASE_URL,
                connect_timeout_s=connect_timeout_s,
                max_connections=max_connections,
                on_reply=self._refuse_error_status,
                transport=transport,
            )
        )

    @property
    def failed(self) -> bool:
        """The client could not be opened when that was tried last."""
        return self._opening.failed

    def warm_up(self) -> None:
        """Open the client in the background: else the first question waits for it."""
        self._opening.begin()

    async def ready(self) -> None:
        """Wait for the client to be open.

        Raises:
            ModelFailure: it cannot be opened.
        """
        await self._opening.line()

    @property
    def batches(self) -> AnthropicBatches:
        """The same account's batches."""
        return AnthropicBatches(self._request, lambda: self._opening.errors, self._api_key)

    async def ask(self, request: ModelRequest) -> ModelAnswer:
        """Make exactly one attempt, within `request.timeout_s` from when it can be sent.

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
        line = (
            await self._opening.line()
        )  # what is not sent yet cannot be lost: the time begins after it
        try:
            async with asyncio.timeout(request.timeout_s) as deadline:
                return await self._attempt(line, body, request, stream, deadline)
        except ModelFailure as failure:
            hide(failure, self._api_key)
            raise
        except asyncio.CancelledError:
            if progress is not None:
                progress.usage_so_far = stream.usage_so_far()
            raise
        except self._opening.errors as error:
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
        line = await self._opening.line()
        try:
            async with asyncio.timeout(request.timeout_s):
                reply = await line.send(counting_body(request), None, COUNT_PATH)
                try:
                    found = orjson.loads(await _read(reply.pieces(), ERROR_BODY_LIMIT))
                finally:
                    await reply.close()
        except ModelFailure as failure:
            hide(failure, self._api_key)
            raise
        except self._opening.errors as error:
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
        await self._opening.close()

    async def _request(self, method: str, path: str, body: bytes | None) -> "httpx2.Response":
        return await (await self._opening.line()).request(method, path, body)

    async def _attempt(
        self,
        line: Line,
        body: bytes,
        request: ModelRequest,
        stream: MessageStream,
        deadline: asyncio.Timeout,
    ) -> ModelAnswer:
        beta = COMPACTION_BETA if request.compacted else None
        reply = await line.send(body, request.reference, beta=beta)
        try:
            head = reply.head
            if request.progress is not None:
                request.progress.rates = read_rates(head)
            request_id = head.get(b"request-id")
            stream.request_id = None if request_id is None else request_id.decode("latin-1")
            if head.get(b"content-type", b"").lower().startswith(b"text/event-stream"):
                return await _read_stream(reply.pieces(), stream, deadline)
            raw = await _read(reply.pieces(), BODY_LIMIT)
            if len(raw) > BODY_LIMIT:
                raise _too_long(stream)
            return parse_answer(raw, stream.request_id, unsplit_writes=stream.unsplit_writes)
        finally:
            await reply.close()

    async def _refuse_error_status(self, reply: Reply) -> None:
        """Read the body of an error ourselves: the SDK would read it without bound."""
        if 200 <= reply.status < 300:
            return
        body = b""
        with suppress(*self._opening.errors):
            async with asyncio.timeout(ERROR_BODY_TIMEOUT_S):
                body = await _read(reply.pieces(), ERROR_BODY_LIMIT)
        failure = status_failure(reply.status, reply.headers, body, now_us=self._clock.now_us())
        failure.rates = read_rates(reply.head)
        raise failure


async def _read(pieces: AsyncIterator[bytes], limit: int) -> bytes:
    """The body; reading stops as soon as it is longer than `limit` bytes."""
    chunks, size = [], 0
    async for chunk in pieces:
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            break
    return b"".join(chunks)


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
