"""When a model refuses, is cut off, says nothing or goes in circles: the next dearer route goes on, where that is wanted."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from app.agent.alternatives import alternatives, next_question, score_of
from app.agent.fallback import Fallback
from app.agent.job import Job, with_partial
from app.agent.transcript import Transcript
from app.agent.verdict import Finish, RunTools, Verdict
from app.agent.window import can_fit
from app.domain.errors import BudgetExhausted
from app.domain.money import format_usd
from app.domain.record import record
from app.domain.task import Conclusion, Outcome, TaskError
from app.journal.events import ModelEscalated
from app.llm.answers import ToolUse
from app.llm.pricing import PriceRow, UnknownModel
from app.llm.provider import JsonObject, ModelAnswer

STUCK_ROUNDS = 3
"""The same calls in so many answers on end, with the same results: more of them bring nothing."""
STUCK = "stuck"
_ENDS = frozenset({Outcome.REFUSED, Outcome.TRUNCATED, Outcome.EMPTY_ANSWER})


@record(frozen=True, slots=True)
class Ladder:
    """Which model follows which, and how often."""

    stronger: Callable[[str], str | None]
    """From a model to the next dearer route, if there is one."""
    row: Callable[[str], PriceRow]
    limit: int
    fallback: Fallback | None = None
    """Who goes on where a model cannot be had."""

    def after(
        self,
        verdict: Verdict,
        answer: ModelAnswer,
        transcript: Transcript,
        asked_tokens: int,
        tools: tuple[JsonObject, ...],
    ) -> ModelEscalated | None:
        """The event of a step up that follows instead of the verdict, if one does.

        The answer is paid for and left out. The next question is priced from bytes, as no cache of the other
        model can serve this one.
        """
        why = _why(verdict, answer, transcript, asked_tokens)
        if why is None or transcript.escalations >= self.limit:
            return None
        try:
            trials = self._dearer(transcript)
            return self._event(trials, why, transcript, tools) if trials else None
        except UnknownModel:  # the price file lost one of them since the task was accepted
            return None

    def _dearer(self, transcript: Transcript) -> list[Transcript]:
        """The transcript as each dearer model would go on with it, the next one first; those whose window it can fit."""
        trials = []
        model = self.stronger(transcript.model)
        while model is not None:
            trial = replace(transcript)
            trial.switch_model(model)
            if can_fit(trial):
                trials.append(trial)
            model = self.stronger(model)
        return trials

    def _event(
        self,
        trials: list[Transcript],
        why: str,
        transcript: Transcript,
        tools: tuple[JsonObject, ...],
    ) -> ModelEscalated:
        trial, *dearer = trials
        asked = next_question(trial, tools, self.row)
        others = alternatives([transcript, *dearer], tools, self.row)
        return ModelEscalated(
            step=transcript.step + 1,
            from_model=transcript.model,
            to_model=trial.model,
            why=why,
            number=transcript.escalations + 1,
            prompt_bound_tokens=asked.prompt_tokens,
            next_worst_nano=asked.worst_nano,
            score=score_of(transcript.spec),
            alternatives=others.models,
            alternatives_worst_nano=others.worst_nano,
        )


def given_up(job: Job, error: BudgetExhausted) -> Conclusion | None:
    """The end that the task would have had without the step up, where the budget does not pay for that.

    None when there is none: the budget's policy decides.
    """
    why = job.transcript.escaped_from
    if why is None or why == STUCK:
        return None
    outcome = Outcome(why)
    message = (
        f"{_SAID[outcome]} The {error.scope}'s budget does not pay for {job.transcript.model}, which would have "
        f"gone on: its smallest useful call may cost {format_usd(error.needed_nano)} USD."
    )
    if outcome is Outcome.REFUSED:  # what was said before it is no part of an answer
        return Conclusion(outcome, error=TaskError("refusal", message))
    return with_partial(job, outcome, TaskError(outcome, message))


_SAID = {
    Outcome.REFUSED: "The model refused to answer.",
    Outcome.TRUNCATED: "The answer was cut off.",
    Outcome.EMPTY_ANSWER: "The model ended its turn without an answer.",
}


def _why(
    verdict: Verdict, answer: ModelAnswer, transcript: Transcript, asked_tokens: int
) -> str | None:
    """Why another model should go on; None when it should not, or cannot."""
    last_step = transcript.steps_left <= 1
    if not transcript.spec.escalate or transcript.closing or last_step:
        return None
    if transcript.messages[-1]["role"] != "user":  # a turn that this model began and left open
        return None
    match verdict:
        case Finish(conclusion=conclusion) if conclusion.outcome in _ENDS:
            if conclusion.outcome is Outcome.TRUNCATED and not _too_long(
                answer, transcript, asked_tokens
            ):
                return None
            return conclusion.outcome
        case RunTools(uses=uses) if in_circles(uses, transcript):
            return STUCK
        case _:
            return None


def _too_long(answer: ModelAnswer, transcript: Transcript, asked_tokens: int) -> bool:
    """It was the model's own length: not the client's bound, nor the budget's, nor the context window's."""
    own = not transcript.spec.max_tokens_explicit and asked_tokens == transcript.max_tokens
    return own and answer.stop_reason == "max_tokens"


def in_circles(uses: Sequence[ToolUse], transcript: Transcript) -> bool:
    """These calls were made in each of the latest rounds, by this model, with the same results each time."""
    rounds = STUCK_ROUNDS - 1
    latest = transcript.messages[transcript.switched_at :][-2 * rounds :]
    asked, answered = latest[::2], latest[1::2]
    if len(latest) < 2 * rounds or any(message["role"] != "assistant" for message in asked):
        return False
    calls = [(use.name, use.input) for use in uses]
    if any([(u["name"], u["input"]) for u in _calls(message)] != calls for message in asked):
        return False
    first, *others = [_results(message) for message in answered]
    return all(other == first for other in others)


def _calls(message: JsonObject) -> list[JsonObject]:
    return [block for block in message["content"] if block["type"] == "tool_use"]


def _results(message: JsonObject) -> list[object]:
    return [block.get("content") for block in message["content"]]


def _no_price(model: str) -> PriceRow:
    raise UnknownModel(model)


NO_LADDER = Ladder(lambda _model: None, _no_price, 0)
"""There is nothing to go up to."""
