"""The HTTP server around the service: its socket, its signals, its orderly end."""

import asyncio
import gc
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import uvicorn

from app.main import Service, running
from app.settings import Role, Settings

CLOSE_TIMEOUT_S = 2
"""How long open connections may last after the drain."""
STOP_LIMIT_S = 8.0
"""How much longer than its grace a stop may take, whatever it waits for."""
KEEP_ALIVE_S = 75
"""An idle connection is kept this long. Longer than clients keep theirs (5 s in httpx, 60 s in most proxies):
closed from both sides at once, a connection loses a POST, and nobody can tell whether it was accepted."""
_BACKLOG = 2_048
_log = logging.getLogger(__name__)


class AddressTakenError(Exception):
    """The host and port cannot be listened on."""


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the drain comes first, and the process exits with 0."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(settings: Settings) -> socket.socket:
    """Take the address before anything else is opened.

    Raises:
        AddressTakenError: in use, not ours, or not allowed.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    taken = socket.socket(family, socket.SOCK_STREAM)
    taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        taken.bind((settings.host, settings.port))
    except OSError as error:
        taken.close()
        message = (
            f"Cannot listen on {settings.host}:{settings.port}: {error.strerror or error}. "
            "Choose another port with BURSAR_PORT or --port."
        )
        raise AddressTakenError(message) from error
    return taken


async def serve(settings: Settings, address: socket.socket, role: Role = Role.SERVE) -> None:
    """Run the service until SIGTERM or SIGINT; a second signal ends it at once.

    Raises:
        SettingsError, StoreError: it cannot start.
    """
    last_resort = _last_resort(settings.grace_s + STOP_LIMIT_S)
    async with running(settings, role=role) as service:
        server = _Server(
            uvicorn.Config(
                service.app,
                log_config=None,
                access_log=settings.access_log,
                proxy_headers=settings.access_log,  # nobody else wants to know who is behind one
                lifespan="off",
                backlog=_BACKLOG,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=CLOSE_TIMEOUT_S,
            )
        )
        asked = _on_signals()
        ending = asyncio.create_task(_end(asked, service, server, last_resort), name="drain")
        host, port = address.getsockname()[:2]
        _log.info(
            "service_started",
            extra={
                "role": role,
                "url": f"http://{host}:{port}",
                "simulated": settings.simulated,
                "workers": settings.workers,
                "version": service.services.version,
            },
        )
        _spare_the_collector()
        await server.serve(sockets=[address])
        asked.set()
        await ending
    last_resort.cancel()
    _log.info("service_stopped")


def _spare_the_collector() -> None:
    """What is there now stays for good: the garbage collector need not walk it again and again.

    Measured: up to a third of the CPU of a five-step task was collections that freed nothing.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


def _on_signals() -> asyncio.Event:
    asked = asyncio.Event()

    def stop(number: int) -> None:
        if asked.is_set():
            _log.warning("service_stopped_at_once")
            os._exit(128 + number)  # as a crash would: the next start takes over
        asked.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    return asked


async def _end(
    asked: asyncio.Event, service: Service, server: uvicorn.Server, last_resort: threading.Timer
) -> None:
    """The API answers while the workers drain; then the connections close."""
    await asked.wait()
    last_resort.start()
    try:
        await service.drain()
    finally:  # whatever went wrong, the process must end
        server.should_exit = True


def _last_resort(after_s: float) -> threading.Timer:
    """A database that has fallen silent holds up threads that nobody can interrupt: the process ends without them."""

    def cut_short() -> None:
        _log.warning("service_stop_cut_short", extra={"waited_s": after_s})
        os._exit(0)  # as a crash would, after what could be done in good order: others take over

    timer = threading.Timer(after_s, cut_short)
    timer.daemon = True
    return timer
