"""What an answer leads to. Pure: every `stop_reason` has its row, and none can pass for success by accident.

Source of the reasons: Messages API documentation, "Handling stop reasons".
"""

from app.agent.transcript import Transcript, enlarged_max_tokens
from app.domain.record import record
from app.domain.task import Conclusion, Outcome, TaskError
from app.llm.answers import ToolUse, text_of, tool_uses
from app.llm.provider import ModelAnswer

CONTINUATIONS_LIMIT = 5
"""How often a paused server-side turn is continued."""
_LAST_WORDS = frozenset(
    {"end_turn", "stop_sequence", "max_tokens", "model_context_window_exceeded"}
)
"""Reasons with which the text of a closing turn is an answer; for a tool call it is only the talk before one."""


@record(frozen=True, slots=True)
class Finish:
    """The task ends."""

    conclusion: Conclusion
    name: str = "finish"


@record(frozen=True, slots=True)
class RunTools:
    """Run these, answer all of them, ask again."""

    uses: tuple[ToolUse, ...]
    name: str = "run_tools"


@record(frozen=True, slots=True)
class AskAgain:
    """Ask again: `continue` a paused turn, `nudge` after an empty one, `enlarge` after a cut-off one.

    `escalate`: ask another model the same.
    """

    name: str


Verdict = Finish | RunTools | AskAgain


def judge(answer: ModelAnswer, transcript: Transcript, asked_tokens: int) -> Verdict:
    """What follows from the answer to the transcript's next question.

    Args:
        answer: the answer.
        transcript: the conversation before it.
        asked_tokens: the `max_tokens` it was asked with, which a budget may have lowered.
    """
    if transcript.closing:
        return _closed(answer, transcript)
    last_step = transcript.steps_left <= 1
    match answer.stop_reason:
        case "end_turn" | "stop_sequence":
            return _ended(answer, transcript, last_step=last_step)
        case "tool_use":
            return _tools(answer, transcript, last_step=last_step)
        case "max_tokens":
            return _cut_off(answer, transcript, asked_tokens, last_step=last_step)
        case "pause_turn":
            return _paused(answer, transcript, last_step=last_step)
        case "refusal":
            return _refused(answer)
        case "model_context_window_exceeded":
            return _partial(
                Outcome.TRUNCATED, answer, transcript, "The answer outgrew the context window."
            )
        case other:
            message = f"The model stopped for a reason this version does not know: {other!r}."
            return _failed(Outcome.UPSTREAM_FAILED, "unknown_stop_reason", message)


def _closed(answer: ModelAnswer, transcript: Transcript) -> Finish:
    """After the closing turn nothing follows: its text is the result, whole or cut off."""
    if answer.stop_reason == "refusal":
        return _refused(answer)
    text = text_of(answer)
    if text.strip() and answer.stop_reason in _LAST_WORDS:
        return Finish(Conclusion(Outcome.BUDGET_FINALIZED, text, partial=True))
    message = "The budget is spent, and the closing turn brought no answer."
    return _partial(Outcome.BUDGET_EXHAUSTED, answer, transcript, message)


def _ended(answer: ModelAnswer, transcript: Transcript, *, last_step: bool) -> Verdict:
    text = text_of(answer)
    if text.strip():
        return Finish(Conclusion(Outcome.ANSWERED, text))
    if not transcript.nudged and not last_step:
        return AskAgain("nudge")
    return _partial(
        Outcome.EMPTY_ANSWER, answer, transcript, "The model ended its turn without an answer."
    )


def _tools(answer: ModelAnswer, transcript: Transcript, *, last_step: bool) -> Verdict:
    uses = tool_uses(answer)
    ids = [use.id for use in uses]
    if not uses or not all(ids) or len(set(ids)) < len(ids):
        message = "The model asked for tools without naming the calls properly."
        return Finish(
            Conclusion(Outcome.UPSTREAM_FAILED, error=TaskError("malformed_answer", message))
        )
    if last_step:
        message = f"The task used all of its {transcript.spec.max_steps} steps."
        return _partial(Outcome.MAX_STEPS, answer, transcript, message)
    return RunTools(tuple(uses))


def _cut_off(
    answer: ModelAnswer, transcript: Transcript, asked_tokens: int, *, last_step: bool
) -> Verdict:
    """A cut-off answer is never acted on: its last tool call may be half a call."""
    spec, wished = transcript.spec, transcript.max_tokens
    can_grow = enlarged_max_tokens(transcript.model, wished) > wished == asked_tokens
    if can_grow and not (spec.max_tokens_explicit or transcript.enlarged or last_step):
        return AskAgain("enlarge")
    message = f"The answer was cut off at {asked_tokens} tokens."
    return _partial(Outcome.TRUNCATED, answer, transcript, message)


def _paused(answer: ModelAnswer, transcript: Transcript, *, last_step: bool) -> Verdict:
    if transcript.continuations < CONTINUATIONS_LIMIT and not last_step:
        return AskAgain("continue")
    message = f"The model's turn was still paused after {transcript.continuations} continuations."
    return _partial(Outcome.MAX_STEPS, answer, transcript, message)


def _partial(outcome: Outcome, answer: ModelAnswer, transcript: Transcript, message: str) -> Finish:
    """A failed end that keeps the latest text, marked as partial."""
    text = text_of(answer) or transcript.last_text or None
    return Finish(
        Conclusion(outcome, text, partial=text is not None, error=TaskError(outcome, message))
    )


def _refused(answer: ModelAnswer) -> Finish:
    category = (answer.stop_details or {}).get("category") or "not stated"
    message = f"The model refused to answer (category: {category})."
    return _failed(Outcome.REFUSED, "refusal", message)


def _failed(outcome: Outcome, error_type: str, message: str) -> Finish:
    return Finish(Conclusion(outcome, error=TaskError(error_type, message)))
