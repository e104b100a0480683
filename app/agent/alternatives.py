"""What a change of the model could have come to instead: who else might have gone on, and for how much. Pure."""

from collections.abc import Callable, Iterable

from app.agent.transcript import Transcript
from app.domain.record import record
from app.domain.task import TaskSpec
from app.llm.bound import worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceRow, UnknownModel
from app.llm.provider import JsonObject

RowOf = Callable[[str], PriceRow]
Tools = tuple[JsonObject, ...]


@record(frozen=True, slots=True)
class NextQuestion:
    """What the next question to a model has at most, and can cost at most with nothing of it cached."""

    prompt_tokens: int
    worst_nano: int


@record(frozen=True, slots=True)
class Alternatives:
    """Models that were not chosen, and the most that the next question to each can cost."""

    models: tuple[str, ...]
    worst_nano: tuple[int, ...]


def next_question(transcript: Transcript, tools: Tools, row: RowOf) -> NextQuestion:
    """The transcript's, to its own model.

    Raises:
        UnknownModel: it has no price.
    """
    model, max_tokens = transcript.model, transcript.max_tokens
    prompt = transcript.prompt_tokens(transcript.request(tools, stream_above=max_tokens))
    return NextQuestion(prompt, worst_case_nano(row(model), facts_of(model), prompt, max_tokens))


def alternatives(transcripts: Iterable[Transcript], tools: Tools, row: RowOf) -> Alternatives:
    """Each transcript's model, those without a price left out."""
    found = {}
    for transcript in transcripts:
        try:
            found[transcript.model] = next_question(transcript, tools, row).worst_nano
        except UnknownModel:  # the price file lost it since the task was accepted
            continue
    return Alternatives(tuple(found), tuple(found.values()))


def score_of(spec: TaskSpec) -> float | None:
    """How hard the router found the task; None where it was not asked."""
    return None if spec.routing is None else spec.routing.score
