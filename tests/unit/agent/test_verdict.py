"""What an answer leads to: every stop reason, and nothing that passes for success by accident."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.agent.transcript import Transcript
from app.agent.verdict import (
    CONTINUATIONS_LIMIT,
    AskAgain,
    Finish,
    RunTools,
    Verdict,
    judge,
)
from app.domain.task import Conclusion, Outcome, TaskStatus
from app.llm.models import facts_of
from app.llm.provider import ModelAnswer
from tests.support.provider import HAIKU, answer, text, thinking, tool_use
from tests.support.seeding import spec


def transcript(**given_: Any) -> Transcript:
    """A task's conversation; `given_` are its fields, or those of its spec."""
    state = {
        key: given_.pop(key)
        for key in ("step", "nudged", "enlarged", "continuations", "last_text")
        if key in given_
    }
    made = Transcript.begin(spec(**given_))
    for key, value in state.items():
        setattr(made, key, value)
    return made


def verdict(said: ModelAnswer, *, asked: int | None = None, **given_: Any) -> Verdict:
    """The verdict on an answer, asked with all the tokens wished for unless told otherwise."""
    before = transcript(**given_)
    return judge(said, before, before.max_tokens if asked is None else asked)


def ended(said: ModelAnswer, *, asked: int | None = None, **given_: Any) -> Conclusion:
    """The conclusion of a verdict that must be an end."""
    found = verdict(said, asked=asked, **given_)
    assert isinstance(found, Finish)
    return found.conclusion


@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence"])
def test_text_at_the_end_of_a_turn_is_the_answer(reason):
    """The two good ends succeed with the text."""
    found = ended(answer(text("42"), stop_reason=reason))
    assert found == Conclusion(Outcome.ANSWERED, "42")
    assert found.outcome.status is TaskStatus.SUCCEEDED


def test_text_is_taken_from_text_blocks():
    """A thinking block first, an unknown block between: the answer is the text of the text blocks."""
    said = answer(
        thinking("hm"), text("4"), {"type": "hologram", "text": "no"}, text("2"), thinking()
    )
    assert ended(said).result == "42"


@pytest.mark.parametrize(
    "blocks",
    [(), (text(""),), (text(" \n\t"),), (thinking("much thought"),), ({"type": "hologram"},)],
    ids=["nothing", "empty text", "blank text", "thinking only", "unknown block"],
)
@pytest.mark.parametrize("reason", ["end_turn", "stop_sequence"])
def test_empty_end_is_nudged_once_and_then_a_typed_failure(reason, blocks):
    """An end without text is asked about once; the second time, and on the last step, the task fails."""
    said = answer(*blocks, stop_reason=reason)
    assert verdict(said) == AskAgain("nudge")
    for state in ({"nudged": True}, {"step": 9}):
        found = ended(said, **state)
        assert found.outcome is Outcome.EMPTY_ANSWER
        assert found.outcome.status is TaskStatus.FAILED


def test_tools_are_run_in_the_order_asked():
    """All client calls of the answer, in order, whatever else is in it."""
    uses = [tool_use("a"), tool_use("b", "other", {"x": 1})]
    found = verdict(answer(thinking(), text("let me see"), *uses, stop_reason="tool_use"))
    assert isinstance(found, RunTools)
    assert [(use.id, use.name, use.input) for use in found.uses] == [
        ("a", "probe", {}),
        ("b", "other", {"x": 1}),
    ]


@pytest.mark.parametrize(
    "uses",
    [
        [],
        [{"type": "tool_use", "name": "probe", "input": {}}],
        [{"type": "tool_use", "id": "", "name": "probe", "input": {}}],
        [{"type": "tool_use", "id": 7, "name": "probe", "input": {}}],
        [tool_use("a"), tool_use("a")],
        [tool_use("a"), {"type": "tool_use", "input": {}}],
        [{"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}}],
    ],
    ids=["none", "no id", "empty id", "odd id", "same id", "one without", "not ours"],
)
def test_calls_that_cannot_be_answered_end_the_task(uses):
    """Without ids of their own the calls cannot be answered: a typed failure, nothing is run."""
    found = ended(answer(*uses, stop_reason="tool_use"))
    assert found.outcome is Outcome.UPSTREAM_FAILED
    assert found.error is not None
    assert found.error.type == "malformed_answer"


@pytest.mark.parametrize("arguments", ["cut off", 7, ["x"]])
def test_call_with_unreadable_input_is_marked(arguments):
    """A call that can be answered but not read is handed on as malformed, so that it is never run."""
    use = {"type": "tool_use", "id": "a", "name": "probe", "input": arguments}
    found = verdict(answer(use, stop_reason="tool_use"))
    assert isinstance(found, RunTools)
    assert found.uses[0].malformed


def test_tools_on_the_last_step_are_not_run():
    """No step is left to show the results to the model: the task fails, its last text kept as partial."""
    found = ended(answer(text("so far"), tool_use("a"), stop_reason="tool_use"), step=9)
    assert (found.outcome, found.result, found.partial) == (Outcome.MAX_STEPS, "so far", True)


def test_cut_off_answer_is_asked_again_with_more_room_once():
    """Truncated text gets one more try with twice the tokens, then it is a partial result."""
    said = answer(text("half an ans"), stop_reason="max_tokens")
    assert verdict(said) == AskAgain("enlarge")
    for state in ({"enlarged": True}, {"step": 9}, {"max_tokens_explicit": True}):
        found = ended(said, **state)
        assert (found.outcome, found.result, found.partial) == (
            Outcome.TRUNCATED,
            "half an ans",
            True,
        )


def test_no_more_room_to_give_is_truncated():
    """Where the model or the budget gives no more tokens, asking again would change nothing."""
    said = answer(text("half"), stop_reason="max_tokens")
    top = facts_of(HAIKU).max_output_tokens
    assert ended(said, max_tokens=top).outcome is Outcome.TRUNCATED
    assert ended(said, asked=500).outcome is Outcome.TRUNCATED


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("enlarged", [True, False])
@pytest.mark.parametrize("step", [0, 9])
def test_truncated_tool_call_is_never_run(explicit, enlarged, step):
    """A tool call in a cut-off answer may be half a call: whatever the bounds, it is not executed."""
    said = answer(text("calling"), tool_use("a", arguments={"x": 1}), stop_reason="max_tokens")
    found = verdict(said, max_tokens_explicit=explicit, enlarged=enlarged, step=step)
    if explicit or enlarged or step:
        assert isinstance(found, Finish)
        assert found.conclusion.outcome is Outcome.TRUNCATED
    else:
        assert found == AskAgain("enlarge")


def test_paused_turn_is_continued_a_bounded_number_of_times():
    """A server-side pause is continued, and not for ever."""
    said = answer(text("searching"), stop_reason="pause_turn")
    for done in range(CONTINUATIONS_LIMIT):
        assert verdict(said, continuations=done) == AskAgain("continue")
    for state in ({"continuations": CONTINUATIONS_LIMIT}, {"step": 9}):
        found = ended(said, **state)
        assert found.outcome.status is TaskStatus.FAILED
        assert found.partial


@pytest.mark.parametrize("words", [[], ["I could tell you that"]])
@pytest.mark.parametrize("details", [None, {"category": "cyber"}, {"category": None}])
def test_refusal_is_an_outcome_of_its_own(words, details):
    """Refused: no result, also not the partial text, and the category in the error."""
    said = answer(*map(text, words), stop_reason="refusal", stop_details=details)
    found = ended(said, last_text="earlier")
    assert (found.outcome, found.result) == (Outcome.REFUSED, None)
    assert found.error is not None
    assert ("cyber" in found.error.message) == bool(details and details["category"])


def test_outgrown_window_is_truncated():
    """The context window's end keeps the text as a partial result."""
    found = ended(answer(text("long"), stop_reason="model_context_window_exceeded"))
    assert (found.outcome, found.result, found.partial) == (Outcome.TRUNCATED, "long", True)


@pytest.mark.parametrize("reason", [None, "compaction", "tea_time", "", "END_TURN"])
@pytest.mark.parametrize("blocks", [(), (text("42"),), (tool_use("a"),)])
def test_unknown_reasons_stop_and_say_so(reason, blocks):
    """Null, beta and future reasons are failures that name the reason, whatever the content."""
    found = ended(answer(*blocks, stop_reason=reason))
    assert found.outcome is Outcome.UPSTREAM_FAILED
    assert found.error is not None
    assert found.error.type == "unknown_stop_reason"
    assert repr(reason) in found.error.message


def test_partial_result_falls_back_to_an_earlier_text():
    """A failed end without text of its own keeps the latest text, marked as partial."""
    found = ended(answer(), nudged=True, last_text="what I had")
    assert (found.result, found.partial) == ("what I had", True)
    found = ended(answer(), nudged=True)
    assert (found.result, found.partial) == (None, False)


blocks = st.lists(
    st.sampled_from(
        [text(""), text("x"), thinking(), tool_use("a"), tool_use("b"), {"type": "new"}]
    )
)
reasons = st.sampled_from(
    [
        None,
        "end_turn",
        "tool_use",
        "max_tokens",
        "stop_sequence",
        "pause_turn",
        "refusal",
        "model_context_window_exceeded",
        "compaction",
        "x",
    ]
)


states = st.fixed_dictionaries(
    {
        "step": st.integers(0, 9),
        "nudged": st.booleans(),
        "enlarged": st.booleans(),
        "continuations": st.integers(0, 9),
        "max_tokens_explicit": st.booleans(),
        "last_text": st.sampled_from(["", "earlier"]),
    }
)


@given(blocks, reasons, states)
def test_success_needs_a_positive_end(content, reason, state):
    """Whatever comes: success only at a good end with text; nothing is asked on the last step."""
    found = verdict(answer(*content, stop_reason=reason), **state)
    good = reason in {"end_turn", "stop_sequence"} and text("x") in content
    if isinstance(found, Finish):
        assert (found.conclusion.outcome is Outcome.ANSWERED) == good
        assert found.conclusion.partial == (found.conclusion.result is not None and not good)
        assert (found.conclusion.error is None) == good
    else:
        assert not good
        assert state["step"] < 9
        if isinstance(found, RunTools):
            assert reason == "tool_use"
