"""Where the provider is to cache a conversation that only grows, and when that pays. Pure.

Writing to the cache costs more than reading plainly, and pays only if somebody reads it again in time. So every
write is a bet on the next question, and the rule has two parts:

- It pays by expectation: the next question comes, in time, with more than `break_even` probability.
- It is covered: a task never stakes more than what caching has saved it so far, and `RISK_PERCENT` of what it would
  have cost without. Three bets need no cover: the first question of a task with tools, the first write of a loop
  that has shown to be one, and what tasks like it have done often enough before.

A write that is not covered in full is made as far as an earlier question reached, if that much is covered.
"""

from dataclasses import dataclass, field
from itertools import pairwise

from app.domain.clock import US_PER_S
from app.domain.record import record
from app.llm.models import ModelFacts
from app.llm.pricing import Rates
from app.llm.provider import CacheMarks
from app.llm.usage import Tokens, WriteLifetime

LIFETIME_S: dict[WriteLifetime, int] = {"5m": 300, "1h": 3_600}
MARGIN_S = 30
"""A lifetime counts from the start of the request that reads or writes: this much less can be relied on."""
RISK_PERCENT = 2
A_LOOP = 3
"""From this question on a task with tools is taken for a loop."""
A_SLOW_LOOP = 4
"""The same where each question comes too late for five minutes: an hour's write is a bet five times as high."""
STAKE_BYTES_PER_TOKEN = 3
"""What is new is taken for dear: fewer bytes a token than most text has."""
BYTES_PER_TOKEN = 4
_KEPT_STARTS = 3


@dataclass(slots=True)
class CachePast:
    """What is known of the cache from a task's own questions to the model that is asked. Follows from its journal."""

    sums: Tokens = field(default_factory=Tokens)
    """Reported by all answers."""
    ends: list[tuple[int, int]] = field(default_factory=list)
    """Of each answered question: how many messages it had, and its tokens as reported."""
    starts_us: list[int] = field(default_factory=list)
    """When the latest questions left, the oldest first."""
    written: int | None = None
    """So many messages are in the cache (0: only system prompt and tools), as far as this task knows; None: nothing."""
    touched_us: int = 0
    """When they were last written or read."""
    ttl: WriteLifetime = "5m"
    last_output_tokens: int = 0
    """Of the latest answer, which is part of the next prompt."""
    asked: CacheMarks | None = None
    """What the question that is out asks for."""

    def left(self, marks: CacheMarks | None, at_us: int) -> None:
        """A question leaves; its attempts count as one."""
        self.asked = marks
        self.starts_us = [*self.starts_us, at_us][-_KEPT_STARTS:]

    def answered(self, messages: int, tokens: Tokens | None) -> None:
        """It was answered, and this is what was reported of it."""
        if tokens is None:
            return
        self.sums = Tokens(
            self.sums.input + tokens.input,
            self.sums.output + tokens.output,
            self.sums.cache_read + tokens.cache_read,
            self.sums.cache_write_5m + tokens.cache_write_5m,
            self.sums.cache_write_1h + tokens.cache_write_1h,
        )
        self.ends.append((messages, tokens.prompt))
        self.last_output_tokens = tokens.output
        if self.asked is not None and tokens.prompt > tokens.input:
            self.written, self.ttl = tail_of(self.asked), self.asked.ttl
            self.touched_us = self.starts_us[-1] if self.starts_us else 0

    def tokens_of(self, messages: int) -> int:
        """The reported size of a question that ended there; 0 when there is none."""
        return next((tokens for count, tokens in reversed(self.ends) if count == messages), 0)


@record(frozen=True, slots=True)
class Outlook:
    """What is known of the question that is about to be asked."""

    messages: int
    """How many there are."""
    prefix_bytes: int
    """Of system prompt and tools."""
    new_bytes: int
    """What is in none of the questions answered so far, the latest answer left out."""
    steps_left: int
    """Answers that the task may still ask for, this one too."""
    onward: float
    """The probability that another question follows."""
    proven: bool
    """That comes from many tasks like this one."""
    pace: WriteLifetime | None
    """How soon they ask again, where that is known of them; None: not known, or it varies."""
    now_us: int


def plan(past: CachePast, ahead: Outlook, facts: ModelFacts, rates: Rates) -> CacheMarks | None:
    """The markers of the next question; None when it is asked without caching."""
    live = _is_live(past, ahead.now_us)
    tail = _worth_writing(past, ahead, facts, rates, live=live)
    if tail is not None:
        ttl, messages = tail
        ends = {messages} | ({past.written} if live and past.written else set())
        return _marks(ttl, ends, prefix=ahead.prefix_bytes > 0, reads=live)
    if live and past.written is not None:  # nothing new is written: what is there is read
        return _marks(past.ttl, {past.written}, prefix=ahead.prefix_bytes > 0, reads=True)
    return None


def break_even(rates: Rates, ttl: WriteLifetime) -> float:
    """The probability of another question above which a write pays.

    Written now, this question costs the write and the next one a read; written then, a plain reading and a write.
    """
    write = _write_rate(rates, ttl)
    gain = write - rates.cache_read
    return max(write - rates.input, 0) / gain if gain > 0 else 1.0


def saved_nano(rates: Rates, tokens: Tokens) -> int:
    """What caching has saved on these tokens, in nano-dollars times a million; negative where it cost more."""
    return (
        tokens.cache_read * (rates.input - rates.cache_read)
        - tokens.cache_write_5m * (rates.cache_write_5m - rates.input)
        - tokens.cache_write_1h * (rates.cache_write_1h - rates.input)
    )


def tail_of(marks: CacheMarks) -> int:
    """How many messages, from the first on, are cached."""
    return marks.messages[-1] + 1 if marks.messages else 0


def marks_of(ttl: WriteLifetime, messages: int) -> CacheMarks:
    """The same from what an event tells of it."""
    return _marks(ttl, {messages}, prefix=True)


def prefix_is_long_enough(prefix_bytes: int, facts: ModelFacts) -> bool:
    """Whether system prompt and tools are cached by themselves."""
    return prefix_bytes // BYTES_PER_TOKEN >= facts.cache_minimum_tokens


def _marks(ttl: WriteLifetime, ends: set[int], *, prefix: bool, reads: bool = False) -> CacheMarks:
    return CacheMarks(ttl, prefix, tuple(end - 1 for end in sorted(ends) if end), reads)


def _is_live(past: CachePast, now_us: int) -> bool:
    lives_us = (LIFETIME_S[past.ttl] - MARGIN_S) * US_PER_S
    return past.written is not None and now_us - past.touched_us < lives_us


def _worth_writing(
    past: CachePast, ahead: Outlook, facts: ModelFacts, rates: Rates, *, live: bool
) -> tuple[WriteLifetime, int] | None:
    """How far the conversation is written to the cache with this question, and for how long."""
    ttl = _lifetime(past, ahead)
    if ttl is None or ahead.steps_left <= 1 or ahead.onward <= break_even(rates, ttl):
        return None
    prompt = _prompt_tokens(past, ahead, STAKE_BYTES_PER_TOKEN)
    there = past.tokens_of(past.written) if live and past.written else 0
    premium = _write_rate(rates, ttl) - rates.input
    cover = _cover(past, rates, prompt, there)
    if _is_uncovered_bet(past, ahead, facts, ttl) or (prompt - there) * premium <= cover:
        enough = _prompt_tokens(past, ahead, BYTES_PER_TOKEN) >= facts.cache_minimum_tokens
        return (ttl, ahead.messages) if enough else None
    for messages, tokens in reversed(past.ends):
        if tokens <= max(there, facts.cache_minimum_tokens):
            return None
        if (tokens - there) * premium <= cover and messages <= ahead.messages:
            return ttl, messages
    return None


def _lifetime(past: CachePast, ahead: Outlook) -> WriteLifetime | None:
    """By the pace of the last questions, else by that of tasks like it; None when an hour is too short, too."""
    times = [*past.starts_us, ahead.now_us]
    gaps = [(later - earlier) / US_PER_S for earlier, later in pairwise(times)]
    if not gaps:
        return ahead.pace or "5m"
    pace = min(gaps[-2:])
    if pace < LIFETIME_S["5m"] - MARGIN_S:
        return "5m" if ahead.pace is None or len(gaps) > 1 else ahead.pace
    return "1h" if pace < LIFETIME_S["1h"] - MARGIN_S else None


def _is_uncovered_bet(
    past: CachePast, ahead: Outlook, facts: ModelFacts, ttl: WriteLifetime
) -> bool:
    if ahead.proven:
        return True
    number = len(past.ends) + 1
    if ttl == "1h":
        return number >= A_SLOW_LOOP and not past.sums.cache_write_1h
    first = past.written is None and past.sums.cache_write_5m == 0
    began = past.ends[0][1] if past.ends else _prompt_tokens(past, ahead, BYTES_PER_TOKEN)
    opening = number == 1 or number >= A_LOOP
    return first and opening and began >= facts.cache_minimum_tokens


def _cover(past: CachePast, rates: Rates, prompt: int, there: int) -> int:
    """What may be staked: the savings so far, this question's reading too, and a small part of all costs."""
    sums = past.sums
    plain = (sums.prompt + prompt) * rates.input + sums.output * rates.output
    sure = there * (rates.input - rates.cache_read)
    return saved_nano(rates, sums) + sure + plain * RISK_PERCENT // 100


def _prompt_tokens(past: CachePast, ahead: Outlook, bytes_per_token: int) -> int:
    new = -(-ahead.new_bytes // bytes_per_token)
    if past.ends:
        return past.ends[-1][1] + past.last_output_tokens + new
    return new + ahead.prefix_bytes // bytes_per_token


def _write_rate(rates: Rates, ttl: WriteLifetime) -> int:
    return rates.cache_write_5m if ttl == "5m" else rates.cache_write_1h
