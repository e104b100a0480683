"""Batches without sockets, and a process that dies at any write or call that it makes on their account."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from app.agent.job import Job
from app.agent.loop import AgentLoop
from app.agent.replay import rebuild
from app.agent.transcript import Transcript
from app.budget.scopes import Payer
from app.budget.turns import Turns
from app.domain.clock import US_PER_S
from app.domain.task import Claim, Conclusion
from app.journal.journal import read_all
from app.llm.anthropic_batches import result_of, standing_of
from app.llm.batching.economy import Economy
from app.llm.batching.port import ItemResult, Standing
from app.llm.body import batch_params
from app.llm.call import Parked
from app.llm.caller import Caller, CallLimits
from app.llm.failures import status_failure
from app.llm.provider import ModelFailure, ModelRequest, Phase
from app.llm.retry import RetryLimits
from app.queue import verbs
from app.simulator.core import Simulator
from app.simulator.reply import Ending
from app.store.persist import persist
from app.store.port import Operation, Store, T, Tx
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits
from app.worker.batch_rows import BatchLimits
from app.worker.batches import BatchKeeper
from app.worker.recovery import park, presume_open
from tests.support.clock import FakeClock
from tests.support.desk import prices
from tests.support.provider import ScriptedProvider

PATH = "/v1/messages/batches"
_KEY = {"authorization": "Bearer simulated"}


class Killed(BaseException):
    """The process is gone: nothing of it goes on."""


class Fuse:
    """Counts the points that a process comes past, and kills it at one of them."""

    def __init__(self, target: int | None = None) -> None:
        self.target = target
        self.passed: list[str] = []
        self.dead = False

    def at(self, name: str) -> None:
        """Pass a point, or die there; the dead get nowhere."""
        if self.dead:
            raise Killed
        self.passed.append(name)
        if len(self.passed) - 1 == self.target:
            self.dead = True
            raise Killed


class FusedStore(Store):
    """A store with a point before and after each write."""

    def __init__(self, store: Store, fuse: Fuse) -> None:
        self._store = store
        self._fuse = fuse

    async def write(self, op: Operation[T]) -> T:
        self._fuse.at("before write")
        value = await self._store.write(op)
        self._fuse.at("after write")
        return value

    async def read(self, op: Operation[T]) -> T:
        if self._fuse.dead:
            raise Killed
        return await self._store.read(op)

    async def close(self) -> None:
        await self._store.close()


@dataclass
class DirectBatches:
    """The simulator's batches, with a point before and after each call."""

    simulator: Simulator
    fuse: Fuse = field(default_factory=Fuse)

    def params(self, request: ModelRequest, max_tokens: int) -> bytes:
        return batch_params(request, max_tokens)

    async def create(self, items: Sequence[tuple[str, bytes]]) -> Standing:
        requests = [{"custom_id": name, "params": orjson.loads(p)} for name, p in items]
        return standing_of(self._json("POST", "", orjson.dumps({"requests": requests})))

    async def find(self, batch_id: str) -> Standing:
        return standing_of(self._json("GET", f"/{batch_id}"))

    async def cancel(self, batch_id: str) -> None:
        self._json("POST", f"/{batch_id}/cancel")

    async def listed(self) -> AsyncIterator[Standing]:
        for batch in self._json("GET", "?limit=1000")["data"]:
            yield standing_of(batch)

    async def results(self, batch_id: str) -> AsyncIterator[ItemResult]:
        for line in self._asked("GET", f"/{batch_id}/results", b"").splitlines():
            yield result_of(line)

    def _json(self, method: str, target: str, body: bytes = b"") -> Any:
        return orjson.loads(self._asked(method, target, body))

    def _asked(self, method: str, target: str, body: bytes) -> bytes:
        self.fuse.at(f"before {method} {target or '/'}")
        reply = self.simulator.reply(method, PATH + target, _KEY, body)
        self.fuse.at(f"after {method} {target or '/'}")
        if reply.ending is Ending.SILENT:
            raise ModelFailure("answer_lost", "gone", phase=Phase.LOST)
        raw = b"".join(reply.pieces)
        if reply.status != 200:
            raise status_failure(reply.status, reply.headers, raw, now_us=0)
        if reply.delivered is not None:
            reply.delivered()
        return raw


@dataclass
class Process:
    """One process's life: what runs a task, and what looks after batches."""

    store: Store
    clock: FakeClock
    batches: DirectBatches
    loop: AgentLoop
    keeper: BatchKeeper

    @classmethod
    def begin(
        cls,
        store: Store,
        clock: FakeClock,
        simulator: Simulator,
        fuse: Fuse,
        limits: BatchLimits | None = None,
        batches: DirectBatches | None = None,
    ) -> "Process":
        """A process over that store."""
        fused, turns = FusedStore(store, fuse), Turns()
        batches = batches or DirectBatches(simulator, fuse)
        retry = RetryLimits()
        caller = Caller(fused, ScriptedProvider(), prices(), turns, clock, CallLimits(retry=retry))
        economy = Economy(fused, batches, prices(), turns, clock, retry, wait_s=5.0)
        loop = AgentLoop(
            fused,
            caller,
            ToolRegistry([]),
            clock,
            tool_limits=ToolLimits(),
            stream_above_tokens=8_192,
            economy=economy,
        )
        keeper = BatchKeeper(fused, batches, prices(), clock, limits or BatchLimits())
        return cls(fused, clock, batches, loop, keeper)

    async def work(self, claim: Claim) -> None:
        """One run of a task, as a worker would do it."""
        try:
            conclusion = await self.loop.run(await self._job(claim))
        except Parked as parked:
            await self._let_go(claim, parked)
            return
        if conclusion is not None:
            await self._finish(claim, conclusion)

    async def _job(self, claim: Claim) -> Job:
        transcript, subject = Transcript.begin(claim.spec), claim.subject
        if subject.run > 1:
            transcript = rebuild(claim.spec, await read_all(self.store, subject))
        left_s = (claim.deadline_at_us - self.clock.now_us()) / US_PER_S
        payer = Payer(subject.task_id, subject.session_id, subject.owner)

        def conclude(tx: Tx, conclusion: Conclusion) -> None:
            verbs.finish(tx, subject, conclusion)

        return Job(claim, transcript, payer, conclude, self.clock.monotonic_s() + left_s)

    async def _let_go(self, claim: Claim, parked: Parked) -> None:
        assert parked.reason == "batch"

        def op(tx: Tx) -> None:
            presume_open(tx, claim.subject, parked.reason)
            assert park(tx, claim)

        await persist(self.store, self.clock, op)

    async def _finish(self, claim: Claim, conclusion: Conclusion) -> None:
        def op(tx: Tx) -> None:
            presume_open(tx, claim.subject, conclusion.outcome, ending=True)
            verbs.finish(tx, claim.subject, conclusion)

        await persist(self.store, self.clock, op)
