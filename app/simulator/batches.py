"""Message Batches: many requests at half price, answered some time later (documentation page "Batch processing").

POST and GET /v1/messages/batches · GET /v1/messages/batches/{id} · …/{id}/results (JSON lines, in no order) ·
POST …/{id}/cancel. Items are checked, answered and billed when they are processed, not before.

When that is, is for the test to say: `delay_s` after the batch was made (None: never by itself), or at once by
`process`. What is not processed after 24 hours has expired. `creates` tells what becomes of the next batches that
are asked for: `made` as usual, `lost` (made, and the connection is cut), `busy` (429), `failed` (500).
"""

import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Any
from urllib.parse import parse_qs

import orjson

from app.domain.clock import US_PER_S, Clock, rfc3339
from app.domain.record import record
from app.simulator.bill import Bill, Line
from app.simulator.errors import ApiError, JsonObject, invalid, require
from app.simulator.log import Seen
from app.simulator.reply import SIMULATED, Ending, Reply, json_reply

PATH = "/v1/messages/batches"
MAX_BATCH_BYTES = 256 * 1024 * 1024
ITEM_LIMIT = 100_000
LIFETIME_S = 24 * 3_600
CREATES = ("made", "lost", "busy", "failed")
_CUSTOM_ID = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_PAGE, _PAGE_LIMIT = 20, 1_000
_STATES = ("succeeded", "errored", "canceled", "expired")


@record(frozen=True, slots=True)
class Result:
    """What became of one item."""

    value: JsonObject
    line: Line | None = None
    """What it was billed."""


Process = Callable[[Any, str, str], Result]
"""Answers one item: its params, the key, its custom id."""


@dataclass(slots=True)
class Batch:
    """One batch. It has ended once every item has a result."""

    id: str
    key: str
    made_at_us: int
    made_at_s: float
    """By the monotonic clock: a wall clock that is set changes nothing of how long it takes."""
    items: dict[str, Any]
    results: dict[str, Result] = field(default_factory=dict)
    canceled_at_us: int | None = None
    ended_at_us: int | None = None

    def end(self, state: str, now_us: int) -> None:
        """Every item that has no result yet gets this one."""
        for custom_id in self.items:
            self.results.setdefault(custom_id, Result({"type": state}))
        self.ended_at_us = now_us

    def as_json(self) -> JsonObject:
        ended = self.ended_at_us is not None
        found = [result.value["type"] for result in self.results.values()] if ended else []
        counts = {state: found.count(state) for state in _STATES}
        status = "ended" if ended else "in_progress" if self.canceled_at_us is None else "canceling"
        return {
            "id": self.id,
            "type": "message_batch",
            "processing_status": status,
            "request_counts": {"processing": 0 if ended else len(self.items), **counts},
            "created_at": rfc3339(self.made_at_us),
            "expires_at": rfc3339(self.made_at_us + LIFETIME_S * US_PER_S),
            "ended_at": _instant(self.ended_at_us),
            "cancel_initiated_at": _instant(self.canceled_at_us),
            "archived_at": None,
            "results_url": f"{PATH}/{self.id}/results" if ended else None,
        }


class Batches:
    """All batches of an account, oldest first."""

    def __init__(
        self, bill: Bill, clock: Clock, new_id: Callable[[str], str], process: Process
    ) -> None:
        self._bill = bill
        self._clock = clock
        self._new_id = new_id
        self._process = process
        self.all: dict[str, Batch] = {}
        self.delay_s: float | None = 0.0
        self.creates: deque[str] = deque()

    def reply(self, seen: Seen, query: str, body: bytes) -> Reply:
        """The reply to one request under `PATH`.

        Raises:
            ApiError: it gets an error.
        """
        head = {"request-id": seen.request_id, **SIMULATED}
        assert seen.key is not None  # noqa: S101  (checked before)
        self.look()
        match seen.method, seen.path.removeprefix(PATH).strip("/").split("/"):
            case "POST", [""]:
                return self._create(seen.key, body, head)
            case "GET", [""]:
                return json_reply(200, self._list(seen.key, parse_qs(query)), head)
            case "GET", [identifier]:
                return json_reply(200, self._of(seen.key, identifier).as_json(), head)
            case "GET", [identifier, "results"]:
                return self._results(self._of(seen.key, identifier), head)
            case "POST", [identifier, "cancel"]:
                return json_reply(200, self._cancel(self._of(seen.key, identifier)), head)
            case _:
                raise ApiError(404, "not_found_error", f"Not found: {seen.path}")

    def look(self) -> None:
        """Let happen what time has brought about."""
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        for batch in self.all.values():
            age_s = now_s - batch.made_at_s
            if batch.ended_at_us is not None:
                continue
            if batch.canceled_at_us is not None:
                batch.end("canceled", now_us)
            elif age_s >= LIFETIME_S:
                batch.end("expired", now_us)
            elif self.delay_s is not None and age_s >= self.delay_s:
                self.process(batch)

    def process(self, batch: Batch, count: int | None = None) -> None:
        """Answer the next `count` items, or all; a batch without open items has ended."""
        todo = [item for item in batch.items.items() if item[0] not in batch.results]
        for custom_id, params in islice(todo, count):
            batch.results[custom_id] = self._process(params, batch.key, custom_id)
        if len(batch.results) == len(batch.items):
            batch.ended_at_us = self._clock.now_us()

    def _create(self, key: str, body: bytes, head: dict[str, str]) -> Reply:
        how = self.creates.popleft() if self.creates else "made"
        if how == "busy":
            raise ApiError(429, "rate_limit_error", "This request would exceed a rate limit.")
        if how == "failed":
            raise ApiError(500, "api_error", "Internal server error")
        items = _items(body)
        now_us, now_s = self._clock.now_us(), self._clock.monotonic_s()
        batch = Batch(self._new_id("msgbatch_"), key, now_us, now_s, items)
        self.all[batch.id] = batch
        reply = json_reply(200, batch.as_json(), head)
        if how == "lost":
            return Reply(200, head, (), None, ending=Ending.SILENT)
        return reply

    def _of(self, key: str, identifier: str) -> Batch:
        batch = self.all.get(identifier)
        if batch is None or batch.key != key:
            raise ApiError(404, "not_found_error", f"No message batch with id {identifier}")
        return batch

    def _list(self, key: str, query: dict[str, list[str]]) -> JsonObject:
        limit = query.get("limit", [str(_PAGE)])[-1]
        sound = limit.isascii() and limit.isdigit() and 1 <= int(limit) <= _PAGE_LIMIT
        require(sound, f"limit: Input should be from 1 to {_PAGE_LIMIT}")
        newest = [batch for batch in reversed(self.all.values()) if batch.key == key]
        after = query.get("after_id", [None])[-1]
        if after is not None:
            ids = [batch.id for batch in newest]
            require(after in ids, "after_id: no such message batch")
            newest = newest[ids.index(after) + 1 :]
        page = [batch.as_json() for batch in newest[: int(limit)]]
        return {
            "data": page,
            "has_more": len(newest) > len(page),
            "first_id": page[0]["id"] if page else None,
            "last_id": page[-1]["id"] if page else None,
        }

    def _cancel(self, batch: Batch) -> JsonObject:
        require(batch.ended_at_us is None, "The message batch has ended: it cannot be canceled.")
        if batch.canceled_at_us is None:
            batch.canceled_at_us = self._clock.now_us()
        return batch.as_json()

    def _results(self, batch: Batch, head: dict[str, str]) -> Reply:
        require(batch.ended_at_us is not None, "The message batch has not ended yet.")
        lines = [result.line for result in batch.results.values() if result.line is not None]
        pieces = tuple(_lines(batch))
        head = {**head, "content-type": "application/x-jsonl"}
        return Reply(200, head, pieces, None, delivered=partial(self._deliver, lines))

    def _deliver(self, lines: list[Line]) -> None:
        for line in lines:
            self._bill.deliver(line)


def _lines(batch: Batch) -> Iterator[bytes]:
    """Not in the order of the requests: the last comes first."""
    for custom_id in reversed(batch.items):
        value = {"custom_id": custom_id, "result": batch.results[custom_id].value}
        yield orjson.dumps(value) + b"\n"


def _items(body: bytes) -> dict[str, Any]:
    try:
        asked = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        message = f"The request body is not valid JSON: {error}"
        raise ApiError(400, "invalid_request_error", message) from None
    requests = asked.get("requests") if isinstance(asked, dict) else None
    if not isinstance(requests, list) or not requests:
        raise invalid("requests: Field required")
    require(len(requests) <= ITEM_LIMIT, f"requests: at most {ITEM_LIMIT}")
    items: dict[str, Any] = {}
    for number, request in enumerate(requests):
        where = f"requests.{number}"
        require(isinstance(request, dict), f"{where}: Input should be an object")
        custom_id = request.get("custom_id")
        sound = isinstance(custom_id, str) and _CUSTOM_ID.fullmatch(custom_id)
        require(sound, f"{where}.custom_id: String should match pattern '^[a-zA-Z0-9_-]{{1,64}}$'")
        require(custom_id not in items, f"{where}.custom_id: must be unique")
        require(isinstance(request.get("params"), dict), f"{where}.params: Field required")
        items[custom_id] = request["params"]
    return items


def _instant(at_us: int | None) -> str | None:
    return None if at_us is None else rfc3339(at_us)
