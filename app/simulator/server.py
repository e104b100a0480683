"""The simulator on a socket: carries out reply plans with aiohttp, faithfully to the last cut."""

import asyncio
from itertools import chain, repeat

from aiohttp import web

from app.domain.clock import Clock, SystemClock
from app.domain.record import record
from app.simulator.batches import MAX_BATCH_BYTES
from app.simulator.batches import PATH as BATCHES_PATH
from app.simulator.core import MAX_BODY_BYTES, Simulator
from app.simulator.reply import Ending, Reply

_GRACE_S = 0.2
"""How long closing waits for requests in flight."""


@record(frozen=True, slots=True)
class RunningServer:
    """A simulator that listens."""

    simulator: Simulator
    host: str
    port: int
    _runner: web.ServerRunner

    @property
    def url(self) -> str:
        """Base address for clients, without `/v1`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def close(self) -> None:
        """Stop listening and end what is in flight."""
        await self._runner.cleanup()


async def start(simulator: Simulator, host: str = "127.0.0.1", port: int = 0) -> RunningServer:
    """Listen on `host`:`port`; port 0 takes a free one.

    Raises:
        OSError: the address cannot be taken.
    """
    adapter = _Adapter(simulator)
    # A client that hangs up ends its handler at once: a fault of ten minutes must not outlive it.
    server = web.Server(adapter.handle, handler_cancellation=True, access_log=None)
    runner = web.ServerRunner(server, handle_signals=False, shutdown_timeout=_GRACE_S)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, backlog=2_048).start()
    except OSError:
        await runner.cleanup()
        raise
    bound = runner.addresses[0][1]
    return RunningServer(simulator, host, bound, runner)


async def serve(
    host: str = "127.0.0.1",
    port: int = 8787,
    seed: int = 0,
    *,
    clock: Clock | None = None,
    started: asyncio.Future[RunningServer] | None = None,
) -> None:
    """Run a simulator until cancelled; `started` is told once it listens.

    Raises:
        OSError: the address cannot be taken.
    """
    running = await start(Simulator(clock or SystemClock(), seed=seed), host, port)
    try:
        if started is not None:
            started.set_result(running)
        await asyncio.Event().wait()
    finally:
        await running.close()


class _Adapter:
    def __init__(self, simulator: Simulator) -> None:
        self.simulator = simulator

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        limit = MAX_BATCH_BYTES if request.path == BATCHES_PATH else MAX_BODY_BYTES
        body = await _body(request, limit)
        reply = self.simulator.reply(request.method, request.path_qs, request.headers, body)
        if reply.delay_s:
            await self.simulator.clock.sleep(reply.delay_s)
        if reply.ending is Ending.SILENT:
            return _abort(request, web.Response())
        if reply.ending in (Ending.CUT, Ending.ENDLESS) or reply.pause_s:
            return await self._piecewise(request, reply)
        return await _at_once(request, reply)

    async def _piecewise(self, request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
        response = web.StreamResponse(status=reply.status, headers=reply.headers)
        response.content_length = reply.length
        await response.prepare(request)
        endless = repeat(reply.filling) if reply.ending is Ending.ENDLESS else ()
        for number, piece in enumerate(chain(reply.pieces, endless)):
            if number and reply.pause_s:
                await self.simulator.clock.sleep(reply.pause_s)
            try:
                await response.write(piece)
            except ConnectionResetError:  # the client has gone
                return response
        if reply.ending is Ending.CUT:
            if reply.stall_s:
                await self.simulator.clock.sleep(reply.stall_s)
            return _abort(request, response)
        await response.write_eof()
        _note_delivery(request, reply)
        return response


async def _body(request: web.BaseRequest, limit: int) -> bytes:
    """The request's body, at most one byte more than is allowed."""
    pieces = []
    size = 0
    async for piece in request.content.iter_any():
        pieces.append(piece)
        size += len(piece)
        if size > limit:
            break
    return b"".join(pieces)[: limit + 1]


async def _at_once(request: web.BaseRequest, reply: Reply) -> web.StreamResponse:
    response = web.Response(status=reply.status, headers=reply.headers, body=b"".join(reply.pieces))
    if reply.length is None:
        response.enable_chunked_encoding()
    await response.prepare(request)
    await response.write_eof()
    _note_delivery(request, reply)
    return response


def _note_delivery(request: web.BaseRequest, reply: Reply) -> None:
    transport = request.transport
    gone = transport is None or transport.is_closing()
    if reply.delivered is not None and reply.ending is Ending.WHOLE and not gone:
        reply.delivered()


def _abort(request: web.BaseRequest, response: web.StreamResponse) -> web.StreamResponse:
    if request.transport is not None:
        request.transport.abort()
    return response
