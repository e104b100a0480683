"""The transcript: append-only, and a pure function of the task's events."""

from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.replay import rebuild
from app.agent.transcript import NUDGE, Transcript, enlarged_max_tokens
from app.domain.task import Subject
from app.journal.call_events import AttemptFailed, AttemptStarted, ModelAnswered
from app.journal.event import Event
from app.journal.events import TaskClaimed, ToolFinished, ToolStarted
from app.journal.journal import Recorded
from app.llm.bound import grown_bound, prompt_bound
from app.llm.models import facts_of
from app.llm.provider import ModelAnswer
from tests.support.provider import HAIKU, answer, calls, text, thinking, tool_use, usage
from tests.support.seeding import spec

SUBJECT = Subject("t", "s", run=1)
SPEC = spec(text="Work.", max_steps=100)


@dataclass(frozen=True)
class Result:
    """What one tool call brought, and when it came back among its siblings."""

    content: str
    is_error: bool
    rank: float


@dataclass(frozen=True)
class Turn:
    """One answer and what followed."""

    answer: ModelAnswer
    move: str
    results: tuple[Result, ...] = ()


def started(step: int, attempt: int) -> Event:
    """An attempt begins."""
    return AttemptStarted(
        step=step,
        attempt=attempt,
        model=HAIKU,
        max_tokens=1,
        prompt_bound_tokens=1,
        reserved_nano=1,
        price_row="p",
    )


def answered(step: int, turn: Turn) -> Event:
    """The answer as its event tells it."""
    return ModelAnswered(
        step=step,
        attempt=1,
        model=turn.answer.model,
        stop_reason=turn.answer.stop_reason,
        move=turn.move,
        input_tokens=1,
        output_tokens=1,
        cache_read_tokens=0,
        cache_write_5m_tokens=0,
        cache_write_1h_tokens=0,
        web_searches=0,
        cost_nano=1,
        kind="confirmed",
        price_row="p",
        task_spent_nano=1,
        duration_s=0.1,
        request_id=turn.answer.request_id,
    )


class Journal:
    """Entries in the order the loop writes them."""

    def __init__(self) -> None:
        self.entries: list[Recorded] = []

    def add(self, event: Event, body: bytes | None = None) -> None:
        """One more entry."""
        number = len(self.entries) + 1
        self.entries.append(Recorded(number, 1_000 + number, SUBJECT, event, body))

    def turn(self, step: int, turn: Turn) -> None:
        """An answer, the tools it starts, and their results in the order they finish."""
        self.add(started(step, 1))
        self.add(answered(step, turn), turn.answer.raw)
        if turn.move != "run_tools":
            return
        uses = [block for block in turn.answer.content if block["type"] == "tool_use"]
        for use in uses:
            self.add(
                ToolStarted(step=step, call_id=use["id"], tool="x", input_keys=(), input_bytes=0)
            )
        finished = sorted(zip(uses, turn.results, strict=True), key=lambda pair: pair[1].rank)
        for use, result in finished:
            self.add(
                ToolFinished(
                    step=step,
                    call_id=use["id"],
                    tool="x",
                    outcome="ok",
                    is_error=result.is_error,
                    result_bytes=0,
                    duration_s=0.0,
                ),
                result.content.encode(),
            )


def live(turns: list[Turn]) -> Transcript:
    """What the loop has after these turns."""
    transcript = Transcript.begin(SPEC)
    for turn in turns:
        transcript.asked(1, 1)  # the bounds of `started`
        transcript.answered(turn.answer, turn.move)
        for use, result in zip(list(transcript.pending), turn.results, strict=True):
            transcript.tool_answered(use.id, result.content, is_error=result.is_error)
    return transcript


def state(transcript: Transcript) -> dict[str, Any]:
    """Everything that matters for what is asked next, bytes where bytes matter."""
    request = transcript.request((), stream_above=8_192)
    return {
        "messages": orjson.dumps(transcript.messages),
        "request": (request.max_tokens, request.system, request.stream),
        "prompt_tokens": transcript.prompt_tokens(request),
        "counters": (
            transcript.step,
            transcript.nudged,
            transcript.enlarged,
            transcript.continuations,
            transcript.last_text,
            transcript.max_tokens,
        ),
        "pending": transcript.pending,
    }


words = st.text(st.characters(codec="utf-8"), max_size=30)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(words, inner, max_size=3),
    max_leaves=6,
)
other_blocks = st.one_of(
    st.builds(text, words),
    st.builds(thinking, words),
    st.fixed_dictionaries({"type": st.just("redacted_thinking"), "data": words}),
    st.fixed_dictionaries({"type": st.just("new_kind"), "stuff": json_values}),
)
results = st.builds(Result, words, st.booleans(), st.floats(0, 1))
reports = st.none() | st.builds(usage, st.integers(0, 9_999), st.integers(0, 9_999))


@st.composite
def turns(draw: st.DrawFn) -> Turn:
    """A random turn; its tool calls get fresh ids."""
    move = draw(st.sampled_from(["run_tools", "run_tools", "continue", "nudge", "enlarge"]))
    blocks = draw(st.lists(other_blocks, max_size=4))
    report = draw(reports)
    said: tuple[Result, ...] = ()
    if move == "run_tools":
        said = tuple(draw(st.lists(results, min_size=1, max_size=5)))
        for _ in said:
            call_id = f"toolu_{draw(st.uuids()).hex}"
            arguments = draw(st.dictionaries(words, json_values, max_size=3))
            use = tool_use(call_id, draw(words.filter(bool)), arguments)
            blocks.insert(draw(st.integers(0, len(blocks))), use)
    made = answer(
        *blocks,
        stop_reason="tool_use" if said else "end_turn",
        report=report,
        no_usage=report is None,
    )
    return Turn(made, move, said)


def journal_of(story: list[Turn]) -> Journal:
    """The events of these turns."""
    journal = Journal()
    journal.add(TaskClaimed(worker="w", waited_s=0.0))
    for step, turn in enumerate(story, start=1):
        journal.turn(step, turn)
    return journal


@given(st.lists(turns(), max_size=6))
def test_rebuilt_is_the_same_to_the_byte(story):
    """For any conversation, what the events tell is exactly what the loop had."""
    rebuilt = rebuild(SPEC, journal_of(story).entries)
    assert state(rebuilt) == state(live(story))
    assert state(rebuild(SPEC, journal_of(story).entries)) == state(rebuilt)


@given(st.lists(turns(), min_size=1, max_size=4), st.data())
def test_cut_off_anywhere_the_rest_leads_to_the_same(story, data):
    """Wherever a crash cuts the journal, what was there is kept and the missing results complete it."""
    entries = journal_of(story).entries
    cut = data.draw(st.integers(0, len(entries)))
    rebuilt = rebuild(SPEC, entries[:cut])
    done = sum(isinstance(entry.event, ModelAnswered) for entry in entries[:cut])
    assert rebuilt.step == done
    whole = live(story[:done])
    if rebuilt.pending:
        assert {use.id for use in rebuilt.pending} >= {
            entry.event.call_id
            for entry in entries[cut:]
            if isinstance(entry.event, ToolFinished) and entry.event.step == done
        }
        told = dict(zip(live_ids(story[done - 1]), story[done - 1].results, strict=True))
        for use in list(rebuilt.pending):
            result = told[use.id]
            rebuilt.tool_answered(use.id, result.content, is_error=result.is_error)
    assert state(rebuilt) == state(whole)


def live_ids(turn: Turn) -> list[str]:
    """The ids of a turn's tool calls, in order."""
    return [block["id"] for block in turn.answer.content if block["type"] == "tool_use"]


@given(st.lists(turns(), max_size=6))
def test_messages_only_ever_grow(story):
    """Nothing that was sent changes afterwards: each request begins with the one before it."""
    transcript = Transcript.begin(SPEC)
    before = [orjson.dumps(message) for message in transcript.messages]
    for turn in story:
        transcript.answered(turn.answer, turn.move)
        for use, result in zip(list(transcript.pending), turn.results, strict=True):
            transcript.tool_answered(use.id, result.content, is_error=result.is_error)
        after = [orjson.dumps(message) for message in transcript.messages]
        assert after[: len(before)] == before
        before = after


@given(st.lists(results, min_size=1, max_size=6), st.permutations(range(6)))
def test_results_go_out_in_one_message_in_call_order(said, order):
    """However the calls finish, one user message answers all of them in the order they were asked."""
    transcript = Transcript.begin(SPEC)
    ids = [f"call_{number}" for number in range(len(said))]
    transcript.answered(calls(*map(tool_use, ids)), "run_tools")
    for number in (n for n in order if n < len(said)):
        assert len(transcript.messages) == 2
        transcript.tool_answered(ids[number], said[number].content, is_error=said[number].is_error)
    assert [message["role"] for message in transcript.messages] == ["user", "assistant", "user"]
    blocks = transcript.messages[-1]["content"]
    assert [block["tool_use_id"] for block in blocks] == ids
    assert [block["content"] for block in blocks] == [result.content for result in said]
    assert [block.get("is_error", False) for block in blocks] == [r.is_error for r in said]


def test_answers_go_back_as_they_came():
    """Thinking and unknown blocks are sent back unchanged and in order within a tool loop."""
    content = [thinking(""), {"type": "new_kind", "x": [1, {"b": 1, "a": 2}]}, tool_use("a")]
    transcript = Transcript.begin(SPEC)
    transcript.answered(calls(*content), "run_tools")
    assert orjson.dumps(transcript.messages[1]["content"]) == orjson.dumps(content)


def test_nudge_asks_in_words_and_does_not_send_the_empty_answer_back():
    """After an empty answer a user message asks for one; the empty turn is not resent."""
    transcript = Transcript.begin(SPEC)
    transcript.answered(answer(), "nudge")
    assert transcript.messages[-1] == {
        "role": "user",
        "content": [{"type": "text", "text": NUDGE}],
    }
    assert transcript.nudged
    assert all(message["role"] == "user" for message in transcript.messages)


def test_enlarged_doubles_within_what_the_model_gives():
    """Twice the tokens, never above the model's own limit."""
    top = facts_of(HAIKU).max_output_tokens
    assert enlarged_max_tokens(SPEC.model, 2_048) == 4_096
    assert enlarged_max_tokens(SPEC.model, top - 1) == top
    transcript = Transcript.begin(SPEC)
    transcript.answered(answer(text("half")), "enlarge")
    assert (transcript.max_tokens, len(transcript.messages)) == (4_096, 1)


@pytest.mark.parametrize(("tokens", "streamed"), [(100, False), (101, True)])
def test_long_outputs_are_streamed(tokens, streamed):
    """Above the threshold the request asks for a stream."""
    transcript = Transcript.begin(replace(SPEC, max_tokens=tokens))
    assert transcript.request((), stream_above=100).stream is streamed


def test_prompt_bound_follows_the_report():
    """After an answer the bound is what it reported plus what was added; without a report, the bytes."""
    facts = facts_of(HAIKU)
    transcript = Transcript.begin(SPEC)
    first = transcript.request((), stream_above=9_999)
    assert transcript.prompt_tokens(first) == prompt_bound(first, facts)
    transcript.answered(calls(tool_use("a"), before=[thinking()]), "run_tools")
    transcript.tool_answered("a", "result", is_error=False)
    added = transcript.messages[-1]["content"]
    request = transcript.request((), stream_above=9_999)
    assert transcript.prompt_tokens(request) == grown_bound(100, 20, added, facts)
    transcript.answered(answer(thinking(), text("?"), no_usage=True), "continue")
    request = transcript.request((), stream_above=9_999)
    assert transcript.prompt_tokens(request) == facts.context_window_tokens


def test_attempts_of_the_step_in_progress_are_counted():
    """A restart knows how often, and since when, the current step was tried; earlier steps do not count."""
    journal = journal_of([Turn(answer(), "nudge")])
    journal.add(started(2, 1))
    journal.add(
        AttemptFailed(
            step=2,
            attempt=1,
            model=HAIKU,
            error_type="x",
            error_message="x",
            http_status=None,
            phase="lost",
            decision="retry",
            charged_nano=1,
            kind="presumed",
            task_spent_nano=1,
            duration_s=0.1,
            request_id=None,
        )
    )
    failed_us = journal.entries[-1].at_us
    journal.add(
        started(2, 2)
    )  # a restart of ours interrupted this one: it is no failure of the upstream
    rebuilt = rebuild(SPEC, journal.entries)
    assert (rebuilt.tries.made, rebuilt.tries.failures) == (2, 1)
    assert rebuilt.tries.failing_since_us == failed_us - 100_000  # it took 0.1 s
    journal.turn(2, Turn(answer(), "nudge"))
    rebuilt = rebuild(SPEC, journal.entries)
    assert (rebuilt.tries.made, rebuilt.tries.failures) == (0, 0)
    assert rebuilt.tries.failing_since_us is None


def test_an_answer_without_usage_is_bounded_by_what_was_asked():
    """The next bound grows from the question's own bounds, not from the whole context window."""
    transcript = Transcript.begin(SPEC)
    transcript.asked(200, 100)
    thinking = {"type": "thinking", "thinking": "", "signature": "x"}
    answer = ModelAnswer(HAIKU, [thinking], "pause_turn", None, b"{}")
    transcript.answered(answer, "continue")
    bound = transcript.prompt_tokens(transcript.request((), stream_above=8_192))
    assert 300 <= bound < 1_000
