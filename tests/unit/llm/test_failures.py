"""What came back instead of an answer, told as one kind of failure."""

import json
from itertools import pairwise
from typing import Any

import aiohttp
import anthropic
import httpx2
import pytest

from app.llm.failures import MESSAGE_LIMIT, hide, retry_after_s, status_failure, transport_failure
from app.llm.provider import ModelFailure, Phase
from app.llm.usage import Tokens, Usage

NOW_US = 1_795_341_600_000_000
"""2026-11-22T10:00:00Z."""


def refused(status: int, body: object, **headers: str) -> ModelFailure:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = httpx2.Headers({name.replace("_", "-"): value for name, value in headers.items()})
    return status_failure(status, named, raw, now_us=NOW_US)


def test_an_error_of_the_messages_api() -> None:
    """Every field of the body and of the headers has its place."""
    body = {
        "type": "error",
        "error": {
            "type": "rate_limit_error",
            "message": "Spend limit",
            "details": {"error_code": "enforced_spend_limit_reached", "limit": 5},
        },
        "request_id": "req_body",
    }
    failure = refused(429, body, request_id="req_head", x_should_retry="true", retry_after="7")
    assert (failure.error_type, failure.message, failure.phase, failure.status) == (
        "rate_limit_error",
        "Spend limit",
        Phase.RESPONSE,
        429,
    )
    assert failure.error_code == "enforced_spend_limit_reached"
    assert failure.api_shaped
    assert (failure.retry_after_s, failure.should_retry) == (7.0, True)
    assert failure.request_id == "req_head"
    assert str(failure) == "Spend limit"


def test_the_request_id_of_the_body_when_there_is_no_header() -> None:
    """Support asks for the request id, wherever it stood."""
    body = {"type": "error", "error": {"type": "api_error", "message": "x"}, "request_id": "req_b"}
    assert refused(500, body).request_id == "req_b"


@pytest.mark.parametrize(
    "body",
    [
        b"<html><head><title>413 Request Entity Too Large</title></head></html>",
        b"",
        b"upstream connect error",
        b'{"type":"error","error":{"type":"api_er',
        b"\xff\xfe",
        {"detail": "Not Found"},
        {"error": {"type": "NotFoundError", "message": "no such model", "code": 404}},
        {"type": "error", "error": "overloaded"},
        {"type": "error", "error": {"message": "no type"}},
        {"type": "error", "error": {"type": 5, "message": "x"}},
        ["error"],
    ],
)
def test_a_body_that_is_not_the_apis(body: object) -> None:
    """A proxy's page is told apart: its status counts, and its words are not the provider's."""
    failure = refused(413, body, content_type="text/html", cf_ray="abc")
    assert (failure.api_shaped, failure.error_type, failure.status) == (False, "http_413", 413)
    assert (failure.phase, failure.error_code) == (Phase.RESPONSE, None)
    assert failure.message.startswith("HTTP 413 ")


@pytest.mark.parametrize(
    ("value", "verdict"),
    [("true", True), ("False", False), (" true ", True), ("yes", None), ("", None)],
)
def test_should_retry(value: str, verdict: bool | None) -> None:
    """Only the two words count."""
    assert refused(400, b"", x_should_retry=value).should_retry is verdict


def test_no_hints_are_no_hints() -> None:
    """A header that did not come is None, not False and not zero."""
    failure = refused(529, b"")
    assert (failure.should_retry, failure.retry_after_s) == (None, None)


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ({"retry-after": "12"}, 12.0),
        ({"retry-after": "0.1"}, 0.1),
        ({"retry-after": " 3600 "}, 3600.0),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-5"}, 0.0),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after-ms": "soon", "retry-after": "9"}, 9.0),
        ({"retry-after": "Sun, 22 Nov 2026 10:00:30 GMT"}, 30.0),
        ({"retry-after": "Wed, 18 Nov 2020 10:27:10 GMT"}, 0.0),
        (
            {
                "retry-after": "Sun, 22 Nov 2026 09:30:45 GMT",
                "date": "Sun, 22 Nov 2026 09:30:00 GMT",
            },
            45.0,
        ),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e999"}, None),
        ({"retry-after": "tomorrow"}, None),
        ({"retry-after": ""}, None),
        ({}, None),
    ],
)
def test_retry_after(headers: dict[str, str], wait_s: float | None) -> None:
    """Whole and broken seconds, milliseconds, dates; what cannot be read is no hint."""
    assert retry_after_s(headers, NOW_US) == wait_s


CREDENTIALS = [
    "sk-" + "ant-x" + "abcdefgh12345678",
    "Bearer abc.def/ghi=",
    "authorization: bearer   tok_12345",
]


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_a_credential_in_an_error_message_is_hidden(credential: str) -> None:
    """A gateway that echoes what it was sent must not put a key into a log."""
    body = {"type": "error", "error": {"type": "x", "message": f"bad {credential}, sorry"}}
    message = refused(401, body).message
    assert credential.rsplit(maxsplit=1)[-1] not in message
    assert "[hidden]" in message


def test_our_own_key_is_hidden_whatever_it_looks_like() -> None:
    """A key of a local server follows no pattern, so it is looked for as it is."""
    failure = hide(ModelFailure("x", "no access for plainword", phase=Phase.RESPONSE), "plainword")
    assert str(failure) == failure.message == "no access for [hidden]"


def test_a_long_message_is_cut() -> None:
    """An error message is for reading, and a provider's may not fill the disk."""
    body = {"type": "error", "error": {"type": "t" * 5000, "message": "m" * 5000}}
    failure = refused(400, body)
    assert len(failure.message) == MESSAGE_LIMIT
    assert len(failure.error_type) == 100


REQUEST = httpx2.Request("POST", "http://127.0.0.1/v1/messages")
CONNECTION_KEY: Any = aiohttp.client_reqrep.ConnectionKey(
    "127.0.0.1", 1, False, True, None, None, None
)


def caused(*chain: BaseException) -> BaseException:
    for error, cause in pairwise(chain):
        error.__cause__ = cause
    return chain[0]


def sdk(*causes: BaseException) -> BaseException:
    return caused(anthropic.APIConnectionError(request=REQUEST), *causes)


def _chain_name(error: BaseException | None) -> str:
    names = []
    while error is not None:
        names.append(type(error).__name__)
        error = error.__cause__
    return "-".join(names)


NEVER_LEFT = [
    sdk(
        httpx2.ConnectError("x"),
        aiohttp.ClientConnectorError(CONNECTION_KEY, OSError(111, "refused")),
    ),
    sdk(
        httpx2.ConnectError("x"),
        aiohttp.ClientConnectorDNSError(CONNECTION_KEY, OSError(-2, "unknown")),
    ),
    sdk(
        httpx2.ProxyError("x"),
        aiohttp.ClientProxyConnectionError(CONNECTION_KEY, OSError(111, "no")),
    ),
    sdk(httpx2.ConnectTimeout("x"), aiohttp.ConnectionTimeoutError(), TimeoutError()),
    sdk(httpx2.ConnectError("x")),
    sdk(httpx2.PoolTimeout("x")),
    sdk(httpx2.UnsupportedProtocol("x")),
    sdk(httpx2.LocalProtocolError("x")),
]
MAY_HAVE_LEFT = [
    sdk(httpx2.ConnectError("x"), aiohttp.ServerDisconnectedError()),
    sdk(httpx2.ConnectError("x"), aiohttp.ClientOSError(104, "reset")),
    sdk(httpx2.ConnectError("x"), aiohttp.ClientConnectionResetError("gone")),
    sdk(httpx2.ReadError("x"), aiohttp.ClientPayloadError("cut")),
    sdk(httpx2.RemoteProtocolError("x")),
    sdk(RuntimeError("who knows")),
    httpx2.ReadError("x"),
    ConnectionResetError(),
]
TIMED_OUT = [
    TimeoutError(),
    caused(anthropic.APITimeoutError(request=REQUEST), httpx2.ReadTimeout("x")),
    httpx2.ReadTimeout("x"),
    sdk(httpx2.ReadTimeout("x"), aiohttp.SocketTimeoutError()),
]


@pytest.mark.parametrize("error", NEVER_LEFT, ids=_chain_name)
def test_what_never_left_is_free(error: BaseException) -> None:
    """Only a request that certainly was not sent is a failure to connect."""
    failure = transport_failure(error)
    assert (failure.phase, failure.error_type) == (Phase.CONNECT, "connection_error")


@pytest.mark.parametrize("error", MAY_HAVE_LEFT, ids=_chain_name)
def test_what_may_have_left_is_lost(error: BaseException) -> None:
    """A hang-up is reported by the SDK's transport as a failed connect; it is not one."""
    usage = Usage(parts=(("m", Tokens(input=3)),))
    failure = transport_failure(error, request_id="req_1", usage_so_far=usage)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "answer_lost")
    assert (failure.request_id, failure.usage_so_far) == ("req_1", usage)


@pytest.mark.parametrize("error", TIMED_OUT, ids=_chain_name)
def test_a_timeout_after_sending_is_lost(error: BaseException) -> None:
    """Time ran out while the provider may have been at work."""
    failure = transport_failure(error)
    assert (failure.phase, failure.error_type) == (Phase.LOST, "timeout")


def test_a_body_that_cannot_be_decoded_is_malformed() -> None:
    """Broken compression is a broken answer."""
    assert transport_failure(httpx2.DecodingError("x")).error_type == "malformed_answer"


def test_a_failure_inside_the_chain_is_handed_back() -> None:
    """What was already told is not told again in other words."""
    inner = ModelFailure("overloaded_error", "x", phase=Phase.RESPONSE, status=529)
    assert transport_failure(sdk(inner)) is inner


def _tree(kind: type[BaseException]) -> set[type[BaseException]]:
    return {kind}.union(*(_tree(child) for child in kind.__subclasses__()))


def test_every_exception_of_the_transports_is_told() -> None:
    """Nothing the libraries may raise, today or after an update, ends in anything but a known failure."""
    kinds = sorted(
        _tree(httpx2.HTTPError) | _tree(aiohttp.ClientError), key=lambda kind: kind.__name__
    )
    told = {transport_failure(kind.__new__(kind)).error_type for kind in kinds}
    assert len(kinds) > 30
    assert told == {"connection_error", "answer_lost", "timeout", "malformed_answer"}
