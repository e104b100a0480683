"""The transcript of a task that was retried: what its earlier end leaves behind, and what it does not."""

from typing import Any

import orjson
import pytest

from app.agent.replay import rebuild
from app.agent.transcript import CLOSING, LEFT_OUT, NUDGE, Transcript
from app.journal.call_events import AttemptFailed, AttemptStarted, ModelAnswered
from app.journal.event import Event
from app.journal.events import (
    BudgetFinalizing,
    TaskClaimed,
    TaskFinished,
    TaskRetried,
    ToolFinished,
    ToolStarted,
)
from app.journal.journal import Recorded
from app.llm.body import request_body
from app.llm.bound import UnboundedContent, prompt_bound
from app.llm.models import facts_of
from app.llm.provider import ModelAnswer
from tests.support.provider import HAIKU, answer, calls, text, thinking, tool_use, usage
from tests.unit.agent.test_transcript_closing import SPEC, SUBJECT, TOOL

RETRIED = TaskRetried(outcome="max_steps", steps=0, max_steps=9, deadline_at_us=0)
RESULT = "a long result " * 50


class Journal:
    """Entries as a task's life writes them."""

    def __init__(self) -> None:
        self.entries: list[Recorded] = []
        self.step = 0

    def add(self, event: Event, body: bytes | None = None) -> "Journal":
        """One more entry."""
        number = len(self.entries) + 1
        self.entries.append(Recorded(number, number, SUBJECT, event, body))
        return self

    def asked(self, prompt_tokens: int = 500, attempt: int = 1) -> "Journal":
        """An attempt begins."""
        return self.add(
            AttemptStarted(
                step=self.step + 1,
                attempt=attempt,
                model=HAIKU,
                max_tokens=100,
                prompt_bound_tokens=prompt_tokens,
                reserved_nano=1,
                price_row="p",
            )
        )

    def answered(self, given: ModelAnswer, move: str) -> "Journal":
        """An answer to a question."""
        self.asked()
        self.step += 1
        return self.add(_model_answered(self.step, move), given.raw)

    def tool(self, call_id: str, result: str = RESULT) -> "Journal":
        """A tool call and its result."""
        self.add(ToolStarted(self.step, call_id, "probe", (), 0))
        done = ToolFinished(
            self.step, call_id, "probe", "ok", is_error=False, result_bytes=1, duration_s=0
        )
        return self.add(done, result.encode())

    def ended(self, outcome: str = "max_steps") -> "Journal":
        """It failed and is retried."""
        self.add(
            TaskFinished(
                status="failed",
                outcome=outcome,
                steps=self.step,
                cost_nano=0,
                partial=False,
                result_bytes=0,
                duration_s=0,
            )
        )
        self.add(RETRIED)
        return self.add(TaskClaimed("w", 0.0))

    def rebuilt(self) -> Transcript:
        """What the next run begins with."""
        return rebuild(SPEC, self.entries)


def _model_answered(step: int, move: str) -> ModelAnswered:
    fields: dict[str, Any] = dict.fromkeys(
        (
            "input_tokens",
            "output_tokens",
            "cache_read_tokens",
            "cache_write_5m_tokens",
            "cache_write_1h_tokens",
            "web_searches",
            "cost_nano",
            "task_spent_nano",
        ),
        0,
    )
    return ModelAnswered(
        step=step,
        attempt=1,
        model=HAIKU,
        stop_reason=None,
        move=move,
        kind="confirmed",
        price_row="p",
        duration_s=0,
        request_id=None,
        **fields,
    )


def finalizing(*, cut: bool = False) -> BudgetFinalizing:
    """The budget is spent: the closing turn comes."""
    return BudgetFinalizing(step=2, scope="task", limit_nano=1, spent_nano=1, results_cut=cut)


def asked(transcript: Transcript) -> Any:
    """The next question as it goes on the wire."""
    return orjson.loads(request_body(transcript.request((TOOL,), stream_above=8_192)))


ENDS = ["max_steps", "refused", "truncated", "empty_answer", "upstream_failed", "deadline"]


@pytest.mark.parametrize("outcome", ENDS)
def test_the_same_question_again(outcome):
    """What the last answer was good for, the end has told; the question before it is asked again, byte for byte."""
    before = Journal().answered(calls(tool_use("a")), "run_tools").tool("a")
    question = asked(before.rebuilt())
    journal = before.answered(answer(text("I'd rather not.")), "finish").ended(outcome)
    after = journal.rebuilt()
    assert asked(after) == question
    assert after.step == 2
    assert after.last_text == "I'd rather not."


def test_what_was_tried_is_counted_anew():
    """One nudge, one enlargement, five continuations and all retries again; attempts keep their numbers."""
    journal = Journal().answered(answer(), "nudge").answered(answer(text("x")), "enlarge")
    journal.answered(answer(text("y")), "continue")
    for attempt in (1, 2, 3):
        journal.asked(attempt=attempt)
        journal.add(_failed(4, attempt))
    stuck = journal.rebuilt()
    assert (stuck.nudged, stuck.enlarged, stuck.continuations) == (True, True, 1)
    assert (stuck.tries.made, stuck.tries.failures) == (3, 3)
    after = journal.ended("upstream_failed").rebuilt()
    assert (after.nudged, after.enlarged, after.continuations) == (False, False, 0)
    assert (after.tries.made, after.tries.failures, after.tries.failing_since_us) == (3, 0, None)
    assert after.max_tokens == stuck.max_tokens  # there is as much room as there was
    assert asked(after) == asked(stuck)
    assert NUDGE in str(asked(after)["messages"])


def _failed(step: int, attempt: int) -> AttemptFailed:
    return AttemptFailed(
        step=step,
        attempt=attempt,
        model=HAIKU,
        error_type="overloaded",
        error_message="",
        http_status=529,
        phase="sent",
        decision="retry",
        charged_nano=0,
        kind=None,
        task_spent_nano=0,
        duration_s=0.0,
        request_id=None,
    )


@pytest.mark.parametrize("cut", [False, True])
def test_a_closing_turn_is_undone(cut):
    """With new money nothing has to be closed: the tools are back, and so is what was left out."""
    before = Journal().answered(calls(tool_use("a")), "run_tools").tool("a")
    question, bound = asked(before.rebuilt()), before.rebuilt().prompt_tokens(request(before))
    before.add(finalizing())
    if cut:
        before.add(finalizing(cut=True))
    closing = before.rebuilt()
    assert closing.closing
    assert CLOSING in str(asked(closing))
    assert (LEFT_OUT in str(asked(closing))) == cut
    journal = before.answered(answer(report=usage(9, 1)), "finish").ended("budget_exhausted")
    after = journal.rebuilt()
    assert not after.closing
    assert asked(after) == question
    assert after.prompt_tokens(request(journal)) == bound  # not that of the short closing question
    assert after.max_tokens == SPEC.max_tokens


def request(journal: Journal) -> Any:
    """The next question."""
    return journal.rebuilt().request((TOOL,), stream_above=8_192)


def test_a_second_closing_turn_counts():
    """Only ends that a retry came after are undone: the one that is being prepared now is not."""
    journal = Journal().answered(calls(tool_use("a")), "run_tools").tool("a").add(finalizing())
    journal.answered(answer(), "finish").ended("budget_exhausted")
    journal.answered(calls(tool_use("b")), "run_tools").tool("b").add(finalizing())
    after = journal.rebuilt()
    assert after.closing
    assert str(asked(after)).count(CLOSING) == 1


def test_thinking_does_not_make_the_bound_fall_back():
    """Hidden thinking is bounded by reports only: those before the end still hold."""
    journal = Journal().answered(
        answer(thinking("t"), tool_use("a"), stop_reason="tool_use", report=usage(600, 50)),
        "run_tools",
    )
    journal.tool("a", "short").answered(answer(text("no"), report=usage(700, 20)), "finish").ended()
    after = journal.rebuilt()
    with pytest.raises(UnboundedContent):
        prompt_bound(request(journal), facts_of(HAIKU))
    assert after.prompt_tokens(request(journal)) < 2_000


def test_pending_tools_are_run():
    """It failed while tools ran: those that had begun are known, so that they are not begun again unasked."""
    journal = Journal().answered(calls(tool_use("a"), tool_use("b")), "run_tools")
    journal.add(ToolStarted(1, "a", "probe", (), 0))
    after = journal.ended("deadline").rebuilt()
    assert [use.id for use in after.pending] == ["a", "b"]
    assert after.started == {"a"}
