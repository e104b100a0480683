"""Prompt caching of the loop's questions: what is expected of a task, and whether others ask with the same prefix."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.agent.burst import Bursts, Place
from app.agent.habits import Habit, Habits
from app.agent.transcript import Transcript
from app.domain.clock import US_PER_S, Clock
from app.domain.task import Urgency
from app.llm.answers import to_json
from app.llm.cache_plan import (
    LIFETIME_S,
    MARGIN_S,
    STAKE_BYTES_PER_TOKEN,
    Outlook,
    plan,
    prefix_is_long_enough,
)
from app.llm.models import facts_of
from app.llm.pricing import PriceRow, Rates, UnknownModel
from app.llm.provider import CacheMarks, JsonObject
from app.llm.usage import Usage

WAIT_WORTH_NANO = 200_000
"""What reading the prefix must save for a task to wait for whoever writes it."""
_LATE_S = LIFETIME_S["5m"] - MARGIN_S
_SIZES_LIMIT = 1_024


@dataclass(slots=True)
class Asking:
    """A question that is being asked."""

    marks: CacheMarks | None = None
    cached: bool | None = None
    """Its answer says that the cache was used; None: no answer yet."""
    onward: bool | None = None

    def answered(self, usage: Usage | None, *, onward: bool) -> None:
        """It has its answer, and another question follows, or not."""
        self.onward = onward
        if usage is not None:
            self.cached = any(tokens.prompt > tokens.input for _, tokens in usage.parts)


class Caching:
    """One a process. Without `row`, nothing is cached."""

    def __init__(
        self, row: Callable[[str], PriceRow] | None, clock: Clock | None, *, wait_s: float = 10.0
    ) -> None:
        self._row = row
        self._clock = clock
        self._habits = Habits()
        self._bursts = None if clock is None else Bursts(clock, wait_s)
        self._sizes: dict[tuple[str, ...], int] = {}

    def release(self) -> None:
        """The service stops: nobody waits for anybody."""
        if self._bursts is not None:
            self._bursts.release()

    @asynccontextmanager
    async def question(
        self, transcript: Transcript, tools: tuple[JsonObject, ...], longest_tool_s: float
    ) -> AsyncIterator[Asking]:
        """While the block lasts the question is asked; tell what comes of it."""
        rates = self._rates(transcript, tools)
        if rates is None or self._clock is None or self._bursts is None:
            yield Asking()
            return
        habit = self._habits.of(_kind(transcript))
        number = transcript.step - transcript.aside + 1
        ahead = self._outlook(transcript, tools, habit, may_be_slow=longest_tool_s >= _LATE_S)
        facts, past = facts_of(transcript.model), transcript.caching
        marks = plan(past, ahead, facts, rates)
        place = await self._placed(transcript, ahead, marks, rates)
        if place is not None and place.shared and marks is None:
            marks = CacheMarks("5m", prefix=True, reads=not place.leads)
        asking = Asking(marks)
        now_us = self._clock.now_us()
        if past.starts_us:
            habit.learn_gap(late=now_us - past.starts_us[-1] > _LATE_S * US_PER_S)
        past.left(marks, now_us)
        try:
            yield asking
        finally:
            if place is not None:
                self._bursts.leave(place, cached=asking.cached if marks is not None else None)
            if asking.onward is not None:
                habit.learn(number, onward=asking.onward)

    def _rates(self, transcript: Transcript, tools: tuple[JsonObject, ...]) -> Rates | None:
        """None where nothing is cached: the budget's last turn, or not enough to be worth a thought."""
        economy = transcript.spec.urgency is Urgency.ECONOMY
        if self._row is None or transcript.closing or economy:  # a batch comes hours later
            return None
        minimum = facts_of(transcript.model).cache_minimum_tokens
        if not transcript.caching.ends:
            size = self._prefix_bytes(transcript, tools) + len(transcript.spec.text)
            if size < minimum * STAKE_BYTES_PER_TOKEN and transcript.step == 0:
                return None
        elif transcript.caching.ends[-1][1] < minimum // 2:
            return None
        try:
            return self._row(transcript.model).rates
        except UnknownModel:
            return None

    async def _placed(
        self, transcript: Transcript, ahead: Outlook, marks: CacheMarks | None, rates: Rates
    ) -> Place | None:
        """Wait for whoever writes the same prefix, where that pays; None where nobody is asked to."""
        facts, past = facts_of(transcript.model), transcript.caching
        worth = ahead.prefix_bytes // 4 * (rates.input - rates.cache_read) // 1_000_000
        alone = past.written is not None or not prefix_is_long_enough(ahead.prefix_bytes, facts)
        if alone or worth < WAIT_WORTH_NANO or self._bursts is None:
            return None
        return await self._bursts.enter(_kind(transcript), writes=marks is not None)

    def _outlook(
        self,
        transcript: Transcript,
        tools: tuple[JsonObject, ...],
        habit: Habit,
        *,
        may_be_slow: bool,
    ) -> Outlook:
        assert self._clock is not None  # noqa: S101  (see `question`)
        encoded, past = transcript.encoded(), transcript.caching
        number = transcript.step - transcript.aside + 1
        known = past.ends[-1][0] if past.ends else 0
        new = (
            len(encoded[at])
            for at in range(known, len(encoded))
            if transcript.messages[at]["role"] == "user"
        )
        return Outlook(
            messages=len(encoded),
            prefix_bytes=self._prefix_bytes(transcript, tools),
            new_bytes=sum(new),
            steps_left=transcript.steps_left,
            onward=habit.goes_on(number) if tools else 0.0,
            proven=habit.is_proven(number),
            pace=habit.pace(may_be_slow=may_be_slow),
            now_us=self._clock.now_us(),
        )

    def _prefix_bytes(self, transcript: Transcript, tools: tuple[JsonObject, ...]) -> int:
        names = transcript.spec.tools
        size = self._sizes.get(names)
        if size is None:
            if len(self._sizes) >= _SIZES_LIMIT:
                self._sizes.clear()
            size = self._sizes[names] = sum(len(to_json(tool)) for tool in tools)
        return size + len(transcript.spec.system or "")


NO_CACHING = Caching(None, None)
"""Nothing is cached."""


def _kind(transcript: Transcript) -> int:
    """Tasks of one kind ask with the same prefix."""
    spec = transcript.spec
    return hash((transcript.model, spec.system, spec.tools))
