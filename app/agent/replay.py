"""The transcript of a task from its journal: byte for byte what the loop had before a crash."""

from collections.abc import Iterable

from app.agent.transcript import Transcript
from app.domain.clock import US_PER_S
from app.domain.task import Bound, TaskSpec
from app.journal.call_events import AttemptFailed, AttemptStarted, ModelAnswered
from app.journal.events import (
    BudgetFinalizing,
    ModelDowngraded,
    ModelEscalated,
    ModelFellBack,
    ModelRouted,
    TaskRetried,
    ToolFinished,
    ToolStarted,
)
from app.journal.journal import Recorded
from app.llm.answers import parse_answer
from app.llm.cache_plan import marks_of
from app.llm.provider import CacheMarks


def rebuild(spec: TaskSpec, entries: Iterable[Recorded]) -> Transcript:
    """The transcript as the events tell it. Pure; the same events give the same bytes."""
    transcript, history = Transcript.begin(spec), list(entries)
    retries = [n for n, entry in enumerate(history) if isinstance(entry.event, TaskRetried)]
    latest = retries[-1] if retries else 0
    for number, entry in enumerate(history):
        match entry.event:
            case ModelAnswered(move=move, request_id=request_id):
                asked = transcript.caching.asked
                raw, ttl = entry.body or b"", "1h" if asked is None else asked.ttl
                transcript.answered(parse_answer(raw, request_id, unsplit_writes=ttl), move)
            case ToolStarted(call_id=call_id):
                transcript.started.add(call_id)
            case ToolFinished(call_id=call_id, is_error=is_error):
                content = (entry.body or b"").decode()
                transcript.tool_answered(call_id, content, is_error=is_error)
            case ModelDowngraded() | ModelEscalated() | ModelFellBack() | ModelRouted() as event:
                _change_model(transcript, event)
            case BudgetFinalizing(results_cut=results_cut):
                transcript.finalizing(results_cut=results_cut, undone=number < latest)
            case _:
                _recount(transcript, entry)
    return transcript


def _change_model(
    transcript: Transcript,
    event: ModelDowngraded | ModelEscalated | ModelFellBack | ModelRouted,
) -> None:
    """Another model went on."""
    match event:
        case ModelDowngraded(to_model=model):
            transcript.switch_model(model)
        case ModelEscalated():
            transcript.escalate(event)
        case ModelFellBack():
            transcript.fall_back(event)
        case ModelRouted(by="classifier" | "fallback", model=model):
            transcript.routed(model)
        case ModelRouted():  # what the task was accepted with: its spec says so, too
            pass


def _marks(event: AttemptStarted) -> CacheMarks | None:
    if event.cache is None:
        return None
    return marks_of("1h" if event.cache == "1h" else "5m", event.cached_messages or 0)


def _recount(transcript: Transcript, entry: Recorded) -> None:
    """Attempts that earlier runs made of the step in progress."""
    tries = transcript.tries
    match entry.event:
        case AttemptStarted(prompt_bound_tokens=prompt_tokens, max_tokens=max_tokens) as event:
            transcript.asked(prompt_tokens, max_tokens, Bound(event.bound))
            if not tries.made:
                transcript.caching.left(_marks(event), entry.at_us)
            tries.made += 1
        case TaskRetried():
            transcript.retried()
        case AttemptFailed(decision="retry", error_type=error_type, duration_s=duration_s) as event:
            tries.failures += 1
            tries.paid += event.kind is not None
            tries.retry_of = error_type
            if tries.failing_since_us is None:
                tries.failing_since_us = entry.at_us - int(duration_s * US_PER_S)
        case AttemptFailed(decision="wait", error_type=error_type):
            tries.forgive()
            tries.retry_of = error_type
        case _:
            pass
