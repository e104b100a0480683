"""Bodies are read strictly: JSON only, no duplicate keys, no NaN, no number that does not fit, no deep nesting."""

import json
from collections.abc import Callable, Coroutine
from decimal import Decimal, InvalidOperation
from typing import Any

from fastapi import HTTPException, Request, Response
from fastapi.routing import APIRoute

BODY_LIMIT_BYTES = 2 * 1024 * 1024
"""256 KiB of text, every character of it escaped, and room for the rest."""
DEPTH_LIMIT = 64
_INT_DIGITS = 19
_DECIMAL_CHARS = 40


class StrictRequest(Request):
    """A request whose `json` takes nothing it would have to guess about."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            chunks, size = [], 0
            async for chunk in self.stream():
                size += len(chunk)
                if size > BODY_LIMIT_BYTES:
                    raise HTTPException(413, f"A body has at most {BODY_LIMIT_BYTES:,} bytes.")
                chunks.append(chunk)
            self._body = b"".join(chunks)
        return self._body

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = parse(await self.body())
        return self._json


class StrictRoute(APIRoute):
    """A route that reads its body with `StrictRequest` and takes JSON only."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        takes_body = self.body_field is not None
        may_lack = self.body_field is not None and not self.body_field.field_info.is_required()

        async def strictly(request: Request) -> Response:
            if takes_body and not (may_lack and _empty(request)):
                refuse_other_media(request)
            return await handle(StrictRequest(request.scope, request.receive))

        return strictly


def refuse_other_media(request: Request) -> None:
    """Whatever the body is, it must be said to be JSON.

    Raises:
        HTTPException: 415.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/json":
        raise HTTPException(415, "Send the body with 'content-type: application/json'.")


def _empty(request: Request) -> bool:
    """Whether the request says that it brings no body."""
    length = request.headers.get("content-length", "0")
    return length == "0" and "transfer-encoding" not in request.headers


def parse(body: bytes) -> Any:
    """The JSON value in `body`; fractions as `Decimal`.

    Raises:
        json.JSONDecodeError: it is not JSON, or not strict enough; the message says why.
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise json.JSONDecodeError("not UTF-8", "", error.start) from error
    if _depth(text) > DEPTH_LIMIT:
        raise json.JSONDecodeError(f"nested deeper than {DEPTH_LIMIT} levels", "", 0)
    try:
        return json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_float=_decimal,
            parse_int=_int,
        )
    except _NotStrictError as error:
        raise json.JSONDecodeError(str(error), "", 0) from error


class _NotStrictError(ValueError):
    pass


def _depth(text: str) -> int:
    """Upper bound of the nesting; brackets inside strings count too, but only where it could matter."""
    if text.count("[") + text.count("{") <= DEPTH_LIMIT:
        return 0
    depth = deepest = 0
    in_string = escaped = False
    for char in text:
        if in_string:
            in_string = escaped or char != '"'
            escaped = char == "\\" and not escaped
        elif char == '"':
            in_string = True
        elif char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise _NotStrictError("the same key stands twice in one object")
    return found


def _no_constant(name: str) -> Any:
    raise _NotStrictError(f"{name} is not JSON")


def _int(digits: str) -> int:
    if len(digits) > _INT_DIGITS:
        raise _NotStrictError("a whole number with more than 19 digits")
    return int(digits)


def _decimal(digits: str) -> Decimal:
    if len(digits) > _DECIMAL_CHARS:
        raise _NotStrictError("a number with more than 40 characters")
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise _NotStrictError("a number whose exponent is out of all bounds") from None
