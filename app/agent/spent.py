"""When spent money leaves less than the next call may cost: a cheaper model, a pause, a closing turn, or the end."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from app.agent.alternatives import RowOf, Tools, alternatives, next_question, score_of
from app.agent.job import Job, with_partial
from app.agent.transcript import Transcript
from app.agent.window import can_fit
from app.domain.clock import Clock
from app.domain.errors import BudgetExhausted
from app.domain.money import format_usd
from app.domain.task import BudgetPolicy, Conclusion, Outcome, TaskError
from app.journal.event import Event
from app.journal.events import BudgetFinalizing, ModelDowngraded
from app.journal.journal import append, fence
from app.llm.call import Paused
from app.llm.pricing import UnknownModel
from app.store.persist import persist
from app.store.port import Store, Tx

Cheaper = Callable[[str], str | None]
"""From a model to the next cheaper route, if there is one."""


Fits = Callable[[str], Awaitable[BudgetExhausted | None]]
"""None when what is left pays for the next question to this model; else what it would need.

For a model whose context window is too small, that is what was needed already."""


def no_cheaper(_model: str) -> str | None:
    """There is nothing to go down to."""
    return None


class SpentBudget:
    """Applies a task's policy. What it decides is an event before it takes effect: a restart comes to the same."""

    def __init__(self, store: Store, clock: Clock, cheaper: Cheaper, row: RowOf) -> None:
        self._store = store
        self._clock = clock
        self._cheaper = cheaper
        self._row = row

    async def decide(
        self, job: Job, error: BudgetExhausted, fits: Fits, tools: Tools
    ) -> Conclusion | None:
        """What follows: None when the task goes on, in another way; else its end.

        Raises:
            Paused: the task waits for more money.
            StaleLease: this run no longer holds the task.
        """
        spec, transcript, least = job.claim.spec, job.transcript, error
        if spec.downgrade and not transcript.closing:
            model, least = await self._next_that_fits(transcript.model, fits, error)
            if model is not None:
                await self._write(job, self._downgraded(transcript, model, error, tools))
                transcript.switch_model(model)
                return None
        if spec.on_budget is BudgetPolicy.PAUSE:
            raise Paused(least, otherwise=_exhausted(job, error))
        if spec.on_budget is BudgetPolicy.FINALIZE:
            if not transcript.closing:
                await self._write(job, _finalizing(job, error, cut=False))
                transcript.close()
                return None
            # Even the closing turn is too dear: only the price of one without these was held back.
            if transcript.leave_out_results():
                await self._write(job, _finalizing(job, error, cut=True))
                return None
        return _exhausted(job, error)

    async def _next_that_fits(
        self, model: str, fits: Fits, least: BudgetExhausted
    ) -> tuple[str | None, BudgetExhausted]:
        """The next cheaper route that fits, if any; and the least that any of them needs."""
        cheaper = self._cheaper(model)
        while cheaper is not None:
            lacks = await fits(cheaper)
            if lacks is None:
                break
            least = min(least, lacks, key=lambda error: error.needed_nano)
            cheaper = self._cheaper(cheaper)
        return cheaper, least

    def _downgraded(
        self, transcript: Transcript, model: str, error: BudgetExhausted, tools: Tools
    ) -> ModelDowngraded:
        chosen, others = None, [transcript]
        cheaper = self._cheaper(transcript.model)
        while cheaper is not None:
            trial = replace(transcript)
            trial.switch_model(cheaper)
            if cheaper == model:
                chosen = trial
            elif can_fit(trial):
                others.append(trial)
            cheaper = self._cheaper(cheaper)
        instead = alternatives(others, tools, self._row)
        return ModelDowngraded(
            step=transcript.step + 1,
            from_model=transcript.model,
            to_model=model,
            scope=error.scope,
            needed_nano=error.needed_nano,
            next_worst_nano=None if chosen is None else self._worst_nano(chosen, tools),
            score=score_of(transcript.spec),
            alternatives=instead.models,
            alternatives_worst_nano=instead.worst_nano,
        )

    def _worst_nano(self, transcript: Transcript, tools: Tools) -> int | None:
        try:
            return next_question(transcript, tools, self._row).worst_nano
        except UnknownModel:  # the price file lost it since: its call will say so
            return None

    async def _write(self, job: Job, event: Event) -> None:
        subject = job.claim.subject

        def op(tx: Tx) -> None:
            fence(tx, subject)
            append(tx, subject, event)

        await persist(self._store, self._clock, op)


def _finalizing(job: Job, error: BudgetExhausted, *, cut: bool) -> BudgetFinalizing:
    return BudgetFinalizing(
        step=job.transcript.step + 1,
        scope=error.scope,
        limit_nano=error.limit_nano,
        spent_nano=error.spent_nano,
        results_cut=cut,
    )


def _exhausted(job: Job, error: BudgetExhausted) -> Conclusion:
    message = (
        f"The {error.scope}'s budget of {format_usd(error.limit_nano)} USD is spent but for "
        f"{format_usd(max(error.limit_nano - error.spent_nano, 0))} USD; the smallest useful call may cost "
        f"{format_usd(error.needed_nano)} USD. No call was made."
    )
    return with_partial(job, Outcome.BUDGET_EXHAUSTED, TaskError("budget_exhausted", message))
