"""The model's context window: a conversation that no longer fits ends in so many words, not with a surprise."""

from app.agent.job import Job, with_partial
from app.agent.transcript import Transcript
from app.domain.task import Conclusion, Outcome, TaskError
from app.llm.models import facts_of
from app.llm.provider import ModelFailure

LOOSE_BYTES_PER_TOKEN = 6
"""Hardly any text has more: what does not fit by this figure does not fit."""
CONTEXT_WINDOW = "context_window"
_TOO_LONG = "prompt is too long"
_BAD_REQUEST = 400


def least_prompt_tokens(transcript: Transcript) -> int:
    """What the next prompt has at least, thinking that is left out aside: as reported so far, and what is new."""
    encoded, past = transcript.encoded(), transcript.caching
    if not past.ends:
        prefix = len(transcript.spec.system or "")
        return (prefix + sum(map(len, encoded[transcript.compacted_at :]))) // LOOSE_BYTES_PER_TOKEN
    messages, tokens = past.ends[-1]
    return tokens + sum(map(len, encoded[messages:])) // LOOSE_BYTES_PER_TOKEN


def can_fit(transcript: Transcript) -> bool:
    """Whether the next question may fit its model's window: what cannot is not taken to that model."""
    facts = facts_of(transcript.model)
    return least_prompt_tokens(transcript) + facts.min_output_tokens <= facts.context_window_tokens


def outgrown(job: Job) -> Conclusion | None:
    """The end of a task whose next question cannot fit; no call is made."""
    if can_fit(job.transcript):
        return None
    facts = facts_of(job.transcript.model)
    tokens = least_prompt_tokens(job.transcript)
    message = (
        f"The conversation has at least {tokens} tokens by now; {job.transcript.model} reads "
        f"{facts.context_window_tokens} at most, its answer included. No call was made."
    )
    return with_partial(job, Outcome.TRUNCATED, TaskError(CONTEXT_WINDOW, message))


def refused_as_too_long(job: Job, failure: ModelFailure) -> Conclusion | None:
    """The same where only the provider could tell: it refuses such a prompt, and bills nothing."""
    if failure.status != _BAD_REQUEST or _TOO_LONG not in failure.message:
        return None
    return with_partial(job, Outcome.TRUNCATED, TaskError(CONTEXT_WINDOW, failure.message))
