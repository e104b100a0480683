"""Message Batches over the adapter's own line. Source: Messages API documentation, batch processing."""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson

from app.domain.clock import US_PER_S
from app.llm.answers import to_json
from app.llm.batching.port import ItemResult, Standing
from app.llm.body import batch_params
from app.llm.failures import hide, malformed_answer, transport_failure
from app.llm.provider import JsonObject, ModelFailure, ModelRequest

if TYPE_CHECKING:
    import httpx2

_log = logging.getLogger(__name__)
BATCHES_PATH = "/v1/messages/batches"
CREATE_TIMEOUT_S = 60.0
ASK_TIMEOUT_S = 30.0
RESULTS_TIMEOUT_S = 900.0
PAGE = 100
_ANSWER_LIMIT = 16 * 1024 * 1024
"""Bytes of one answer, or of one line of results."""

Request = Callable[[str, str, bytes | None], Awaitable["httpx2.Response"]]
"""Method, path, body; returns once the headers are there. An error status raises `ModelFailure`."""


class AnthropicBatches:
    """The adapter's `Batches`."""

    def __init__(
        self,
        request: Request,
        errors: Callable[[], tuple[type[Exception], ...]],
        api_key: str | None,
    ) -> None:
        self._request = request
        self._errors = errors
        self._api_key = api_key

    def params(self, request: ModelRequest, max_tokens: int) -> bytes:
        return batch_params(request, max_tokens)

    async def create(self, items: Sequence[tuple[str, bytes]]) -> Standing:
        requests = (b'{"custom_id":%s,"params":%s}' % (to_json(name), p) for name, p in items)
        body = b'{"requests":[%s]}' % b",".join(requests)
        return standing_of(await self._json("POST", BATCHES_PATH, body, CREATE_TIMEOUT_S))

    async def find(self, batch_id: str) -> Standing:
        return standing_of(await self._json("GET", f"{BATCHES_PATH}/{batch_id}"))

    async def cancel(self, batch_id: str) -> None:
        await self._json("POST", f"{BATCHES_PATH}/{batch_id}/cancel", b"")

    async def listed(self) -> AsyncIterator[Standing]:
        path: str | None = f"{BATCHES_PATH}?limit={PAGE}"
        while path is not None:
            page = await self._json("GET", path)
            found = page.get("data")
            if not isinstance(found, list):
                raise malformed_answer("a list of batches without data", request_id=None)
            for batch in found:
                yield standing_of(batch)
            more = page.get("has_more") is True and isinstance(page.get("last_id"), str)
            path = f"{BATCHES_PATH}?limit={PAGE}&after_id={page['last_id']}" if more else None

    async def results(self, batch_id: str) -> AsyncIterator[ItemResult]:
        async with aclosing(self._lines(f"{BATCHES_PATH}/{batch_id}/results")) as lines:
            async for line, is_whole in lines:
                result = _readable(line, batch_id) if is_whole else result_of(line)
                if result is not None:
                    yield result

    async def _json(
        self, method: str, path: str, body: bytes | None = None, timeout_s: float = ASK_TIMEOUT_S
    ) -> JsonObject:
        raw = bytearray()
        async with aclosing(self._bytes(method, path, body, timeout_s)) as parts:
            async for part in parts:
                raw += part
                if len(raw) > _ANSWER_LIMIT:
                    raise malformed_answer("a batch's description is too long", request_id=None)
        return _object(bytes(raw))

    async def _lines(self, path: str) -> AsyncGenerator[tuple[bytes, bool]]:
        """Each line, and whether its end has come."""
        rest = bytearray()
        async with aclosing(self._bytes("GET", path, None, RESULTS_TIMEOUT_S)) as parts:
            async for part in parts:
                rest += part
                *whole, last = rest.split(b"\n")
                for line in whole:
                    if line.strip():
                        yield bytes(line), True
                rest = bytearray(last)
                if len(rest) > 4 * _ANSWER_LIMIT:
                    raise malformed_answer("a result is too long", request_id=None)
        if rest.strip():
            yield bytes(rest), False

    async def _bytes(
        self, method: str, path: str, body: bytes | None, timeout_s: float
    ) -> AsyncGenerator[bytes]:
        """The body of the answer, as it comes.

        Raises:
            ModelFailure: there is none, or it broke off.
        """
        deadline = asyncio.get_running_loop().time() + timeout_s
        try:
            async with asyncio.timeout_at(deadline):
                response = await self._request(method, path, body)
            try:
                parts = aiter(response.aiter_bytes())
                while True:
                    async with asyncio.timeout_at(deadline):
                        part = await anext(parts, None)
                    if part is None:
                        return
                    yield part
            finally:
                await response.aclose()
        except ModelFailure as failure:
            hide(failure, self._api_key)
            raise
        except self._errors() as error:
            raise hide(transport_failure(error), self._api_key) from error


def _object(raw: bytes) -> JsonObject:
    try:
        found: Any = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise malformed_answer("it is not JSON", request_id=None) from error
    if not isinstance(found, dict):
        raise malformed_answer("it is not an object", request_id=None)
    return found


def standing_of(batch: Any) -> Standing:
    """A batch as the API describes it."""
    try:
        counts = batch["request_counts"]
        return Standing(
            id=_text(batch["id"]),
            ended=batch["processing_status"] == "ended",
            item_count=sum(int(count) for count in counts.values()),
            made_at_us=_instant_us(_text(batch["created_at"])),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise malformed_answer("it is no message batch", request_id=None) from error


def _readable(line: bytes, batch_id: str) -> ItemResult | None:
    """A whole line; None when it cannot be read: it will not get better, and the others do not wait for it."""
    try:
        return result_of(line)
    except ModelFailure as failure:
        reason = {"error_type": failure.error_type, "error_message": failure.message}
        _log.error("batch_result_unreadable", extra={"batch_id": batch_id, **reason})
        return None


def result_of(line: bytes) -> ItemResult:
    """A line of a batch's results."""
    found = _object(line)
    custom_id, result = found.get("custom_id"), found.get("result")
    if not isinstance(custom_id, str) or not isinstance(result, dict):
        raise malformed_answer("a result without its custom_id", request_id=None)
    return ItemResult(custom_id, to_json(result))


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise TypeError
    return value


def _instant_us(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp() * US_PER_S)
