"""The transcript at the end of its money: the closing turn, results left out, another model."""

from dataclasses import replace
from datetime import date
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.replay import rebuild
from app.agent.transcript import CLOSING, LEFT_OUT, NUDGE, Transcript
from app.domain.task import Subject
from app.journal.call_events import AttemptStarted, ModelAnswered
from app.journal.event import Event
from app.journal.events import BudgetFinalizing, ModelDowngraded, ToolFinished
from app.journal.journal import Recorded
from app.llm.body import request_body
from app.llm.bound import closing_nano, prompt_bound, worst_case_nano
from app.llm.models import facts_of
from app.llm.pricing import PriceBook
from app.llm.provider import JsonObject, ModelAnswer
from tests.support.provider import HAIKU, answer, calls, text, thinking, tool_use, usage
from tests.support.seeding import spec

SUBJECT = Subject("t", "s", run=1)
BOOK, AT = PriceBook.load(), date(2026, 11, 22)
SONNET, OPUS = "claude-sonnet-5-5", "claude-opus-5-5"
MODELS = (HAIKU, "claude-haiku-4-5", SONNET, OPUS)
TOOL: JsonObject = {"name": "probe", "description": "A probe.", "input_schema": {"type": "object"}}
SPEC = spec(text="Work.", tools=("probe",), system="Be brief.", max_steps=100)


def begin(**given: Any) -> Transcript:
    """A task that has asked once, within these bounds."""
    transcript = Transcript.begin(replace(SPEC, **given))
    transcript.asked(500, 100)
    return transcript


def after_tools(*results: str, answered: ModelAnswer | None = None, **given: Any) -> Transcript:
    """The model asked for as many tools, and they have answered."""
    transcript = begin(**given)
    uses = [tool_use(f"toolu_{n}") for n in range(len(results))]
    transcript.answered(answered or calls(*uses), "run_tools")
    for use, result in zip(list(transcript.pending), results, strict=True):
        transcript.tool_answered(use.id, result, is_error=False)
    return transcript


def asked(transcript: Transcript) -> Any:
    """The next question as it goes on the wire."""
    return orjson.loads(request_body(transcript.request((TOOL,), stream_above=8_192)))


def result_block(number: int, content: str) -> JsonObject:
    """A tool's result in the transcript."""
    return {"type": "tool_result", "tool_use_id": f"toolu_{number}", "content": content}


def test_the_closing_question_stands_behind_the_results_in_one_message() -> None:
    """All results first, then the text; same tools, same system, no tool may be called."""
    transcript = after_tools("one", "two")
    before = asked(transcript)
    transcript.close()
    closing = asked(transcript)
    assert (closing["tools"], closing["system"]) == (before["tools"], before["system"])
    assert "tool_choice" not in before
    assert closing["tool_choice"] == {"type": "none"}
    assert closing["messages"][:-1] == before["messages"][:-1]
    assert closing["messages"][-1] == {
        "role": "user",
        "content": [result_block(0, "one"), result_block(1, "two"), text(CLOSING)],
    }
    assert closing["max_tokens"] == 512


def test_without_tools_there_is_no_tool_choice() -> None:
    """The API refuses a `tool_choice` where no tool is defined."""
    transcript = begin(tools=())
    transcript.close()
    body = orjson.loads(request_body(transcript.request((), stream_above=8_192)))
    assert "tool_choice" not in body
    assert "tools" not in body


def test_closing_before_anything_was_asked() -> None:
    """The task's own words stay first; the closing question follows them in the same message."""
    transcript = Transcript.begin(SPEC)
    transcript.close()
    assert transcript.messages == [{"role": "user", "content": [text("Work."), text(CLOSING)]}]
    request = transcript.request((TOOL,), stream_above=8_192)
    assert transcript.prompt_tokens(request) == prompt_bound(request, facts_of(HAIKU))


def test_closing_after_a_nudge_and_after_a_paused_turn() -> None:
    """A user message is added to, an assistant's is followed by one of its own."""
    nudged = begin()
    nudged.answered(answer(), "nudge")
    nudged.close()
    assert nudged.messages[-1]["content"] == [text(NUDGE), text(CLOSING)]
    paused = begin()
    paused.answered(answer(text("So far.")), "continue")
    paused.close()
    assert [m["role"] for m in paused.messages] == ["user", "assistant", "user"]
    assert paused.messages[-1]["content"] == [text(CLOSING)]


def test_results_left_out_keep_their_place_and_their_error() -> None:
    """Each unread result becomes a short note; what it answered and whether it failed stays."""
    transcript = after_tools("x" * 9_000, "y")
    transcript.messages[-1]["content"][1]["is_error"] = True
    transcript.close()
    assert transcript.leave_out_results()
    first, second, question = transcript.messages[-1]["content"]
    assert (first, question) == (result_block(0, LEFT_OUT), text(CLOSING))
    assert second == {**result_block(1, LEFT_OUT), "is_error": True}
    assert not transcript.leave_out_results()


def test_nothing_to_leave_out() -> None:
    """Without unread results the transcript stays as it is."""
    transcript = begin()
    transcript.close()
    before = orjson.dumps(transcript.messages)
    assert not transcript.leave_out_results()
    assert orjson.dumps(transcript.messages) == before


def test_calls_beyond_the_limit_are_left_out_with_their_results() -> None:
    """What is held back pays for the notes of twenty calls; the model's other words stay untouched."""
    uses = [tool_use(f"toolu_{n}") for n in range(60)]
    said = calls(*uses, before=[thinking(), text("Let me see.")])
    transcript = after_tools(*["r"] * 60, answered=said)
    transcript.close()
    transcript.leave_out_results()
    theirs, ours = (message["content"] for message in transcript.messages[-2:])
    assert theirs == said.content[:22]
    assert ours == [*(result_block(n, LEFT_OUT) for n in range(20)), text(CLOSING)]


def test_another_model_gets_no_thinking_and_is_bounded_by_bytes() -> None:
    """Thinking is bound to the model that thought; the report of one model says nothing of another's tokens."""
    said = calls(tool_use("toolu_0"), before=[thinking("hm"), text("So.")])
    hidden = {"type": "redacted_thinking", "data": "x"}
    said.content.insert(1, hidden)
    transcript = after_tools("done", answered=said, model=OPUS)
    transcript.max_tokens = 200_000
    assert transcript.prompt_tokens(transcript.request((TOOL,), stream_above=1)) < 1_000
    transcript.switch_model("claude-haiku-4-5")
    body = asked(transcript)
    assert body["model"] == "claude-haiku-4-5"
    assert body["max_tokens"] == 64_000
    assert body["messages"][1]["content"] == [text("So."), tool_use("toolu_0")]
    request = transcript.request((TOOL,), stream_above=1)
    bound = prompt_bound(request, facts_of("claude-haiku-4-5"))
    assert transcript.prompt_tokens(request) == bound > 1_000


def test_a_turn_of_thinking_alone_vanishes_with_its_model() -> None:
    """An assistant's message without content would be refused."""
    transcript = begin()
    transcript.answered(answer(thinking()), "continue")
    transcript.switch_model(HAIKU)
    assert [m["role"] for m in transcript.messages] == ["user"]


@pytest.mark.parametrize(("model", "wish", "most"), [(HAIKU, 2_048, 512), (OPUS, 9_000, 1_024)])
def test_the_closing_turn_is_short_but_leaves_room_to_think(
    model: str, wish: int, most: int
) -> None:
    """At most 512 tokens, the model's floor where it always thinks, never more than was asked for."""
    transcript = begin(model=model, max_tokens=wish)
    assert transcript.closing_turn().max_tokens == most
    short = begin(model=model, max_tokens=100)
    assert short.closing_turn().max_tokens == 100
    short.close()
    assert short.max_tokens == 100


moves = st.sampled_from(["run_tools", "run_tools", "nudge", "enlarge", "lost"])
ids = st.sampled_from(["toolu_01" + "a" * 22, "call_" + "b" * 35])


@given(st.data(), st.sampled_from(MODELS), st.lists(moves, max_size=4), moves)
def test_the_closing_turn_costs_no_more_than_was_held_back(
    data: st.DataObject, model: str, earlier: list[str], last: str
) -> None:
    """Whatever the last answer was and reported: with results left out the closing turn fits its price."""
    words = "w" * data.draw(st.sampled_from([5, 2_000, 60_000, 120_000]))
    transcript = Transcript.begin(replace(SPEC, model=model, text=words))
    row, facts = BOOK.row(model, AT), facts_of(model)
    held = 0
    for move in [*earlier, last]:
        request = transcript.request((TOOL,), stream_above=8_192)
        prompt = transcript.prompt_tokens(request)
        clamped = data.draw(st.integers(256, request.max_tokens))
        held = closing_nano(row, facts, prompt, clamped, transcript.closing_turn())
        if move != "lost":
            _take(data, transcript, move, prompt, clamped)
    transcript.close()
    transcript.leave_out_results()
    request = transcript.request((TOOL,), stream_above=8_192)
    prompt = transcript.prompt_tokens(request)
    assert worst_case_nano(row, facts, prompt, request.max_tokens) <= held


def _take(data: st.DataObject, transcript: Transcript, move: str, prompt: int, output: int) -> None:
    """An answer of the dearest kind its bounds allow, or with less, or with nothing reported."""
    report = data.draw(
        st.just(usage(prompt, output))
        | st.builds(usage, st.integers(0, prompt), st.integers(0, output))
        | st.none()
    )
    uses: list[JsonObject] = []
    if move == "run_tools":
        call_id = data.draw(ids)
        count = data.draw(st.sampled_from([1, 3, 20, 90]))
        uses = [tool_use(f"{call_id[:-2]}{n:02}") for n in range(count)]
    said = answer(*uses, report=report, no_usage=report is None)
    transcript.asked(prompt, output)
    transcript.answered(said, move)
    for use in list(transcript.pending):
        transcript.tool_answered(use.id, "r" * 500, is_error=True)


class Book:
    """A transcript and the journal that tells of it, side by side."""

    def __init__(self) -> None:
        self.live = Transcript.begin(SPEC)
        self.entries: list[Recorded] = []

    def tell(self, event: Event, body: bytes | None = None) -> None:
        """One more entry."""
        number = len(self.entries) + 1
        self.entries.append(Recorded(number, number, SUBJECT, event, body))

    def answer(self, said: ModelAnswer, move: str, results: list[str]) -> None:
        """The model says something; its tools answer."""
        step = self.live.step + 1
        request = self.live.request((TOOL,), stream_above=8_192)
        bound = self.live.prompt_tokens(request)
        begun: dict[str, Any] = {"step": step, "attempt": 1, "model": request.model}
        self.tell(
            AttemptStarted(
                **begun, max_tokens=request.max_tokens, **_STARTED | {"prompt_bound_tokens": bound}
            )
        )
        self.tell(ModelAnswered(**begun, move=move, **_ANSWERED), said.raw)
        self.live.asked(bound, request.max_tokens)
        self.live.answered(said, move)
        for use, result in zip(list(self.live.pending), results, strict=True):
            ended: dict[str, Any] = {"step": step, "call_id": use.id, "tool": use.name}
            self.tell(ToolFinished(**ended, **_FINISHED), result.encode())
            self.live.tool_answered(use.id, result, is_error=False)

    def switch(self, model: str) -> None:
        """A cheaper model goes on."""
        step, old = self.live.step + 1, self.live.model
        self.tell(ModelDowngraded(step, old, model, "task", 1))
        self.live.switch_model(model)

    def close(self, *, cut: bool) -> None:
        """The budget is spent; twice where the results are too long, too."""
        self.tell(BudgetFinalizing(self.live.step + 1, "task", 1, 1, results_cut=False))
        self.live.close()
        if cut and self.live.leave_out_results():
            self.tell(BudgetFinalizing(self.live.step + 1, "task", 1, 1, results_cut=True))


_STARTED: dict[str, Any] = {"reserved_nano": 1, "price_row": "p"}
_FINISHED: dict[str, Any] = {
    "outcome": "ok",
    "is_error": False,
    "result_bytes": 0,
    "duration_s": 0.0,
}
_ANSWERED: dict[str, Any] = {
    "stop_reason": "tool_use",
    "input_tokens": 1,
    "output_tokens": 1,
    "cache_read_tokens": 0,
    "cache_write_5m_tokens": 0,
    "cache_write_1h_tokens": 0,
    "web_searches": 0,
    "cost_nano": 1,
    "kind": "confirmed",
    "price_row": "p",
    "task_spent_nano": 1,
    "duration_s": 0.1,
    "request_id": None,
}


def state(transcript: Transcript) -> tuple[bytes, int, bool]:
    """What is asked next, to the byte, and what it is bounded by."""
    request = transcript.request((TOOL,), stream_above=8_192)
    return request_body(request), transcript.prompt_tokens(request), transcript.closing


@given(
    st.data(), st.lists(st.sampled_from(["run_tools", "nudge", "enlarge", "switch"]), max_size=6)
)
def test_rebuilt_after_a_crash_the_closing_request_is_the_same(
    data: st.DataObject, story: list[str]
) -> None:
    """Downgrades, closing turns and left-out results are told by events alone, to the byte."""
    book = Book()
    models = [OPUS, SONNET, HAIKU]
    for move in story:
        if move == "switch":
            book.switch(models.pop(0) if models else HAIKU)
            continue
        count = data.draw(st.sampled_from([1, 2, 25])) if move == "run_tools" else 0
        uses = [tool_use(f"toolu_{book.live.step}_{n}") for n in range(count)]
        report = data.draw(st.none() | st.builds(usage, st.integers(0, 9_999)))
        said = answer(thinking(), *uses, report=report, no_usage=report is None)
        book.answer(said, move, ["r" * 300] * count)
        assert state(rebuild(SPEC, book.entries)) == state(book.live)
    book.close(cut=data.draw(st.booleans()))
    assert state(rebuild(SPEC, book.entries)) == state(book.live)
