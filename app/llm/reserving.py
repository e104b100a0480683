"""Reserve the worst case of an attempt, waiting in turn where only other calls' reservations block it."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime

from app.budget.accounts import Balance, ServiceLimits, balances
from app.budget.ledger import Attempt, reserve
from app.budget.scopes import Scope
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock
from app.domain.errors import BudgetExhausted
from app.domain.record import record
from app.domain.task import Outcome
from app.journal.call_events import AttemptStarted, ReservationWaited
from app.journal.journal import append, fence
from app.llm.booking import book_unsent
from app.llm.bound import (
    CacheUse,
    affordable_before_closing,
    affordable_max_tokens,
    closing_nano,
    compacted_bound,
    compaction_nano,
    worst_case_nano,
)
from app.llm.cache_plan import tail_of
from app.llm.call import Call, CallFailed, Drain, Parked
from app.llm.governor.passage import Passage
from app.llm.models import facts_of
from app.llm.pricing import BATCH_DIVISOR, PriceBook, PriceRow, UnknownModel
from app.llm.provider import CacheMarks, ModelFailure, Phase
from app.store.persist import shielded
from app.store.port import Store, Tx

Also = Callable[[Tx, Call, Attempt, int], None]
"""Written with the reservation; gets the output that it pays, too."""
PARK_S = 15.0
"""When the first in a line is tried again at the latest; usually it is woken."""
BEHIND_S = 0.5
"""How long a task that is not first holds its worker's slot: those ahead may need it."""
PARK_BEHIND_S = 60.0
"""When such a task is tried again at the latest; it is woken when it has become first."""


@record(frozen=True, slots=True)
class Held:
    """A reservation that is durable: the request may leave."""

    attempt: Attempt
    max_tokens: int
    """What the budget pays of the wished-for output."""
    amount_nano: int
    day: date
    """The prices' day: the answer is settled by it, even past midnight."""
    scopes: tuple[Scope, ...]
    """Where others may wait for its end."""
    tight: bool = False
    """Were all of it lost, what is left would not pay for the same again."""
    marks: CacheMarks | None = None
    """What the reservation pays of the planned caching: all or nothing."""
    compacts: bool = False
    """It pays for a pass that summarizes the conversation, too."""


@record(frozen=True, slots=True)
class _Taken:
    """What the transaction reserved, in its own instant's windows."""

    max_tokens: int
    amount_nano: int
    scopes: tuple[Scope, ...]
    tight: bool
    marks: CacheMarks | None
    compacts: bool


@record(frozen=True, slots=True)
class _Afforded:
    """What the tightest budget pays."""

    max_tokens: int
    marks: CacheMarks | None
    compacts: bool = False


@record(frozen=True, slots=True)
class _Contended:
    scope: Scope
    behind: bool = False
    """Others stand first in the scope's line; else it is their reservations that are in the way."""


class Reserver:
    """Reserves for one process's calls. `wait_s` is how long a worker's slot is held while waiting."""

    def __init__(
        self,
        store: Store,
        prices: PriceBook,
        turns: Turns,
        clock: Clock,
        drain: Drain,
        *,
        wait_s: float,
        service: ServiceLimits,
        also: Also | None = None,
    ) -> None:
        self._store = store
        self._prices = prices
        self._turns = turns
        self._clock = clock
        self._drain = drain
        self._wait_s = wait_s
        self._service = service
        self._also = also

    async def reserve(self, call: Call, number: int, passage: Passage | None = None) -> Held:
        """Hold the worst case of attempt `number` on every scope of the call.

        While it waits for others' money it steps aside in its `passage`; a probe does not wait, it parks. Either way
        it keeps its place in their line.

        Raises:
            BudgetExhausted: spent money leaves less than a minimal call.
            CallFailed: the model has no price any more.
            Parked: other calls' reservations block it for longer than a slot may be held.
            StaleLease, StoreError: nothing is held.
        """
        day = self._today()
        row = self._row(call.request.model, day)
        attempt = Attempt(
            call.subject,
            call.step,
            number,
            call.request.model,
            row.row_id,
            call.payer.key_id or "",
            call.agent or "",
            call.bound,
        )
        task_id, give_up_s = call.subject.task_id, self._clock.monotonic_s() + self._wait_s
        ticket: asyncio.Event | None = None
        announced = False
        while True:
            if self._drain.begun:
                raise Parked("drain", self._clock.now_us())
            if ticket is not None:
                ticket.clear()
            scopes = call.payer.scopes(self._clock.now_us())
            result = await self._try(call, attempt, row, scopes, announce=not announced)
            if isinstance(result, _Contended):
                announced = announced or not result.behind
                ticket = self._turns.join(task_id, result.scope, call.subject.run)
                await self._wait(ticket, give_up_s, passage, behind=result.behind)
                continue
            self._turns.leave(task_id)
            taken = result.max_tokens, result.amount_nano, day, result.scopes, result.tight
            return Held(attempt, *taken, result.marks, result.compacts)

    def lacks(self, call: Call, spent: BudgetExhausted) -> BudgetExhausted | None:
        """None when what is left of the spent budget pays for this call in its smallest form; else what it needs."""
        row = self._row(call.request.model, self._today())
        scope = Scope(spent.scope, spent.scope_id)
        left = Balance(scope, spent.limit_nano, spent.spent_nano, spent.reserved_nano)
        try:
            _affordable(call, row, left)
        except BudgetExhausted as error:
            return error
        return None

    def affords(self, tx: Tx, call: Call) -> bool:
        """Whether spent money leaves enough for this call in its smallest form."""
        stands = balances(tx, call.payer, self._service)
        try:
            row = self._row(call.request.model, self._today())
            _affordable(call, row, min(stands, key=lambda b: b.unspent_nano))
        except (BudgetExhausted, CallFailed):
            return False
        return True

    def _row(self, model: str, day: date) -> PriceRow:
        try:
            return self._prices.row(model, day)
        except UnknownModel as error:  # the price file lost it since the task was accepted
            failure = ModelFailure("unknown_price", str(error), phase=Phase.CONNECT)
            raise CallFailed(Outcome.UPSTREAM_REJECTED, failure) from error

    def _today(self) -> date:
        return datetime.fromtimestamp(self._clock.now_us() // US_PER_S, UTC).date()

    async def _wait(
        self, ticket: asyncio.Event, give_up_s: float, passage: Passage | None, *, behind: bool
    ) -> None:
        left_s = give_up_s - self._clock.monotonic_s()
        if behind:
            left_s = min(left_s, BEHIND_S)
        if passage is not None:
            left_s = 0.0 if passage.is_probe else left_s
            passage.step_aside()
        try:
            async with asyncio.timeout(max(left_s, 0.0)):
                await ticket.wait()
        except TimeoutError:
            park_s = PARK_BEHIND_S if behind else PARK_S
            at_us = self._clock.now_us() + int(park_s * US_PER_S)
            raise Parked("budget_contention", at_us) from None
        if passage is not None:
            await passage.enter()

    async def _try(
        self,
        call: Call,
        attempt: Attempt,
        row: PriceRow,
        scopes: tuple[Scope, ...],
        *,
        announce: bool,
    ) -> _Taken | _Contended:
        """What the budget pays of the call and is reserved now, or who is in the way."""
        ahead = self._turns.ahead_of(call.subject.task_id, scopes)
        if ahead is not None:
            return _Contended(ahead, behind=True)
        op = _reservation(call, attempt, row, self._service, self._also, announce=announce)
        try:
            return await self._store.write(op)
        except asyncio.CancelledError:
            if call.economy:  # what is written down may be sent: whoever ends the run decides
                raise
            # It may still be committed, and nobody would ever end it: the next write in line does.
            try:
                await shielded(self._store, lambda tx: book_unsent(tx, attempt))
            finally:
                self._turns.ended(scopes)
            raise


def _reservation(
    call: Call,
    attempt: Attempt,
    row: PriceRow,
    service: ServiceLimits,
    also: Also | None,
    *,
    announce: bool,
) -> Callable[[Tx], _Taken | _Contended]:
    def op(tx: Tx) -> _Taken | _Contended:
        fence(tx, call.subject, starting=True)
        stands = balances(tx, call.payer, service)
        tightest = min(stands, key=lambda b: b.unspent_nano)
        paid = _affordable(call, row, tightest)
        tokens = paid.max_tokens
        amount = _worst_nano(call, row, tokens, paid.marks, compacts=paid.compacts)
        for held in stands:
            if held.free_nano < amount:
                if announce:
                    append(tx, call.subject, _waited(call, held, amount))
                return _Contended(held.scope)
        scopes = tuple(held.scope for held in stands)
        short = reserve(tx, attempt, scopes, amount)
        if short is not None:  # holds on the scopes before it are undone by this alone
            raise RuntimeError(f"{short} changed inside a transaction")
        append(tx, call.subject, _started(call, attempt, amount, paid))
        if also is not None:
            also(tx, call, attempt, tokens)
        tight = tightest.unspent_nano < 2 * amount
        return _Taken(tokens, amount, scopes, tight, paid.marks, paid.compacts)

    return op


def _affordable(call: Call, row: PriceRow, tightest: Balance) -> _Afforded:
    """The output that the tightest budget pays, what is held back for a closing turn left aside; and the caching.

    Where it does not pay for the whole output and for a summary of the conversation, too, none is made. A cached prompt is reserved at the price of writing it. Where the budget does not pay for the whole output
    then, it is cached only if that costs no more than half of the output: what is read makes up for it.

    Raises:
        BudgetExhausted: less than a minimal call.
    """
    floor = min(call.min_tokens, call.request.max_tokens)
    unspent, wish, marks = (
        max(tightest.unspent_nano, 0) * (BATCH_DIVISOR if call.economy else 1),
        call.request.max_tokens,
        call.request.marks,
    )
    if compacts(call):
        facts, cache = facts_of(row.model), cache_use(marks)
        spare = unspent - compaction_nano(row, facts, call.prompt_tokens, cache=cache)
        grown = replace(call, prompt_tokens=compacted_bound(call.prompt_tokens, facts))
        if spare > 0 and _output(grown, row, spare, cache) >= wish:
            return _Afforded(wish, marks, compacts=True)
    plain = _output(call, row, unspent, "none")
    if marks is not None:
        cached = _output(call, row, unspent, marks.ttl)
        enough = cached >= wish or (marks.reads and cached * 2 >= min(plain, wish))
        if cached >= floor and enough:
            return _Afforded(min(wish, cached), marks)
    if plain >= floor:
        return _Afforded(min(wish, plain), None)
    facts, prompt, closing = facts_of(row.model), call.prompt_tokens, call.closing
    needed = _worst_nano(call, row, floor)
    if closing is not None:
        needed += closing_nano(row, facts, prompt, floor, closing)
    raise tightest.exhausted(needed)


def compacts(call: Call) -> bool:
    """Its prompt may be large enough to be summarized."""
    above = call.request.compact_above_tokens
    return above is not None and call.prompt_tokens > above


def _worst_nano(
    call: Call,
    row: PriceRow,
    max_tokens: int,
    marks: CacheMarks | None = None,
    *,
    compacts: bool = False,
) -> int:
    """The most the call can cost with this output."""
    facts, cache, prompt, more = facts_of(row.model), cache_use(marks), call.prompt_tokens, 0
    if compacts:
        more = compaction_nano(row, facts, prompt, cache=cache)
        prompt = compacted_bound(prompt, facts)
    worst = more + worst_case_nano(row, facts, prompt, max_tokens, cache=cache)
    return -(-worst // BATCH_DIVISOR) if call.economy else worst


def _output(call: Call, row: PriceRow, unspent_nano: int, cache: CacheUse) -> int:
    facts, prompt, closing = facts_of(row.model), call.prompt_tokens, call.closing
    if closing is None:
        return affordable_max_tokens(row, facts, prompt, unspent_nano, cache=cache)
    return affordable_before_closing(row, facts, prompt, unspent_nano, closing, cache=cache)


def cache_use(marks: CacheMarks | None) -> CacheUse:
    """The longest lifetime that is asked for."""
    return "none" if marks is None else marks.ttl


def _started(call: Call, attempt: Attempt, amount_nano: int, paid: _Afforded) -> AttemptStarted:
    marks = paid.marks
    return AttemptStarted(
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        max_tokens=paid.max_tokens,
        prompt_bound_tokens=call.prompt_tokens,
        reserved_nano=amount_nano,
        price_row=attempt.price_row,
        bound=attempt.bound,
        cache=None if marks is None else marks.ttl,
        cached_messages=None if marks is None else tail_of(marks),
        tier="batch" if call.economy else None,
        compact_above_tokens=call.request.compact_above_tokens if paid.compacts else None,
    )


def _waited(call: Call, held: Balance, amount_nano: int) -> ReservationWaited:
    return ReservationWaited(
        step=call.step,
        scope=held.scope.kind,
        needed_nano=amount_nano,
        free_nano=max(held.free_nano, 0),
    )
