"""Ask a model on a task's account: reserve the worst case, make an attempt, settle; again if that may help.

Every attempt is a reservation of its own, made durable before the request leaves. The answer, its price and
what follows from it are recorded in one transaction.
"""

import logging
from contextlib import suppress
from dataclasses import field, replace
from typing import NoReturn

import backoff

from app.budget.accounts import ServiceLimits
from app.budget.ledger import Attempt, Settled
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock
from app.domain.errors import BudgetExhausted
from app.domain.lease import Lease
from app.domain.record import record
from app.domain.task import Outcome, Subject
from app.journal.journal import fence
from app.llm.booking import Late, book_answer, book_failure, book_unsent, tell_late
from app.llm.call import Call, CallFailed, Decide, Drain, M, Parked, Tries
from app.llm.costs import answer_cost
from app.llm.governor.governor import Governor
from app.llm.governor.passage import Passage
from app.llm.live import Live, Voice
from app.llm.pricing import Cost, PriceBook, UnknownModel
from app.llm.provider import (
    ModelAnswer,
    ModelFailure,
    ModelRequest,
    Phase,
    Progress,
    Provider,
    WarmsUp,
)
from app.llm.reserving import Held, Reserver
from app.llm.retry import GiveUp, RetryLimits, Wait, decide, known_unbilled, sit_out_s
from app.llm.retry_budget import RetryBudget
from app.observe.logs import Redactor
from app.store.persist import persist, shielded
from app.store.port import Store, Tx

_log = logging.getLogger(__name__)
COUNT_TIMEOUT_S = 30.0
OVERCHARGED = ModelFailure(
    "reservation_exceeded",
    "The upstream reported more usage than it can have had.",
    phase=Phase.STREAM,
)
COUNT_SLACK_TOKENS = 100


@record(frozen=True, slots=True)
class CallLimits:
    """Bounds of one model call."""

    attempt_timeout_s: float = 600.0
    park_after_s: float = 5.0
    """A wait longer than this gives the worker's slot back."""
    retry: RetryLimits = field(default_factory=RetryLimits)


Asked = tuple[ModelAnswer, M, Settled]


class _TryAgainError(Exception):
    """What `backoff` listens to: the attempt failed, another follows after `wait_s`."""

    def __init__(self, wait_s: float) -> None:
        super().__init__()
        self.wait_s = wait_s


class Caller:
    """One a process. `ask` is safe from many tasks at once."""

    def __init__(
        self,
        store: Store,
        provider: Provider,
        prices: PriceBook,
        turns: Turns,
        clock: Clock,
        limits: CallLimits,
        *,
        drain: Drain | None = None,
        lease: Lease | None = None,
        redactor: Redactor | None = None,
        service: ServiceLimits | None = None,
        live: Live | None = None,
        retries: RetryBudget | None = None,
        governor: Governor | None = None,
    ) -> None:
        self._governor = governor or Governor(clock)
        self._retries = retries or RetryBudget(clock)
        self._store = store
        self._provider = provider
        self._prices = prices
        self._turns = turns
        self._ready = provider.ready if isinstance(provider, WarmsUp) else None
        self._clock = clock
        self._limits = limits
        self._lease = lease or Lease()
        self._redactor = redactor or Redactor()
        self._live = live or Live()
        self._reserver = Reserver(
            store,
            prices,
            turns,
            clock,
            drain or Drain(),
            wait_s=limits.park_after_s,
            service=service or ServiceLimits(),
        )

    def begin_drain(self) -> None:
        """The service stops: no call that waits for its turn may leave any more."""
        self._governor.begin_drain()

    async def ask(self, call: Call, then: Decide[M]) -> Asked[M]:
        """Get an answer, pay it and record it with the move that `then` decides on.

        Raises:
            BudgetExhausted: spent money leaves less than a minimal call; none was made.
            CallFailed: no answer, and none to be had.
            Parked: the call goes on later; the task must be given back.
            StaleLease: this run no longer holds the task.
            StoreError: the reservation could not be written; no call was made.
        """
        try:
            if self._ready is not None:
                # Before money is held: whoever goes away meanwhile has cost none. A failure meets the question, too.
                with suppress(ModelFailure):
                    await self._ready()
            try:
                return await self._attempt(call, then)
            except _TryAgainError as failed:  # seldom: most calls need no bookkeeping of tries
                first = failed
            return await self._again(call, then, [first])
        except Parked:
            raise  # the task keeps its place in line
        except BaseException:
            self._turns.leave(call.subject.task_id)
            raise

    def lacks(self, call: Call, spent: BudgetExhausted) -> BudgetExhausted | None:
        """None when what is left of the spent budget pays for this call in its smallest form; else what it needs."""
        return self._reserver.lacks(call, spent)

    def affords(self, tx: Tx, call: Call) -> bool:
        """Whether spent money leaves enough for this call in its smallest form."""
        return self._reserver.affords(tx, call)

    def outage_s(self, model: str) -> float | None:
        """For how long the model has failed nearly everybody; None: it does not, as far as is known."""
        found = self._governor.outage_s(model), self._retries.outage_s(model)
        return max((since_s for since_s in found if since_s is not None), default=None)

    def leave(self, task_id: str) -> None:
        """The task waits for its model no more: another goes on."""
        self._governor.forget(task_id)
        self._retries.leave(task_id)

    async def estimate(self, subject: Subject, request: ModelRequest) -> int | None:
        """The prompt's tokens as the provider estimates them, with a margin; None when it gives no count.

        Source of the margin: Messages API documentation calls the deviations small and states no bound.
        """
        try:
            counted = await self._provider.count_tokens(replace(request, timeout_s=COUNT_TIMEOUT_S))
        except ModelFailure as failure:
            message = self._redactor.clean(failure.message)
            extra = {"task_id": subject.task_id, "error_message": message}
            _log.warning("token_count_failed", extra=extra)
            return None
        return counted + counted // 20 + COUNT_SLACK_TOKENS

    @backoff.on_exception(
        backoff.runtime, _TryAgainError, value=lambda e: e.wait_s, jitter=None, logger=None
    )
    async def _again(self, call: Call, then: Decide[M], failed: list[_TryAgainError]) -> Asked[M]:
        """Wait and try, until there is an answer: begins with the failure that an attempt has met."""
        if failed:
            raise failed.pop()
        return await self._attempt(call, then)

    async def _attempt(self, call: Call, then: Decide[M]) -> Asked[M]:
        passage = Passage(self._governor, call)
        await passage.enter()
        try:
            if not passage.is_probe:
                self._pay_for_retry(call)
            held = await self._reserver.reserve(call, call.tries.made + 1, passage)
            call.tries.made += 1
            started_s = self._clock.monotonic_s()
            if not self._lease.is_sure(started_s):
                await self._ask_the_store(held)
        except BaseException:
            passage.step_aside()
            raise
        left_s = call.deadline_s - started_s
        progress = Progress(on_text=self._voice(call, held.attempt))
        request = replace(
            call.request,
            max_tokens=held.max_tokens,
            # A stream that breaks off is booked by the prompt it reported; an answer in one piece, when it is
            # lost, at the whole reservation. It costs more CPU: short calls that nobody watches go without.
            stream=call.request.stream or held.tight or progress.on_text is not None,
            marks=held.marks,
            compact_above_tokens=call.request.compact_above_tokens if held.compacts else None,
            reference=held.attempt.id,
            timeout_s=max(min(self._limits.attempt_timeout_s, left_s), 0.001),
            progress=progress,
        )
        try:
            answer = await passage.leave().ask(self._provider, request)
            move = then(answer, held.max_tokens)
        except ModelFailure as failure:
            await self._fail(call, held, failure, started_s)
        except BaseException:  # cancelled, timed out, handed back, or a bug: the answer is lost
            await self._interrupted(held, started_s, progress)
            raise
        return await self._record(call, held, answer, move, started_s)

    def _voice(self, call: Call, attempt: Attempt) -> Voice | None:
        """Who hears the attempt's text as it comes; None when nobody does."""
        if not call.live:
            return None
        subject = call.subject
        return self._live.voice(subject.task_id, subject.run, attempt.step, attempt.attempt)

    def _pay_for_retry(self, call: Call) -> None:
        """See to it that a retry is within the process's budget of retries.

        Raises:
            Parked: it is not, and looks again later.
            CallFailed: it is not, and the deadline is too close.
        """
        model, task_id, why = call.request.model, call.subject.task_id, call.tries.retry_of
        if why is None or self._retries.pays(model, task_id, timed_out=why == "timeout"):
            return
        left_s = call.deadline_s - self._clock.monotonic_s()
        wait_s = sit_out_s(self._retries.pause_s(model), left_s)
        if wait_s is None:
            message = "The upstream has been failing, and no time is left to wait for it."
            raise CallFailed(
                Outcome.UPSTREAM_FAILED, ModelFailure(why, message, phase=Phase.CONNECT)
            )
        raise self._sat_out(call, wait_s)

    def _is_down(self, model: str, failures: int) -> bool:
        """The upstream fails nearly everybody, by what retries or all calls have met; sooner seen with a last attempt."""
        if self._retries.drained(model) or self._governor.outage_s(model) is not None:
            return True
        return failures >= self._limits.retry.max_attempts and self._retries.fails_all(model)

    def _sat_out(self, call: Call, wait_s: float) -> Parked:
        self._retries.line_up(call.request.model, call.subject.task_id, wait_s)
        return Parked("upstream_outage", self._clock.now_us() + int(wait_s * US_PER_S))

    async def _ask_the_store(self, held: Held) -> None:
        """The process was stopped, say, since it reserved: nothing may leave once others have taken over.

        Raises:
            StaleLease: they have.
        """
        try:
            await self._store.read(lambda tx: fence(tx, held.attempt.subject))
        except BaseException:
            try:
                await shielded(self._store, lambda tx: book_unsent(tx, held.attempt))
            finally:
                self._turns.ended(held.scopes)
            raise

    async def _record(
        self, call: Call, held: Held, answer: ModelAnswer, move: M, started_s: float
    ) -> Asked[M]:
        attempt = held.attempt
        cost = answer_cost(self._prices, answer, attempt.model, held.day, compacts=held.compacts)
        duration_s = self._clock.monotonic_s() - started_s
        try:
            settled = await persist(
                self._store,
                self._clock,
                lambda tx: book_answer(tx, attempt, answer, move, cost=cost, duration_s=duration_s),
                abandoned=lambda booked: tell_late(attempt, booked),
            )
        finally:
            self._turns.ended(held.scopes)
        if isinstance(settled, Late):
            tell_late(attempt, settled)
            raise settled.stale
        self._retries.answered(attempt.model)
        return answer, move, settled

    async def _fail(
        self, call: Call, held: Held, failure: ModelFailure, started_s: float
    ) -> NoReturn:
        """Book what the attempt may have cost, and raise what follows from it."""
        now_s, tries = self._clock.monotonic_s(), call.tries
        failure.message = self._redactor.clean(failure.message)
        tries.failures += 1
        tries.paid += not known_unbilled(failure)
        duration_s = now_s - started_s
        if tries.failing_since_s is None:
            tries.failing_since_s = self._first_failure_s(tries, started_s)
        tries.retry_of, model = failure.error_type, call.request.model
        self._retries.failed(model, call.subject.task_id)
        decision = decide(
            failure,
            attempt=tries.failures,
            elapsed_s=now_s - tries.failing_since_s,
            left_s=call.deadline_s - now_s,
            limits=self._limits.retry,
            outage_s=self._retries.pause_s(model) if self._is_down(model, tries.failures) else None,
        )
        cost = self._broken_off(failure, held)
        overcharged = cost is not None and cost.nano > held.amount_nano
        if overcharged:  # it cannot have been so: stop
            decision = GiveUp(Outcome.UPSTREAM_FAILED)
        try:
            late = await persist(
                self._store,
                self._clock,
                lambda tx: book_failure(tx, held.attempt, failure, decision, duration_s, cost),
                abandoned=lambda late: tell_late(held.attempt, late),
            )
        finally:
            self._turns.ended(held.scopes)
        if late is not None:
            tell_late(held.attempt, late)
            raise late.stale
        if overcharged:
            raise CallFailed(Outcome.UPSTREAM_FAILED, OVERCHARGED)
        if isinstance(decision, GiveUp):
            raise CallFailed(decision.outcome, failure)
        if isinstance(decision, Wait):
            tries.forgive()
            raise self._sat_out(call, decision.wait_s)
        if decision.wait_s > self._limits.park_after_s:
            at_us = self._clock.now_us() + int(decision.wait_s * US_PER_S)
            raise Parked("retry_wait", at_us)
        raise _TryAgainError(decision.wait_s)

    def _first_failure_s(self, tries: Tries, started_s: float) -> float:
        """When the question's first failing attempt began, by the monotonic clock.

        What an earlier run had noted is an instant: no reading of a monotonic clock outlives its process.
        """
        if tries.failing_since_us is None:
            return started_s
        ago_s = (self._clock.now_us() - tries.failing_since_us) / US_PER_S
        return self._clock.monotonic_s() - max(ago_s, 0.0)

    def _broken_off(self, failure: ModelFailure, held: Held) -> Cost | None:
        """What a stream can have cost that broke off after `message_start`: its prompt, and all of the output.

        What it had said of its output is a lower bound: text may have been on its way, thinking is not shown.
        """
        usage = failure.usage_so_far
        if usage is None or len(usage.parts) != 1 or held.compacts:
            return None
        ((model, tokens),) = usage.parts
        if not tokens.prompt:  # some servers report the prompt only at the end
            return None
        worst = replace(tokens, output=max(tokens.output, held.max_tokens))
        try:
            return self._prices.cost(replace(usage, parts=((model, worst),)), held.day)
        except UnknownModel:
            return None

    async def _interrupted(self, held: Held, started_s: float, progress: Progress) -> None:
        failure = ModelFailure(
            "interrupted",
            "The call was interrupted.",
            phase=Phase.LOST,
            usage_so_far=progress.usage_so_far,
        )
        duration_s = self._clock.monotonic_s() - started_s
        cost = self._broken_off(failure, held)
        try:
            await shielded(
                self._store,
                lambda tx: book_failure(tx, held.attempt, failure, None, duration_s, cost),
            )
        finally:
            self._turns.ended(held.scopes)
