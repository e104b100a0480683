"""How an attempt failed, told from what came back: error bodies, exceptions, broken answers.

Every function returns a `ModelFailure` for the caller to raise. Nothing here decides what to do about it.
"""

import math
import re
from collections.abc import Iterator, Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

import orjson

from app.llm.provider import JsonObject, ModelFailure, Phase
from app.llm.usage import Usage

MESSAGE_LIMIT = 2_000
"""Characters of a provider's message that are kept."""
NAME_LIMIT = 100
"""Characters of a provider's `error.type` or `error_code` that are kept: they become labels."""

US_PER_S = 1_000_000
_CREDENTIAL = re.compile(r"\bsk-[\w-]{8,}|(?i:\bbearer\s+)\S+")
_HIDDEN = "[hidden]"


def status_failure(
    status: int, headers: Mapping[str, str], body: bytes, *, now_us: int
) -> ModelFailure:
    """The provider, or something in front of it, answered with an error status.

    `headers` must find lower-case names. `now_us` is used for a `retry-after` date only, and only when
    the answer has no `date` of its own. A body that is not shaped like the Messages API's errors (a
    proxy's page, another API's JSON) gives the type `http_<status>` and `api_shaped` False.
    Source: Messages API documentation, errors.
    """
    shaped = _error_body(body)
    error = shaped["error"] if shaped else {}
    return ModelFailure(
        _name(error.get("type")) or f"http_{status}",
        _message(error.get("message")) or _foreign_message(status, headers, body),
        phase=Phase.RESPONSE,
        status=status,
        error_code=_error_code(error),
        api_shaped=shaped is not None,
        retry_after_s=retry_after_s(headers, now_us),
        should_retry=_should_retry(headers),
        request_id=headers.get("request-id") or _text((shaped or {}).get("request_id")),
    )


def stream_failure(
    event: JsonObject, *, request_id: str | None, usage_so_far: Usage | None
) -> ModelFailure:
    """The provider reported an error (`event: error`) after it had answered with status 200."""
    error = event.get("error")
    shaped = event.get("type") == "error" and _is_error(error)
    error = error if isinstance(error, dict) else {}
    return ModelFailure(
        _name(error.get("type")) or "stream_error",
        _message(error.get("message")) or "the provider reported an error inside the stream",
        phase=Phase.STREAM,
        status=200,
        error_code=_error_code(error),
        api_shaped=shaped,
        request_id=request_id or _text(event.get("request_id")),
        usage_so_far=usage_so_far,
    )


def malformed_answer(
    reason: str, *, request_id: str | None, usage_so_far: Usage | None = None
) -> ModelFailure:
    """Status 200, and what followed is not a Messages API message. It may well have been billed."""
    return ModelFailure(
        "malformed_answer",
        f"the answer is not a Messages API message: {reason}",
        phase=Phase.LOST,
        status=200,
        request_id=request_id,
        usage_so_far=usage_so_far,
    )


def cut_stream(*, request_id: str | None, usage_so_far: Usage | None) -> ModelFailure:
    """The stream ended in good order, but before `message_stop`."""
    return ModelFailure(
        "answer_lost",
        "the stream ended before message_stop",
        phase=Phase.LOST,
        request_id=request_id,
        usage_so_far=usage_so_far,
    )


def transport_failure(
    error: BaseException,
    *,
    request_id: str | None = None,
    usage_so_far: Usage | None = None,
) -> ModelFailure:
    """An exception of the SDK or of the transports under it.

    What certainly never left is `Phase.CONNECT`; everything else, an unknown exception too, may have
    been billed and is `Phase.LOST`. A `ModelFailure` on the chain of causes is handed back as it is.
    """
    chain = tuple(_causes(error))
    for link in chain:
        if isinstance(link, ModelFailure):
            return link
    root = chain[-1]
    if _never_left(chain):
        return ModelFailure(
            "connection_error",
            _connect_message(root),
            phase=Phase.CONNECT,
        )
    if _undecodable(chain):
        return malformed_answer(
            "its content encoding cannot be decoded",
            request_id=request_id,
            usage_so_far=usage_so_far,
        )
    timed_out = _timed_out(chain)
    return ModelFailure(
        "timeout" if timed_out else "answer_lost",
        "no complete answer within the time allowed"
        if timed_out
        else f"the connection ended before the answer was complete ({type(root).__name__})",
        phase=Phase.LOST,
        request_id=request_id,
        usage_so_far=usage_so_far,
    )


def retry_after_s(headers: Mapping[str, str], now_us: int) -> float | None:
    """Seconds to wait as the server asks, from `retry-after-ms` or `retry-after`; None when unreadable.

    `retry-after` is a number of seconds (fractions too) or an HTTP date, which is measured against the
    answer's own `date` header where there is one: the two clocks then are the same clock.
    """
    wait_ms = _seconds(headers.get("retry-after-ms"))
    if wait_ms is not None:
        return wait_ms / 1_000
    asked = headers.get("retry-after")
    wait_s = _seconds(asked)
    if wait_s is not None:
        return wait_s
    until_us = _http_date_us(asked)
    if until_us is None:
        return None
    sent_us = _http_date_us(headers.get("date"))
    return max(until_us - (now_us if sent_us is None else sent_us), 0) / US_PER_S


def hide(failure: ModelFailure, secret: str | None) -> ModelFailure:
    """The same failure, its message without `secret`: some gateways echo the key they were given."""
    if secret and secret in failure.message:
        failure.message = failure.message.replace(secret, _HIDDEN)
        failure.args = (failure.message,)
    return failure


def _error_body(body: bytes) -> JsonObject | None:
    """The body as an object when it has the shape of the Messages API's errors."""
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if isinstance(found, dict) and found.get("type") == "error" and _is_error(found.get("error")):
        return found
    return None


def _is_error(error: object) -> bool:
    return isinstance(error, dict) and bool(_text(error.get("type")))


def _error_code(error: JsonObject) -> str | None:
    details = error.get("details")
    return _name(details.get("error_code")) if isinstance(details, dict) else None


def _foreign_message(status: int, headers: Mapping[str, str], body: bytes) -> str:
    media_type = _name(headers.get("content-type")) or "no content type"
    return f"HTTP {status} without an error message ({media_type}, {len(body)} bytes)"


def _connect_message(root: BaseException) -> str:
    # Only the system's own words: other texts may quote an address with a password in it.
    detail = root.strerror if isinstance(root, OSError) else None
    return f"could not connect: {type(root).__name__}" + (f", {detail}" if detail else "")


def _should_retry(headers: Mapping[str, str]) -> bool | None:
    return {"true": True, "false": False}.get(headers.get("x-should-retry", "").strip().lower())


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _name(value: object) -> str | None:
    text = _message(value)
    return text[:NAME_LIMIT] if text else None


def _message(value: object) -> str | None:
    text = _text(value)
    return _CREDENTIAL.sub(_HIDDEN, text)[:MESSAGE_LIMIT] if text else None


def _seconds(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def _http_date_us(value: str | None) -> int | None:
    try:
        moment = parsedate_to_datetime(value or "")
    except (ValueError, TypeError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return int(aware.timestamp() * US_PER_S)


def _causes(error: BaseException) -> Iterator[BaseException]:
    link: BaseException | None = error
    while link is not None:
        yield link
        link = link.__cause__


# The transports are loaded by whoever opens a connection; by the time one of their exceptions is looked
# at, importing them again costs nothing, and importing this module stays cheap.


def _never_left(chain: tuple[BaseException, ...]) -> bool:
    """Whether the request certainly did not reach the provider.

    The SDK's bridge to aiohttp reports a server that hung up as a failed connect, so aiohttp's own
    exception decides wherever there is one.
    """
    import aiohttp  # noqa: PLC0415
    import httpx2  # noqa: PLC0415

    for link in chain:
        if isinstance(link, aiohttp.ClientError):
            return isinstance(
                link,
                (
                    aiohttp.ClientConnectorError,
                    aiohttp.ClientHttpProxyError,
                    aiohttp.ConnectionTimeoutError,
                    aiohttp.InvalidURL,
                    aiohttp.ServerFingerprintMismatch,
                ),
            )
    never = (
        httpx2.ConnectError,
        httpx2.ConnectTimeout,
        httpx2.LocalProtocolError,
        httpx2.PoolTimeout,
        httpx2.ProxyError,
        httpx2.UnsupportedProtocol,
    )
    return any(isinstance(link, never) for link in chain)


def _undecodable(chain: tuple[BaseException, ...]) -> bool:
    import httpx2  # noqa: PLC0415

    return any(isinstance(link, httpx2.DecodingError) for link in chain)


def _timed_out(chain: tuple[BaseException, ...]) -> bool:
    import httpx2  # noqa: PLC0415

    return any(isinstance(link, (TimeoutError, httpx2.TimeoutException)) for link in chain)
