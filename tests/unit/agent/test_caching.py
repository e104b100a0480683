"""The loop's questions with markers: what is asked for, reserved, journaled, and what a restart makes of it."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import orjson

from app.agent.replay import rebuild
from app.journal.call_events import AttemptStarted
from app.journal.events import ModelEscalated
from app.journal.journal import read_all
from app.llm.bound import worst_case_nano
from app.llm.models import facts_of
from app.llm.provider import CacheMarks, ModelAnswer, ModelRequest
from tests.support.provider import HAIKU, answer, calls, text, tool_use, unreachable, usage
from tests.unit.agent.conftest import OpenStudio, row

SYSTEM = "You are careful. " * 400
FIRST = CacheMarks("5m", prefix=True, messages=(0,))
SECOND = CacheMarks("5m", prefix=True, messages=(0, 2))
WRITTEN = usage(10, 20, cache_creation={"ephemeral_5m_input_tokens": 1_800})
READ = usage(
    10, 20, cache_read_input_tokens=1_800, cache_creation={"ephemeral_5m_input_tokens": 60}
)


def used(report: dict[str, Any], *blocks: dict[str, Any], **fields: Any) -> ModelAnswer:
    """An answer with this report; a tool call unless there are blocks."""
    if blocks:
        return answer(*blocks, report=report, **fields)
    return answer(tool_use("1"), stop_reason="tool_use", report=report, **fields)


async def test_a_loop_is_cached_and_its_conversation_stays_as_it_was(
    open_studio: OpenStudio,
) -> None:
    """Markers are no part of what is kept: with them and without, the same messages are asked."""
    script = (used(WRITTEN), used(READ, text("done")))
    async with open_studio(*script, cached=True) as studio:
        claim = await studio.claim(system=SYSTEM)
        assert await studio.run(claim) is None
        assert [one.marks for one in studio.desk.provider.asked] == [FIRST, SECOND]
        with_markers = studio.desk.provider.sent
        started = await studio.desk.events(claim, AttemptStarted)
    assert [(one.cache, one.cached_messages) for one in started] == [("5m", 1), ("5m", 3)]
    assert b"cache_control" not in b"".join(with_markers)
    assert orjson.loads(with_markers[1])[0] == orjson.loads(with_markers[0])[0]


async def test_the_reservation_pays_for_writing_all_of_it(open_studio: OpenStudio) -> None:
    """That is the most that such a call can cost."""
    async with open_studio(used(WRITTEN, text("done")), cached=True) as studio:
        claim = await studio.claim(system=SYSTEM)
        await studio.run(claim)
        (started,) = await studio.desk.events(claim, AttemptStarted)
    expected = worst_case_nano(
        row(HAIKU), facts_of(HAIKU), started.prompt_bound_tokens, 2_048, cache="5m"
    )
    assert started.reserved_nano == expected


async def test_a_budget_that_does_not_pay_for_writing_pays_for_the_call(
    open_studio: OpenStudio,
) -> None:
    """Without markers, at the price it always had."""
    async with open_studio(used(usage(1_800, 20), text("done")), cached=True) as studio:
        bound = 8_300 * 110 + 2_048 * 550
        claim = await studio.claim(system=SYSTEM, budget_nano=bound)
        assert await studio.run(claim) is None
        (asked,) = studio.desk.provider.asked
        (started,) = await studio.desk.events(claim, AttemptStarted)
    assert asked.marks is None
    assert asked.max_tokens == 2_048
    assert (started.cache, started.cached_messages) == (None, None)


async def test_every_attempt_asks_the_same(open_studio: OpenStudio) -> None:
    """A retry is the same question."""
    script = (unreachable(), used(WRITTEN, text("done")))
    async with open_studio(*script, cached=True) as studio:
        await studio.run(await studio.claim(system=SYSTEM))
        assert [one.marks for one in studio.desk.provider.asked] == [FIRST, FIRST]


async def test_a_restart_knows_what_was_cached(open_studio: OpenStudio) -> None:
    """From the journal alone: how far, for how long, and what it saved."""
    script = (used(WRITTEN), used(READ, text("done")))
    async with open_studio(*script, cached=True) as studio:
        claim = await studio.claim(system=SYSTEM)
        job = studio.job(claim)
        await studio.loop.run(job)
        again = rebuild(claim.spec, await read_all(studio.desk.store, claim.subject))
    lived, told = job.transcript.caching, again.caching
    assert (told.written, told.ttl, told.sums) == (lived.written, lived.ttl, lived.sums)
    assert (told.ends, len(told.starts_us)) == (lived.ends, len(lived.starts_us))
    assert told.written == 3


async def test_another_model_begins_with_a_cold_cache(open_studio: OpenStudio) -> None:
    """Nothing that the one has cached serves the other."""
    async with open_studio(used(WRITTEN), cached=True) as studio:
        claim = await studio.claim(system=SYSTEM)
        job = studio.job(claim)
        job.transcript.caching.left(FIRST, 0)
        job.transcript.caching.answered(1, None)
        job.transcript.escalate(
            ModelEscalated(
                step=1,
                from_model=HAIKU,
                to_model="claude-sonnet-5-5",
                why="refused",
                number=1,
                prompt_bound_tokens=1,
                next_worst_nano=1,
            )
        )
    assert job.transcript.caching.written is None
    assert job.transcript.caching.starts_us == []


def _counted(script: list[ModelAnswer]) -> Callable[[ModelRequest], ModelAnswer]:
    return lambda _request: script.pop(0)


async def test_messages_are_encoded_once(open_studio: OpenStudio) -> None:
    """However long the history: each question brings the bytes of the last one, and what is new."""
    seen: list[list[bytes]] = []
    script = [calls(tool_use(str(n))) for n in range(4)] + [answer(text("done"))]

    def said(request: ModelRequest) -> ModelAnswer:
        seen.append(list(request.encoded))
        return _counted(script)(request)

    async with open_studio(*[said] * 5) as studio:
        assert await studio.run(await studio.claim()) is None
    for before, after in pairwise(seen):
        assert all(old is new for old, new in zip(before, after, strict=False))
    assert [len(one) for one in seen] == [1, 3, 5, 7, 9]
