"""How the simulator refuses: one exception, the Messages API's error shapes (its documentation, "Errors")."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

JsonObject = dict[str, Any]
NO_HEADERS: Mapping[str, str] = MappingProxyType({})


class ApiError(Exception):
    """A request that gets no answer: HTTP status, `error.type`, message, and what goes with them."""

    def __init__(
        self,
        status: int,
        error_type: str,
        message: str,
        *,
        error_code: str | None = None,
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.error_type = error_type
        self.message = message
        self.error_code = error_code
        self.headers = headers

    def body(self, request_id: str) -> JsonObject:
        """The error as the API words it."""
        error: JsonObject = {"type": self.error_type, "message": self.message}
        if self.error_code is not None:
            error["details"] = {"error_code": self.error_code}
        return {"type": "error", "error": error, "request_id": request_id}


def invalid(message: str) -> ApiError:
    """400: the request is not one the API would take."""
    return ApiError(400, "invalid_request_error", message)


def require(holds: object, message: str) -> None:
    """Refuse the request unless `holds`.

    Raises:
        ApiError: 400 with `message`.
    """
    if not holds:
        raise invalid(message)
