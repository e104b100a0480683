"""A caller at work: a real store and ledger, a scripted provider, a clock that the test owns."""

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from app.budget.accounts import ServiceLimits
from app.budget.ledger import Settled
from app.budget.turns import Turns
from app.domain.clock import US_PER_S
from app.domain.errors import StoreFull
from app.domain.task import Claim
from app.journal.event import Event
from app.journal.journal import read_all
from app.llm.call import Call
from app.llm.caller import Caller, CallLimits
from app.llm.governor.governor import Governor, GovernorLimits
from app.llm.live import Live
from app.llm.models import facts_of
from app.llm.pricing import PriceBook
from app.llm.provider import ModelAnswer, ModelRequest
from app.llm.retry import RetryLimits
from app.llm.retry_budget import RetryBudget, RetryTerms
from app.queue import leases
from app.store.port import Operation, Store, T, Tx
from app.store.sqlite import SqliteStore
from app.worker.recovery import rescue_all
from tests.support.clock import START_US, FakeClock
from tests.support.provider import Line, ScriptedProvider
from tests.support.seeding import payer_of

PROMPT_TOKENS = 1_000


@cache
def prices() -> PriceBook:
    """All prices, read once."""
    return PriceBook.load()


class FlakyStore(Store):
    """A store that fails as many writes as it is told to; dead, it never comes back from one.

    `dies_after` writes it dies, with the next one in its hands: `keeps_last` says whether that is kept.
    """

    def __init__(self, store: SqliteStore) -> None:
        self.inner = store
        self.failures_left = 0
        self.failed = 0
        self.dead = False
        self.dies_after: int | None = None
        self.keeps_last = False
        self.died = asyncio.Event()
        self.taken_before: str | None = None
        """Everything is taken away from the worker just before it writes this, by the operation's name."""

    async def write(self, op: Operation[T]) -> T:
        await self._live_or_die(op)
        if op.__qualname__.replace(".<locals>", "") == self.taken_before:
            self.taken_before = None
            await self.inner.write(lambda tx: leases.leave(tx, "w"))
            await rescue_all(self.inner, "lease_expired", 5)
        if self.failures_left:
            self.failures_left -= 1
            self.failed += 1
            raise StoreFull("No space left.")
        return await self.inner.write(op)

    async def _live_or_die(self, op: Operation[T]) -> None:
        if self.dies_after == 0 and not self.dead:
            self.dead = True
            if self.keeps_last:
                await self.inner.write(op)
            self.died.set()
        if self.dead:
            await asyncio.Event().wait()
        if self.dies_after is not None:
            self.dies_after -= 1

    async def read(self, op: Operation[T]) -> T:
        return await self.inner.read(op)

    async def close(self) -> None:
        await self.inner.close()


@dataclass
class Noted:
    """A move that remembers what it was told."""

    name: str = "finish"
    settled: list[Settled] = field(default_factory=list)

    def write(self, tx: Tx, settled: Settled) -> None:
        self.settled.append(settled)


def decide(_answer: ModelAnswer, _asked_tokens: int) -> Noted:
    """The move of a test that does not care."""
    return Noted()


@dataclass
class Desk:
    """Everything a call needs."""

    store: FlakyStore
    provider: ScriptedProvider
    turns: Turns
    clock: FakeClock
    caller: Caller
    live: Live
    governor: Governor
    retries: RetryBudget

    async def ask(self, call: Call) -> tuple[ModelAnswer, Noted, Settled]:
        """One call with a move that does not matter."""
        return await self.caller.ask(call, decide)

    async def events(self, claim: Claim, kind: type[Event] | None = None) -> list[Any]:
        """What the journal says of the task; of one kind, if named."""
        entries = await read_all(self.store, claim.subject)
        return [e.event for e in entries if kind is None or isinstance(e.event, kind)]

    @asynccontextmanager
    async def busy_writer(self) -> AsyncIterator[None]:
        """While the block lasts, no write gets through: what is asked waits behind a slow one."""
        started, gate = threading.Event(), threading.Event()

        def slow(_tx: Tx) -> None:
            started.set()
            assert gate.wait(30)

        writing = asyncio.ensure_future(self.store.inner.write(slow))
        assert await asyncio.to_thread(started.wait, 30)
        try:
            yield
        finally:
            gate.set()
            await writing


@asynccontextmanager
async def open_desk(
    folder: Path,
    *script: Line,
    park_after_s: float = 5.0,
    service: ServiceLimits | None = None,
    terms: RetryTerms | None = None,
    lets: GovernorLimits | None = None,
    clock: FakeClock | None = None,
    provider: ScriptedProvider | None = None,
    **retry: Any,
) -> AsyncIterator[Desk]:
    """A desk over an empty store; the provider, by default a scripted one, will say `script`."""
    clock, turns, live = clock or FakeClock(), Turns(), Live()
    store = FlakyStore(SqliteStore(folder, clock))
    provider = provider or ScriptedProvider(*script)
    limits = CallLimits(park_after_s=park_after_s, retry=RetryLimits(**retry))
    retries = RetryBudget(clock, terms, turns.call)
    governor = Governor(clock, replace(lets or GovernorLimits(), park_after_s=park_after_s))
    governor.on_turn = turns.call
    caller = Caller(
        store,
        provider,
        prices(),
        turns,
        clock,
        limits,
        service=service,
        retries=retries,
        live=live,
        governor=governor,
    )
    try:
        yield Desk(store, provider, turns, clock, caller, live, governor, retries)
    finally:
        governor.begin_drain()
        await store.close()


def call_of(claim: Claim, **given: Any) -> Call:
    """The task's first question."""
    request = ModelRequest(
        model=claim.spec.model,
        max_tokens=given.pop("max_tokens", claim.spec.max_tokens),
        messages=[{"role": "user", "content": claim.spec.text}],
    )
    fields: dict[str, Any] = {
        "subject": claim.subject,
        "step": 1,
        "request": request,
        "payer": payer_of(claim),
        "prompt_tokens": PROMPT_TOKENS,
        "min_tokens": facts_of(request.model).min_output_tokens,
        "deadline_s": (claim.deadline_at_us - START_US) / US_PER_S,
    }
    return Call(**{**fields, **given})
