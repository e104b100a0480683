"""One process of a simulated world: a whole service that can be killed, frozen, robbed of its lock."""

import asyncio
from collections.abc import Callable
from contextvars import copy_context
from pathlib import Path
from typing import Any, cast

import orjson

from app.api.services import Services
from app.domain.clock import Clock
from app.main import Service, running
from app.settings import Settings
from app.store.port import ListenedStore
from app.worker.ears import Ears
from app.worker.pool import WorkerPool
from tests.simulation.loop import PROCESS, Fate, SeededLoop, State
from tests.simulation.now import Nature, VirtualClock
from tests.simulation.store import SimulatedStore
from tests.simulation.upstream import Upstream

MakeStore = Callable[[Path, Clock, Nature, Callable[[str], bool], bool], SimulatedStore]
REQUEST_TIMEOUT_S = 60.0


class ConnectionLost(Exception):  # noqa: N818  (what a client sees)
    """The process died, or never answered: what became of the request is unknown."""


class Process(Fate):
    """A service over `settings.data_dir`. `up` is set once it takes work, `gone` once it has let go.

    Unless it is `alone` others may run on the same database; its clock is wrong by `skew_s`.
    """

    def __init__(
        self,
        nature: Nature,
        settings: Settings,
        make_store: MakeStore,
        *,
        alone: bool = True,
        skew_s: float = 0.0,
    ) -> None:
        super().__init__()
        self._alone = alone
        self._skew_s = skew_s
        self._nature = nature
        self._settings = settings
        self._make_store = make_store
        self._context = copy_context()
        self._context.run(PROCESS.set, self)
        self._stopping = asyncio.Event()
        self._commits_left: int | None = None
        self._moment = "before"
        self._store: SimulatedStore | None = None
        self._service: Service | None = None
        self.up = asyncio.Event()
        self.gone = asyncio.Event()
        self.failure: BaseException | None = None
        self._life = self._spawn(self._live())

    def crash(self) -> None:
        """kill -9: nothing of it runs any more."""
        if self.state is State.DEAD or self.gone.is_set():
            return
        self.state = State.DEAD
        asyncio.get_running_loop().call_soon(self._let_go, context=_outside())

    def crash_at_commit(self, count: int, moment: str) -> None:
        """Die at the `count`-th COMMIT from now, `before` or `after` it."""
        self._commits_left, self._moment = count, moment

    def freeze(self) -> None:
        """SIGSTOP."""
        if self.state is State.ALIVE:
            self.state = State.FROZEN

    def thaw(self) -> None:
        """SIGCONT."""
        if self.state is State.FROZEN:
            cast("SeededLoop", asyncio.get_running_loop()).thaw(self)

    def lose_lock(self) -> None:
        """Let another process take the directory while this one still lives."""
        if self._store is not None:
            self._store.lose_lock()

    async def stop(self) -> None:
        """SIGTERM; returns once it has left."""
        self._context.run(self._stopping.set)
        await self.gone.wait()

    async def request(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON of an answer. `key` is the request's `Idempotency-Key`.

        Raises:
            ConnectionLost: none came.
        """
        if self._service is None or self.state is State.DEAD or self.gone.is_set():
            raise ConnectionLost
        answering = self._spawn(_answer(self._service, method, path, body, key))
        dying = asyncio.ensure_future(self.gone.wait())
        try:
            await asyncio.wait(
                (answering, dying), timeout=REQUEST_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            dying.cancel()
        if not answering.done():
            raise ConnectionLost
        status, shown = answering.result()
        return status, shown

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        return asyncio.get_running_loop().create_task(work, context=self._context.copy())

    async def _live(self) -> None:
        try:
            async with running(
                self._settings,
                VirtualClock(self._nature, self._skew_s),
                open_store=self._open_store,
                open_provider=lambda _settings, _simulator: Upstream(self._nature),
                open_ears=self._open_ears,
            ) as service:
                self._service = service
                self.up.set()
                await self._stopping.wait()
        except Exception as error:  # noqa: BLE001  (the world wants to know)
            self.failure = error
        finally:
            self.gone.set()

    def _open_store(self, folder: Path, clock: Clock) -> SimulatedStore:
        self._store = self._make_store(folder, clock, self._nature, self._at_commit, self._alone)
        return self._store

    def _open_ears(
        self, chosen: Settings, store: ListenedStore, services: Services, pool: WorkerPool
    ) -> Ears | None:
        """The real ones; what is said reaches them as the world's hints do."""
        hints = self._nature.hints
        if hints is None:
            return None
        assert isinstance(store, SimulatedStore)
        return Ears(
            store.name,
            hints.listener,
            store=store,
            feed=services.feed,
            pool=pool,
            turns=services.turns,
            governor=services.governor,
            clock=services.clock,
            poll_s=chosen.heartbeat_s,
        )

    def _at_commit(self, moment: str) -> bool:
        """Whether the process dies here."""
        if self._commits_left is None or self._moment != moment:
            return False
        self._commits_left -= 1
        if self._commits_left > 0 or self.state is not State.ALIVE:
            return False
        self._nature.reached[f"crash {moment} commit"] += 1
        self.crash()
        return True

    def _let_go(self) -> None:
        if self._store is not None:
            self._store.let_go()
        self.gone.set()


def _outside() -> Any:
    context = copy_context()
    context.run(PROCESS.set, None)
    return context


async def _answer(
    service: Service, method: str, path: str, body: Any, key: str | None
) -> tuple[int, Any]:
    """Ask the application as a server would, without a socket."""
    plain, _, query = path.partition("?")
    content = b"" if body is None else orjson.dumps(body)
    asked = [{"type": "http.request", "body": content, "more_body": False}]
    status, sent = 0, list[bytes]()

    async def receive() -> dict[str, Any]:
        if asked:
            return asked.pop()
        await asyncio.get_running_loop().create_future()  # the client stays
        raise AssertionError

    async def send(message: Any) -> None:
        nonlocal status
        if message["type"] == "http.response.start":
            status = message["status"]
        else:
            sent.append(message.get("body", b""))

    headers = [(b"host", b"bursar.test"), (b"content-type", b"application/json")]
    headers.append((b"content-length", str(len(content)).encode()))
    if key is not None:
        headers.append((b"idempotency-key", key.encode()))
    scope = {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": plain,
        "raw_path": plain.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": headers,
        "client": ("127.0.0.1", 1),
        "server": ("bursar.test", 80),
    }
    await service.app(scope, receive, send)
    return status, orjson.loads(b"".join(sent))
