"""When a model is overloaded or down: the next of the task's chain that can be had goes on, where there is one."""

from collections.abc import Awaitable, Callable
from dataclasses import replace

from app.agent.alternatives import alternatives, score_of
from app.agent.job import Job
from app.agent.transcript import Transcript
from app.agent.window import can_fit
from app.domain.clock import US_PER_S, Clock
from app.domain.task import Outcome
from app.journal.events import ModelFellBack
from app.journal.journal import append, fence
from app.llm.bound import worst_case_nano
from app.llm.call import Call, CallFailed, Parked
from app.llm.caller import Caller
from app.llm.models import facts_of
from app.llm.pricing import PriceRow, UnknownModel
from app.llm.retry import may_pass
from app.store.persist import persist
from app.store.port import Store, Tx

OUTAGE = "upstream_outage"
CallOf = Callable[[Transcript], Awaitable[Call]]
"""From a transcript to its next question, on the task's account."""


class Fallback:
    """One a process. What it decides is an event before it takes effect: a restart comes to the same."""

    def __init__(
        self,
        store: Store,
        caller: Caller,
        clock: Clock,
        row: Callable[[str], PriceRow],
        after_s: float,
    ) -> None:
        self._store = store
        self._caller = caller
        self._clock = clock
        self._row = row
        self._after_s = after_s

    async def instead(self, job: Job, why: CallFailed | Parked, call_of: CallOf) -> bool:
        """Whether another model goes on now, instead of the failure or the wait.

        Raises:
            Parked: not yet; the task looks again when the outage has lasted for long enough.
            StaleLease: this run no longer holds the task.
        """
        transcript = job.transcript
        models = self._at_hand(transcript)
        reason = self._reason(transcript.model, why) if models else None
        if reason is None:
            return False
        trials = _trials(transcript, models)
        for trial in trials:
            others = [transcript, *(other for other in trials if other is not trial)]
            if await self._goes_on(job, reason, await call_of(trial), others):
                return True
        return False

    def _at_hand(self, transcript: Transcript) -> list[str]:
        """Those of the chain that may be asked, and are not down as well."""
        if transcript.closing or transcript.messages[-1]["role"] != "user":
            return []  # the price of the last turn was held back for this model; or a turn that it left open
        gone = {transcript.model, *transcript.fallen_from}
        chain = [model for model in transcript.spec.fallback if model not in gone]
        return [model for model in chain if self._caller.outage_s(model) is None]

    def _reason(self, model: str, why: CallFailed | Parked) -> str | None:
        """Why the model is left; None where it is not."""
        if isinstance(why, CallFailed):
            passing = why.outcome is Outcome.UPSTREAM_FAILED and may_pass(why.failure)
            return why.failure.error_type if passing else None
        if why.reason != OUTAGE:
            return None
        left_s = self._after_s - (self._caller.outage_s(model) or 0.0)
        if left_s > 0:
            soon_us = self._clock.now_us() + int(left_s * US_PER_S) + 1
            raise Parked(OUTAGE, min(why.available_at_us, soon_us)) from why
        return "outage"

    async def _goes_on(self, job: Job, reason: str, call: Call, others: list[Transcript]) -> bool:
        """Write it down, if the budget pays for the call: else the task rather waits, or ends as it would have."""
        try:
            event = self._event(job.transcript, reason, call, others)
        except UnknownModel:  # the price file lost it since the task was accepted
            return False

        def op(tx: Tx) -> bool:
            fence(tx, job.claim.subject, starting=True)
            if not self._caller.affords(tx, call):
                return False
            append(tx, job.claim.subject, event)
            return True

        written = await persist(self._store, self._clock, op)
        if written:
            self._caller.leave(job.claim.subject.task_id)
            job.transcript.fall_back(event)
        return written

    def _event(
        self, transcript: Transcript, reason: str, call: Call, others: list[Transcript]
    ) -> ModelFellBack:
        model = call.request.model
        instead = alternatives(others, call.request.tools, self._row)
        return ModelFellBack(
            step=call.step,
            from_model=transcript.model,
            to_model=model,
            why=reason,
            outage_s=self._caller.outage_s(transcript.model),
            prompt_bound_tokens=call.prompt_tokens,
            next_worst_nano=worst_case_nano(
                self._row(model), facts_of(model), call.prompt_tokens, call.request.max_tokens
            ),
            score=score_of(transcript.spec),
            alternatives=instead.models,
            alternatives_worst_nano=instead.worst_nano,
        )


def _trials(transcript: Transcript, models: list[str]) -> list[Transcript]:
    """The transcript as each of the models would go on with it; those whose window it can fit."""
    trials = []
    for model in models:
        trial = replace(transcript)
        trial.switch_model(model)
        if can_fit(trial):
            trials.append(trial)
    return trials
