"""What the model sees of a task: messages that only ever grow, and where the loop stands in them.

The transcript is a pure function of the task's events: `replay.rebuild` makes from the journal, byte for byte,
what the loop had before a crash.
"""

from dataclasses import dataclass, field, replace

from app.domain.task import Bound, TaskSpec
from app.journal.events import (
    ModelEscalated,
    ModelFellBack,
)
from app.llm.answers import ToolUse, sendable, text_of, to_json, tool_uses
from app.llm.bound import ClosingTurn, UnboundedContent, grown_bound, prompt_bound
from app.llm.cache_plan import CachePast
from app.llm.call import Tries
from app.llm.models import facts_of
from app.llm.provider import CacheMarks, JsonObject, ModelAnswer, ModelRequest

NUDGE = "You ended your turn without an answer. Please answer now, in text."
CLOSING = (
    "The budget of this task is spent: this is your last turn, and no tool can be called any more. Answer now, "
    "as well as you can with what you have, and say what is missing."
)
LEFT_OUT = "Left out: the budget does not pay for reading it."
INTERRUPTED = (
    "This call was interrupted by a restart of the service; whether it took effect is unknown. Do not assume "
    "either. If it matters, check before you call the tool again."
)
TOOL_CALLS_LIMIT = 20
"""Tool calls in one answer that are run; the others are answered with an error."""
_CLOSING_OUTPUT_TOKENS = 512
_CLOSING_TOKENS = 400
"""The closing question and its borders, by its bytes."""
_CUT_RESULT_TOKENS = 180
"""A tool result that is left out: its envelope with the call's id, and the note, by their bytes."""


_TOKENS_PER_TOKEN_LIMIT = 100
"""A report of less than a hundredth of the bound is not built upon: some servers leave cached tokens out."""


@dataclass(slots=True)
class Transcript:
    """The conversation so far, and the counters that bound it."""

    spec: TaskSpec
    model: str
    """Who is asked next; a cheaper route may have taken over."""
    max_tokens: int
    """The output asked for next; grows once when an answer was cut off."""
    messages: list[JsonObject]
    step: int = 0
    """Answers so far, those that were discarded included."""
    nudged: bool = False
    enlarged: bool = False
    continuations: int = 0
    closing: bool = False
    """The next answer is the last: the budget is spent but for it."""
    aside: int = 0
    """Answers that were no step of the task's own: the classifier's."""
    classified: bool = False
    """Its complexity is found for good."""
    escalations: int = 0
    """Steps up to a dearer model so far."""
    escaped_from: str | None = None
    """Why the latest of them was taken, until the other model has answered."""
    fallen_from: tuple[str, ...] = ()
    """Models that could not be had, and that the task does not go back to."""
    switched_at: int = 0
    """How many messages there were when the model that is asked took over."""
    last_text: str = ""
    """The latest text of the model: the partial result if the task fails."""
    pending: list[ToolUse] = field(default_factory=list)
    """Tool calls of the latest answer that have no result yet."""
    tries: Tries = field(default_factory=Tries)
    """Attempts of the step in progress."""
    started: set[str] = field(default_factory=set)
    """Tool calls the journal knows to have begun."""
    caching: CachePast = field(default_factory=CachePast, compare=False)
    """What the cache holds of it, as far as its own questions tell."""
    compacted_at: int = 0
    """Where the message stands that begins with the latest summary: what came before it is passed over."""
    _encoded: list[bytes] = field(default_factory=list, compare=False, repr=False)
    """The messages as JSON, those that have been asked with: they are encoded once."""
    _results: list[JsonObject] = field(default_factory=list)
    _order: list[str] = field(default_factory=list)
    _asked: tuple[int, int] | None = None
    """Bounds of the latest question: prompt and output tokens it could have at most."""
    _known: tuple[int, int] | None = None
    """Prompt and output tokens of the latest answer: as reported, or else their bounds."""
    _new_blocks: list[JsonObject] = field(default_factory=list)
    _open: tuple[tuple[int, int] | None, list[JsonObject]] | None = None
    """What was known and new before a closing turn that a retry has undone."""

    @classmethod
    def begin(cls, spec: TaskSpec) -> "Transcript":
        """A task that has not asked anything yet."""
        return cls(spec, spec.model, spec.max_tokens, [{"role": "user", "content": spec.text}])

    @property
    def steps_left(self) -> int:
        """Answers that the task may still ask for."""
        return self.spec.max_steps - (self.step - self.aside)

    def asked(self, prompt_tokens: int, max_tokens: int, bound: Bound = Bound.PROVED) -> None:
        """Take down the bounds of the question that leaves now. An estimate is none: nothing may build on it."""
        self._asked = (prompt_tokens, max_tokens) if bound is Bound.PROVED else None

    def answered(self, answer: ModelAnswer, move: str) -> None:
        """Take the answer in: what is kept of it follows from the move that was decided on."""
        if move == "classify":
            self.classification_answered()
            return
        self.step += 1
        self.escaped_from = None
        self.tries = Tries()
        self.last_text = text_of(answer) or self.last_text
        self._new_blocks = []
        self._known = self._asked
        if answer.usage is not None:
            parts = [tokens for _, tokens in answer.usage.parts]
            self.caching.answered(len(self.messages), parts[0] if len(parts) == 1 else None)
            prompt = sum(t.prompt for t in parts)
            bounded = 1 if self._asked is None else self._asked[0]
            if prompt * _TOKENS_PER_TOKEN_LIMIT >= bounded:
                self._known = (prompt, sum(t.output for t in parts))
        match move:
            case "run_tools":
                self._keep(answer)
                self.pending = tool_uses(answer)
                self._order = [use.id for use in self.pending]
            case "continue":
                self._keep(answer)
                self.continuations += 1
            case "nudge":
                self._add_user([{"type": "text", "text": NUDGE}])
                self.nudged = True
            case "enlarge":
                self.max_tokens = enlarged_max_tokens(self.model, self.max_tokens)
                self.enlarged = True
            case (
                _
            ):  # `finish`: nothing is asked any more; `escalate`: another model is asked the same
                pass

    def _keep(self, answer: ModelAnswer) -> None:
        self.messages.append({"role": "assistant", "content": sendable(answer.content)})
        if any(block["type"] == "compaction" and block.get("content") for block in answer.content):
            # What was known of its size says nothing of what is left; nor does the cache have it.
            self.compacted_at, self._known = len(self.messages) - 1, None
            self.caching = CachePast()

    def tool_answered(self, call_id: str, content: str, *, is_error: bool) -> None:
        """Take a tool's result in; once all are there, they go out in one user message."""
        block: JsonObject = {"type": "tool_result", "tool_use_id": call_id, "content": content}
        if is_error:
            block["is_error"] = True
        self._results.append(block)
        self.pending = [use for use in self.pending if use.id != call_id]
        if not self.pending:
            self._results.sort(key=lambda result: self._order.index(result["tool_use_id"]))
            self._add_user(self._results)
            self._results, self.started = [], set()

    def position_of(self, call_id: str) -> int:
        """The call's place (0, 1, …) among those of the latest answer, finished ones included."""
        return self._order.index(call_id)

    def switch_model(self, model: str) -> None:
        """Let another model go on. It cannot read this one's thinking, and counts the rest differently."""
        self.model = model
        self.max_tokens = min(self.max_tokens, facts_of(model).max_output_tokens)
        self.messages = [m for m in map(_without_thinking, self.messages) if m["content"]]
        self.caching, self._encoded, self.compacted_at = CachePast(), [], 0
        self._known = self._asked = None
        self.switched_at = len(self.messages)

    def classification_answered(self) -> None:
        """Take down that the classifier has answered; nothing of what it said is part of the conversation."""
        self.step += 1
        self.aside += 1
        self.tries = Tries()

    def routed(self, model: str) -> None:
        """Let the model answer that was found for good. What the classifier's call met is not its fault."""
        self.classified = True
        self._try_anew()
        if model != self.model:
            self.switch_model(model)
        self._asked = None

    def escalate(self, event: ModelEscalated) -> None:
        """Let a dearer model answer what this one could not."""
        self.switch_model(event.to_model)
        self.escalations += 1
        self.escaped_from = event.why

    def fall_back(self, event: ModelFellBack) -> None:
        """Let the next model of the chain go on: this one cannot be had."""
        self.fallen_from = (*self.fallen_from, self.model)
        self.switch_model(event.to_model)
        self._try_anew()

    def close(self) -> None:
        """Make the next question the last one."""
        self.closing = True
        self.max_tokens = closing_max_tokens(self.spec, self.model)
        question = {"type": "text", "text": CLOSING}
        if self.messages[-1]["role"] != "user":
            self._add_user([question])
            return
        content = self.messages.pop()["content"]
        self._encoded = self._encoded[: len(self.messages)]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        self.messages.append({"role": "user", "content": [*blocks, question]})
        self._new_blocks = [*self._new_blocks, question]  # the rest may have been counted already

    def retried(self) -> None:
        """Somebody let the task go on after its end: what a question may be tried is counted anew.

        Not the numbers of its attempts, which are never used twice.
        """
        self.nudged = self.enlarged = False
        self.continuations = self.escalations = 0
        self.fallen_from = ()
        self._try_anew()
        if self._open is not None:
            self._known, self._new_blocks = self._open
            self._open = None

    def finalizing(self, *, results_cut: bool, undone: bool = False) -> None:
        """Do again what a `budget_finalizing` event tells; `undone`: a retry came after the end it prepared."""
        if (
            undone
        ):  # nothing was closed or left out, and the closing turn says nothing of the next prompt
            self._open = self._open or (self._known, self._new_blocks)
        elif results_cut:
            self.leave_out_results()
        else:
            self.close()

    def leave_out_results(self) -> bool:
        """Put a short note in place of the tool results the model has not seen; False when there are none.

        Calls beyond the limit go as if they had never been: what is held back pays for no more notes.
        """
        last = self.messages[-1]
        blocks = [] if isinstance(last["content"], str) else last["content"]
        extra = set(self._order[TOOL_CALLS_LIMIT:])
        short = [_cut(block) for block in blocks if block.get("tool_use_id") not in extra]
        if last["role"] != "user" or short == blocks:
            return False
        asked = self.messages[-2]
        kept = [block for block in asked["content"] if block.get("id") not in extra]
        self.messages[-2:] = [{**asked, "content": kept}, {**last, "content": short}]
        self._encoded = self._encoded[: len(self.messages) - 2]
        self._new_blocks = short
        return True

    def closing_turn(self) -> ClosingTurn:
        """The price of ending in an orderly way, whatever the next answer asks for."""
        results = TOOL_CALLS_LIMIT * _CUT_RESULT_TOKENS if self.spec.tools else 0
        facts = facts_of(self.model)
        new_tokens = _CLOSING_TOKENS + results + 2 * facts.turn_tag_tokens
        return ClosingTurn(new_tokens, closing_max_tokens(self.spec, self.model))

    def encoded(self) -> list[bytes]:
        """The messages as JSON, one by one. Only what is new is encoded."""
        known = len(self._encoded)
        self._encoded += map(to_json, self.messages[known:])
        return self._encoded

    def request(
        self,
        tools: tuple[JsonObject, ...],
        *,
        stream_above: int,
        marks: CacheMarks | None = None,
    ) -> ModelRequest:
        """The next question. Above `stream_above` tokens of output it is streamed."""
        return ModelRequest(
            model=self.model,
            max_tokens=self.max_tokens,
            messages=self.messages,
            system=self.spec.system,
            tools=tools,
            tools_off=self.closing,
            stream=self.max_tokens > stream_above,
            marks=marks,
            compact_above_tokens=None if self.closing else self.spec.compact_above_tokens,
            compacted=self.spec.compact_above_tokens is not None,
            encoded=self.encoded(),
        )

    def prompt_tokens(self, request: ModelRequest) -> int:
        """Proved upper bound of the next prompt."""
        facts = facts_of(self.model)
        try:
            if self._known is not None:
                return grown_bound(*self._known, self._new_blocks, facts)
            kept = request.messages[self.compacted_at :]
            return prompt_bound(replace(request, messages=kept), facts)
        except UnboundedContent:
            return facts.context_window_tokens

    def _try_anew(self) -> None:
        self.tries = Tries(self.tries.made)

    def _add_user(self, blocks: list[JsonObject]) -> None:
        self.messages.append({"role": "user", "content": blocks})
        self._new_blocks = self._new_blocks + blocks


def enlarged_max_tokens(model: str, max_tokens: int) -> int:
    """Twice the output, as far as the model can give."""
    return min(max_tokens * 2, facts_of(model).max_output_tokens)


def closing_max_tokens(spec: TaskSpec, model: str) -> int:
    """The output of a closing turn: short, but enough for a model that has to think first."""
    return min(max(_CLOSING_OUTPUT_TOKENS, facts_of(model).min_output_tokens), spec.max_tokens)


def _cut(block: JsonObject) -> JsonObject:
    return {**block, "content": LEFT_OUT} if block["type"] == "tool_result" else block


def _without_thinking(message: JsonObject) -> JsonObject:
    content = message["content"]
    if message["role"] != "assistant" or isinstance(content, str):
        return message
    kept = [b for b in content if b["type"] not in ("thinking", "redacted_thinking")]
    return {**message, "content": kept}
