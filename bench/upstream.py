"""A Messages API that costs next to nothing: canned bytes, chosen by counting.

    python -m bench.upstream          prints its port

Without tools in the request it answers (W1). With tools it asks for the calculator until the request holds
`ROUNDS` results, then answers (W2). Under /hang it never answers; GET /pending tells how many wait there. Under /slow
it answers after `SLOW_S`. GET /counts tells how many calls it answered, and how many hang. The limits that it announces
are far beyond what is measured: nobody is held up by them.
"""

import asyncio
import json
import re
import sys
from collections.abc import Mapping, Sequence

import uvloop

from bench.workload import MODEL

ROUNDS = 4
SLOW_S = 0.2
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_ANSWER = (
    "Supervised learning fits a model to examples whose answers are known: each input comes with a label, "
    "and training lowers the difference between what the model says and what the label says. Typical uses "
    "are spam filters, price estimates and medical images.\n\nUnsupervised learning has no labels. The model "
    "looks for structure by itself: groups of similar customers, the few directions in which data varies "
    "most, or points that do not fit. Use the first when you know what to predict and have examples, the "
    "second to find out what there is."
)
_THOUGHT = "I will compute the next part with the calculator."


def _message(
    content: Sequence[Mapping[str, object]], stop_reason: str, used: tuple[int, int]
) -> bytes:
    message = {
        "model": MODEL,
        "id": "msg_01BenchBenchBenchBenchBe",
        "type": "message",
        "role": "assistant",
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "stop_details": None,
        "usage": {
            "input_tokens": used[0],
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
            "output_tokens": used[1],
            "service_tier": "standard",
            "inference_geo": "global",
        },
    }
    return json.dumps(message, separators=(",", ":")).encode()


def _response(body: bytes, kind: str = "application/json") -> bytes:
    head = (
        "HTTP/1.1 200 OK\r\nDate: Sun, 22 Nov 2026 12:00:00 GMT\r\n"
        f"Content-Type: {kind}\r\nContent-Length: {len(body)}\r\nConnection: keep-alive\r\n"
    )
    for meter, limit in (
        ("requests", 1_000_000),
        ("tokens", 1_250_000_000),
        ("input-tokens", 1_000_000_000),
        ("output-tokens", 250_000_000),
    ):
        head += (
            f"anthropic-ratelimit-{meter}-limit: {limit}\r\n"
            f"anthropic-ratelimit-{meter}-remaining: {limit - 1_000}\r\n"
            f"anthropic-ratelimit-{meter}-reset: 2026-11-22T12:00:01Z\r\n"
        )
    head += (
        "request-id: req_011BenchBenchBenchBenchB\r\n"
        "anthropic-organization-id: 00000000-0000-4000-8000-000000000000\r\n"
        "strict-transport-security: max-age=31536000; includeSubDomains; preload\r\n"
        "server: bench\r\nx-envoy-upstream-service-time: 800\r\n\r\n"
    )
    return head.encode() + body


def _tool_turn(step: int) -> bytes:
    call = {
        "type": "tool_use",
        "id": f"toolu_01BenchBenchBenchBench{step}",
        "name": "calculator",
        "input": {"expression": f"(17.5 + {step}) * 2 ** 10 / 3"},
    }
    thought = {"type": "text", "text": _THOUGHT}
    return _response(_message([thought, call], "tool_use", (560 + 110 * step, 78)))


def _final(used: tuple[int, int]) -> bytes:
    return _response(_message([{"type": "text", "text": _ANSWER}], "end_turn", used))


_ONE_CALL = _final((18, 131))
_LOOP = [*(_tool_turn(step) for step in range(ROUNDS)), _final((560 + 110 * ROUNDS, 131))]


class _Connection(asyncio.Protocol):
    pending = 0
    answered = 0

    def __init__(self) -> None:
        self._received = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self._received, 0, end)
        whole = end + 4 + (int(length[1]) if length else 0)
        if len(self._received) < whole:
            return
        request, self._received = self._received[:whole], self._received[whole:]
        answer = _answer(request)
        if not answer:
            return
        _Connection.answered += request.startswith(b"POST")
        if request.startswith(b"POST /slow"):
            asyncio.get_running_loop().call_later(SLOW_S, self._send, answer)
        else:
            self._send(answer)

    def _send(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


def _answer(request: bytes) -> bytes:
    if request.startswith(b"POST /hang"):
        _Connection.pending += 1
        return b""
    if request.startswith(b"GET /pending"):
        return _response(str(_Connection.pending).encode(), "text/plain")
    if request.startswith(b"GET /counts"):
        counts = {"answered": _Connection.answered, "hung": _Connection.pending}
        return _response(json.dumps(counts).encode())
    if b'"tools":' not in request:
        return _ONE_CALL
    return _LOOP[min(request.count(b'"tool_result"'), ROUNDS)]


async def _serve() -> None:
    server = await asyncio.get_running_loop().create_server(
        _Connection, "127.0.0.1", 0, backlog=4_096
    )
    sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve())
