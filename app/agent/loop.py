"""The agent loop: ask the model, run its tools, ask again, until a verdict ends the task."""

from dataclasses import dataclass, replace
from functools import partial

from app.agent.caching import NO_CACHING, Caching
from app.agent.classify import Classifier, due
from app.agent.escalation import NO_LADDER, Ladder, given_up
from app.agent.job import OVERCHARGED_END, HistoryLimits, Job, with_partial
from app.agent.rest import kept, read_rest, with_hint
from app.agent.spent import Cheaper, Fits, SpentBudget, no_cheaper
from app.agent.tool_events import failed, finished, started
from app.agent.transcript import INTERRUPTED, TOOL_CALLS_LIMIT, Transcript
from app.agent.verdict import AskAgain, Finish, RunTools, Verdict, judge
from app.agent.window import can_fit, outgrown, refused_as_too_long
from app.budget.ledger import Settled
from app.domain.clock import Clock
from app.domain.errors import BudgetExhausted, StaleLease
from app.domain.lease import Lease
from app.domain.task import (
    Bound,
    BudgetPolicy,
    Claim,
    Conclusion,
    Outcome,
    TaskError,
    Urgency,
)
from app.journal.events import ModelEscalated
from app.journal.journal import append, fence, may_start
from app.llm.answers import ToolUse
from app.llm.batching.economy import Economy
from app.llm.call import Call, CallFailed, Drain, Parked
from app.llm.caller import Caller
from app.llm.models import facts_of
from app.llm.provider import CacheMarks, ModelAnswer, ModelRequest
from app.observe.logs import Redactor
from app.store.persist import persist
from app.store.port import Store, Tx
from app.tools.port import ToolResult
from app.tools.registry import ToolRegistry
from app.tools.rest import HINT_BYTES, READ_RESULT
from app.tools.run import ToolLimits, run_tool, side_by_side
from app.tools.text import RESULT_LIMIT_MIN_BYTES


@dataclass(slots=True)
class _Recorded:
    """The verdict as the move that the caller writes together with the answer."""

    verdict: Verdict
    job: Job
    step: int
    escalated: ModelEscalated | None = None
    """The step up that follows instead."""
    called_off: bool = False
    """Once written: somebody had asked to cancel the task, and nothing follows."""

    @property
    def name(self) -> str:
        return self.verdict.name

    def write(self, tx: Tx, settled: Settled) -> None:
        self.called_off = False  # it may be run again
        match self.verdict:
            case Finish(conclusion=conclusion):
                self.job.conclude(tx, conclusion)
            case _ if settled.surplus_nano:
                self.job.conclude(tx, OVERCHARGED_END)
            case _ if not may_start(tx, self.job.claim.subject):
                self.called_off = True
            case RunTools(uses=uses):
                for use in uses:
                    append(tx, self.job.claim.subject, started(use, self.step))
            case _ if self.escalated is not None:
                append(tx, self.job.claim.subject, self.escalated)
            case _:
                pass


class AgentLoop:
    """One a process; `run` is safe for many tasks at once."""

    def __init__(
        self,
        store: Store,
        caller: Caller,
        tools: ToolRegistry,
        clock: Clock,
        *,
        tool_limits: ToolLimits,
        stream_above_tokens: int,
        economy: Economy | None = None,
        cheaper: Cheaper = no_cheaper,
        ladder: Ladder = NO_LADDER,
        drain: Drain | None = None,
        lease: Lease | None = None,
        redactor: Redactor | None = None,
        history_limits: HistoryLimits | None = None,
        caching: Caching = NO_CACHING,
    ) -> None:
        self._store = store
        self._spent = SpentBudget(store, clock, cheaper, ladder.row)
        self._classifier = Classifier(store, caller, clock)
        self._ladder = ladder
        self._caller = caller
        self._economy = economy
        self._tools = tools
        self._clock = clock
        self._tool_limits = tool_limits
        self._stream_above_tokens = stream_above_tokens
        self._drain = drain or Drain()
        self._lease = lease or Lease()
        self._redactor = redactor or Redactor()
        self._history_limits = history_limits or HistoryLimits()
        self._caching = caching

    def begin_drain(self) -> None:
        """The service stops: nothing new is started, runs are handed back at their next step."""
        self._drain.begun = True
        self._caller.begin_drain()
        self._caching.release()

    async def run(self, job: Job) -> Conclusion | None:
        """Work on the task until it ends.

        Returns:
            None when its end is recorded already, with its last answer; else the end that the caller must
            record.

        Raises:
            Parked: the task must be given back until the time it says.
            Paused: the task must wait for more money.
            StaleLease: another run holds the task by now.
            StoreError: nothing can be written; the task must be given back.
        """
        definitions = self._tools.definitions(job.claim.spec.tools)
        if job.transcript.pending:  # of an earlier run
            await self._may_go_on(job)
        while True:
            await self._answer_tools(job)
            if self._drain.begun:
                raise Parked("drain", self._clock.now_us())
            end = self._bounded_end(job)
            if end is None:
                try:
                    if await self._advance(job, definitions):
                        return None
                except (BudgetExhausted, CallFailed, Parked) as why:
                    end = await self._otherwise(job, definitions, why)
            if end is not None:
                return end

    async def _advance(self, job: Job, definitions: tuple[dict[str, object], ...]) -> bool:
        """One answer more; whether the task's end is recorded with it."""
        if due(job):
            return not await self._classifier.classify(job)
        move, settled = await self._step(job, definitions)
        return isinstance(move.verdict, Finish) or settled.surplus_nano > 0

    def _bounded_end(self, job: Job) -> Conclusion | None:
        """The end of a task that may not take another step."""
        if job.transcript.steps_left <= 0:
            return _out_of_steps(job)
        if self._history_limits.reached(job.history):
            return _history_full(job, self._history_limits)
        return outgrown(job)

    async def _step(
        self, job: Job, definitions: tuple[dict[str, object], ...]
    ) -> tuple[_Recorded, Settled]:
        transcript = job.transcript
        async with self._caching.question(transcript, definitions, self._longest_s(job)) as asking:
            call = await self._call(job, transcript, definitions, asking.marks)

            def decide(answer: ModelAnswer, asked_tokens: int) -> _Recorded:
                transcript.asked(call.prompt_tokens, asked_tokens, call.bound)
                verdict = judge(answer, transcript, asked_tokens)
                up = self._ladder.after(verdict, answer, transcript, asked_tokens, definitions)
                if up is not None:
                    verdict = AskAgain("escalate")
                return _Recorded(verdict, job, call.step, up)

            asker = self._economy if call.economy and self._economy is not None else self._caller
            answer, move, settled = await asker.ask(call, decide)
            asking.answered(answer.usage, onward=not isinstance(move.verdict, Finish))
        if move.called_off:
            message = (
                f"Task {job.claim.subject.task_id} is to be cancelled: nothing follows its answer."
            )
            raise StaleLease(message)
        transcript.answered(answer, move.name)
        if move.escalated is not None:
            transcript.escalate(move.escalated)
        return move, settled

    def _longest_s(self, job: Job) -> float:
        """How long a tool call of the task may take."""
        tools = (self._tools.find(name) for name in job.claim.spec.tools)
        longest_s = max((tool.timeout_s for tool in tools if tool is not None), default=0.0)
        return min(longest_s, self._tool_limits.timeout_limit_s)

    async def _call(
        self,
        job: Job,
        transcript: Transcript,
        definitions: tuple[dict[str, object], ...],
        marks: CacheMarks | None = None,
    ) -> Call:
        """The next question as a call on the task's account."""
        claim = job.claim
        request = transcript.request(
            definitions, stream_above=self._stream_above_tokens, marks=marks
        )
        prompt_tokens, bound = await self._bounded(claim, transcript, request)
        finalize = claim.spec.on_budget is BudgetPolicy.FINALIZE and not transcript.closing
        return Call(
            subject=claim.subject,
            step=transcript.step + 1,
            request=request,
            payer=job.payer,
            prompt_tokens=prompt_tokens,
            min_tokens=facts_of(request.model).min_output_tokens,
            deadline_s=job.deadline_s,
            tries=transcript.tries,
            closing=transcript.closing_turn() if finalize else None,
            bound=bound,
            agent=claim.spec.agent,
            economy=claim.spec.urgency is Urgency.ECONOMY and self._economy is not None,
            live=True,
        )

    def _fits(
        self, job: Job, definitions: tuple[dict[str, object], ...], error: BudgetExhausted
    ) -> Fits:
        async def fits(model: str) -> BudgetExhausted | None:
            trial = replace(job.transcript)
            trial.switch_model(model)
            if not can_fit(trial):
                return error
            return self._caller.lacks(await self._call(job, trial, definitions), error)

        return fits

    async def _otherwise(
        self,
        job: Job,
        definitions: tuple[dict[str, object], ...],
        why: BudgetExhausted | CallFailed | Parked,
    ) -> Conclusion | None:
        """The end of a task whose model gave no answer; None when it goes on in another way.

        Raises:
            Parked: it waits for its model, or for its turn.
            Paused: it waits for more money.
        """
        if isinstance(why, BudgetExhausted):
            fits = self._fits(job, definitions, why)
            return given_up(job, why) or await self._spent.decide(job, why, fits, definitions)
        fallback = self._ladder.fallback
        if fallback is not None and not due(job):  # else it was the classifier that was asked
            call_of = partial(self._call, job, definitions=definitions)
            if await fallback.instead(job, why, call_of):
                return None
        if isinstance(why, Parked):
            raise why
        return _call_failed(job, why)

    async def _bounded(
        self, claim: Claim, transcript: Transcript, request: ModelRequest
    ) -> tuple[int, Bound]:
        """The prompt's upper bound: proved, or the provider's estimate where that was asked for and is lower."""
        proved = transcript.prompt_tokens(request)
        if claim.spec.bound is Bound.PROVED:
            return proved, Bound.PROVED
        estimate = await self._caller.estimate(claim.subject, request)
        if estimate is None or estimate >= proved:
            return proved, Bound.PROVED
        return estimate, Bound.ESTIMATE

    async def _may_go_on(self, job: Job) -> None:
        """Ask the store.

        Raises:
            StaleLease: others have taken over, or somebody asked to cancel the task.
        """
        await self._store.read(lambda tx: fence(tx, job.claim.subject, starting=True))

    async def _answer_tools(self, job: Job) -> None:
        """Run the pending tool calls side by side; all of them are answered in one message."""
        pending = job.transcript.pending
        if not pending:
            return
        if not self._lease.is_sure(self._clock.monotonic_s()):  # the process was stopped, say
            await self._may_go_on(job)
        resumed = job.transcript.started
        answering = [self._answer_tool(job, use, known=use.id in resumed) for use in pending]
        if len(answering) == 1:  # mostly: it needs no task of its own
            results = [await answering[0]]
        else:
            results = await side_by_side(answering)
        for use, result in zip(pending, results, strict=True):
            job.transcript.tool_answered(use.id, result.content, is_error=result.is_error)

    async def _answer_tool(self, job: Job, use: ToolUse, *, known: bool) -> ToolResult:
        result = self._cleaned(await self._run_tool(job, use, known=known))
        subject, step = job.claim.subject, job.transcript.step
        rest = kept(result, use, step) if self._reads_on(job) else None
        if rest is not None:
            result = with_hint(result, use)
        event = finished(use, step, result)

        def op(tx: Tx) -> None:
            fence(tx, subject)
            append(tx, subject, event, result.content.encode())
            if rest is not None:
                append(tx, subject, *rest)

        await persist(self._store, self._clock, op)
        return result

    def _reads_on(self, job: Job) -> bool:
        """The task can read what is left out of its results."""
        return READ_RESULT in self._tools.offered(job.claim.spec.tools)

    def _cleaned(self, result: ToolResult) -> ToolResult:
        """An exception's text may quote a credential; neither the model nor the journal may see it."""
        if not result.is_error:
            return result
        clean = self._redactor.clean
        message = result.error_message
        return replace(
            result,
            content=clean(result.content),
            error_message=None if message is None else clean(message),
        )

    async def _run_tool(self, job: Job, use: ToolUse, *, known: bool) -> ToolResult:
        tool = self._tools.find(use.name)
        if known and not (tool is not None and tool.idempotent):
            return failed("interrupted", INTERRUPTED)
        if use.malformed:
            return failed("invalid_arguments", "The call could not be read; it did not run.")
        if job.transcript.position_of(use.id) >= TOOL_CALLS_LIMIT:
            text = f"Not run: at most {TOOL_CALLS_LIMIT} tool calls in one turn."
            return failed("too_many_calls", text)
        reads_on, limit_bytes = self._reads_on(job), self._tool_limits.result_limit_bytes
        if tool is not None and tool.name == READ_RESULT and reads_on:
            return await read_rest(self._store, job.claim.subject, tool, use)
        left_s = job.deadline_s - self._clock.monotonic_s()
        limit_s = max(min(self._tool_limits.timeout_limit_s, left_s), 0.001)
        return await run_tool(
            self._tools,
            key=f"{job.claim.subject.task_id}/{job.transcript.step}/{use.id}",
            name=use.name,
            arguments=use.input,
            allowed=job.claim.spec.tools,
            limits=ToolLimits(
                result_limit_bytes=max(limit_bytes - HINT_BYTES, RESULT_LIMIT_MIN_BYTES)
                if reads_on
                else limit_bytes,
                timeout_limit_s=limit_s,
            ),
            clock=self._clock,
        )


def _out_of_steps(job: Job) -> Conclusion:
    message = f"The task used all of its {job.claim.spec.max_steps} steps."
    return with_partial(job, Outcome.MAX_STEPS, TaskError("max_steps", message))


def _history_full(job: Job, limits: HistoryLimits) -> Conclusion:
    message = (
        f"The task's history is too long: {job.history.events} events and {job.history.size_bytes} bytes; "
        f"it may have {limits.events} and {limits.size_bytes}."
    )
    return with_partial(job, Outcome.HISTORY_LIMIT, TaskError("history_limit", message))


def _call_failed(job: Job, error: CallFailed) -> Conclusion:
    failure = error.failure
    too_long = refused_as_too_long(job, failure)
    if too_long is not None:
        return too_long
    return with_partial(job, error.outcome, TaskError(failure.error_type, failure.message))
