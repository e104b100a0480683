"""Ask in a batch: reserve half the worst case and write the question down; take the answer in when it is there.

A run does one of these and ends, or goes on with the answer. Between them the task holds no worker.
"""

from dataclasses import replace

from app.budget.accounts import ServiceLimits
from app.budget.ledger import Attempt, Settled, open_attempts
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock
from app.journal.journal import fence
from app.llm.batching import items
from app.llm.batching.items import Item
from app.llm.batching.port import Batches
from app.llm.batching.results import Returned, read_result
from app.llm.booking import Late, book_answer, book_failure
from app.llm.call import Call, CallFailed, Decide, Drain, M, Parked
from app.llm.caller import Asked
from app.llm.pricing import PriceBook
from app.llm.provider import ModelAnswer, ModelFailure
from app.llm.reserving import Reserver
from app.llm.retry import GiveUp, RetryLimits, decide
from app.observe.logs import Redactor
from app.store.persist import persist
from app.store.port import Store, Tx

PARKED = "batch"
"""Why a task is given back that waits for its batch."""


class Economy:
    """One a process."""

    def __init__(
        self,
        store: Store,
        batches: Batches,
        prices: PriceBook,
        turns: Turns,
        clock: Clock,
        limits: RetryLimits,
        *,
        wait_s: float,
        drain: Drain | None = None,
        redactor: Redactor | None = None,
        service: ServiceLimits | None = None,
    ) -> None:
        self._store = store
        self._batches = batches
        self._prices = prices
        self._turns = turns
        self._clock = clock
        self._limits = limits
        self._redactor = redactor or Redactor()
        self._reserver = Reserver(
            store,
            prices,
            turns,
            clock,
            drain or Drain(),
            wait_s=wait_s,
            service=service or ServiceLimits(),
            also=self._add,
        )

    async def ask(self, call: Call, then: Decide[M]) -> Asked[M]:
        """The answer, where the batch has brought it; paid and recorded with the move that `then` decides on.

        Raises:
            Parked: it has not, or the question was written down only now.
            BudgetExhausted, CallFailed, StaleLease, StoreError: as of any call.
        """
        try:
            return await self._asked(call, then)
        except Parked:
            raise
        except BaseException:
            self._turns.leave(call.subject.task_id)
            raise

    async def _asked(self, call: Call, then: Decide[M]) -> Asked[M]:
        task_id = call.subject.task_id
        item = await self._store.read(lambda tx: items.find(tx, task_id, call.step))
        if item is not None:
            if item.result is None:
                raise self._parked(call)
            found = read_result(item.result, item.model)
            asked = await self._taken_in(call, item, found, then)
            if asked is not None:
                return asked
        await self._reserver.reserve(call, call.tries.made + 1)
        call.tries.made += 1
        raise self._parked(call)

    def _add(self, tx: Tx, call: Call, attempt: Attempt, max_tokens: int) -> None:
        items.add(tx, call, attempt, max_tokens, self._batches.params(call.request, max_tokens))

    def _parked(self, call: Call) -> Parked:
        """Until the answer is there; at the deadline the queue ends it."""
        left_s = max(call.deadline_s - self._clock.monotonic_s(), 0.0)
        return Parked(PARKED, self._clock.now_us() + int(left_s * US_PER_S))

    async def _taken_in(
        self, call: Call, item: Item, found: Returned, then: Decide[M]
    ) -> Asked[M] | None:
        """Pay and record what came back; None when the question is to be asked again."""
        outcome = found.outcome
        if isinstance(outcome, ModelAnswer):
            try:
                move = then(outcome, item.max_tokens)
            except ModelFailure as failure:
                outcome = failure
            else:
                return await self._answered(call, item, found, outcome, move)
        await self._failed(call, item, outcome)
        return None

    async def _answered(
        self, call: Call, item: Item, found: Returned, answer: ModelAnswer, move: M
    ) -> Asked[M]:
        cost, waited_s = items.cost_of(self._prices, found, item), self._waited_s(item)

        def op(tx: Tx) -> Settled | Late:
            attempt = _attempt(tx, call, item)
            booked = book_answer(tx, attempt, answer, move, cost=cost, duration_s=waited_s)
            if not isinstance(booked, Late):  # else whoever holds the task takes it in
                items.remove(tx, item)
            return booked

        try:
            settled = await persist(self._store, self._clock, op)
        finally:
            self._ended(call)
        if isinstance(settled, Late):
            raise settled.stale
        return answer, move, settled

    async def _failed(self, call: Call, item: Item, failure: ModelFailure) -> None:
        """Book it; returns when another attempt may help.

        Raises:
            CallFailed: none may.
        """
        waited_s = self._waited_s(item)
        failure.message = self._redactor.clean(failure.message)
        call.tries.failures += 1
        decision = decide(
            failure,
            attempt=call.tries.failures,
            elapsed_s=0.0,  # its waits are the batches'
            left_s=call.deadline_s - self._clock.monotonic_s(),
            limits=self._limits,
        )

        def op(tx: Tx) -> None:
            fence(tx, call.subject)
            book_failure(tx, _attempt(tx, call, item), failure, decision, waited_s)
            items.remove(tx, item)

        try:
            await persist(self._store, self._clock, op)
        finally:
            self._ended(call)
        if isinstance(decision, GiveUp):
            raise CallFailed(decision.outcome, failure)

    def _waited_s(self, item: Item) -> float:
        return max(self._clock.now_us() - item.made_at_us, 0) / US_PER_S

    def _ended(self, call: Call) -> None:
        self._turns.ended(call.payer.scopes(self._clock.now_us()))


def _attempt(tx: Tx, call: Call, item: Item) -> Attempt:
    """The reservation under this run's name: what it leads to is written under its fence."""
    held = (a for a in open_attempts(tx, call.subject) if a.id == item.reservation.id)
    return replace(next(held, item.reservation), subject=call.subject)
