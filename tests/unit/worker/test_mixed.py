"""A hundred tasks at once over a moody provider: whatever happens, all end, and the books are right."""

import asyncio
import random
from contextlib import suppress
from typing import Any

from app.domain.errors import TaskFinished
from app.domain.task import Outcome, Subject
from app.journal.events import TaskRequeued
from app.journal.journal import read_all
from app.llm.provider import ModelAnswer, ModelFailure, ModelRequest
from tests.support.clock import yielded
from tests.support.provider import (
    answer,
    calls,
    in_stream,
    lost,
    status,
    text,
    tool_use,
    unreachable,
    usage,
)
from tests.support.seeding import USD, drift, lines_of, row_of

TASKS = 100
SESSION_NANO = (3_000_000, 6_000_000, 12_000_000, 40_000_000, 40_000_000)
"""From one call at a time to plenty."""
SESSIONS = len(SESSION_NANO)


class Moody:
    """Answers, asks for tools, fails; and keeps a bill of what it would charge."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311  (chance, not secrets)
        self.asked = 0

    async def say(self, request: ModelRequest) -> ModelAnswer:
        """One of many things, after a moment."""
        self.asked += 1
        await yielded(self.random.randint(0, 60))
        chance = self.random.random()
        report = usage(self.random.randint(1, 60), self.random.randint(1, 90))
        if chance < 0.4:
            return answer(text("done"), report=report)
        if chance < 0.6:
            uses = [
                tool_use(f"c{self.asked}-{number}", arguments={"x": number})
                for number in range(self.random.randint(1, 3))
            ]
            return answer(*uses, stop_reason="tool_use", report=report)
        if chance < 0.65:
            return answer(text("half"), stop_reason="max_tokens", report=report)
        if chance < 0.7:
            return answer(report=report)
        if chance < 0.75:
            return answer(text("?"), no_usage=True)
        raise self._failure()

    def _failure(self) -> ModelFailure:
        failure = self.random.choice(
            [
                status(429, "rate_limit_error"),
                status(529, "overloaded_error"),
                status(500),
                lost(),
                lost("timeout"),
                in_stream("overloaded_error"),
                unreachable(),
                status(400, "invalid_request_error"),
                status(502, "http_502", api_shaped=False),
            ]
        )
        failure.retry_after_s = 0.0001
        return failure


def moody(works: Any, seed: int) -> None:
    """Let the provider be moody for as long as anybody asks."""
    mood = Moody(seed)
    works.desk.provider.script = [mood.say] * 5_000


async def test_books_are_right_whatever_happens(open_works):
    """Tasks, cancels and a restart in the middle: all end typed, nothing is held, no budget is exceeded."""
    chance = random.Random(3)  # noqa: S311
    names = [f"t{number:03}" for number in range(TASKS)]
    async with open_works(slots=16, park_after_s=0.0001) as works:
        moody(works, 1)
        for number, name in enumerate(names):
            await works.accept(
                name,
                session_id=f"s{number % SESSIONS}",
                session_nano=SESSION_NANO[number % SESSIONS],
                budget_nano=USD // 100,
                max_steps=4,
            )
        await works.start()
        await somebody_gave_a_slot_back(works)
        for name in chance.sample(names, 10):
            with suppress(TaskFinished):
                await works.cancel(name)
        await works.stop(0.0)
    async with open_works(slots=16, park_after_s=0.0001) as works:
        moody(works, 2)
        works.desk.clock.move(
            60
        )  # who had parked may start; from here on being called helps, or time
        await works.start()
        outcomes, passing = set(), asyncio.create_task(time_passes(works))
        async with asyncio.timeout(40):
            for name in names:
                outcomes.add((await works.ended(name))["outcome"])
        passing.cancel()
        assert {"answered", "cancelled"} <= outcomes <= {str(outcome) for outcome in Outcome}
        assert Outcome.INTERNAL_ERROR not in outcomes
        await check_books(works, names)
        await check_waiting(works, names)


async def time_passes(works: Any) -> None:
    """Slowly: when too many have failed, tasks sit that out, and nobody calls them."""
    while True:
        await yielded(500)
        works.desk.clock.move(1)
        works.queue.wake()


async def somebody_gave_a_slot_back(works: Any) -> None:
    """Return once a task waits in the queue for its turn on a budget."""
    async with asyncio.timeout(20):
        while not any(isinstance(entry.event, TaskRequeued) for entry in works.told):
            await yielded()


async def check_books(works: Any, names: list[str]) -> None:
    """Every account: nothing held, the sum of its lines, within its limit."""
    store = works.desk.store
    assert await drift(store) == []
    spent = dict.fromkeys(range(SESSIONS), 0)
    for number, name in enumerate(names):
        row = await row_of(store, name)
        lines = await lines_of(store, name)
        assert row["reserved_nano"] == 0
        assert row["spent_nano"] == lines["spent_nano"] <= USD // 100
        spent[number % SESSIONS] += row["spent_nano"]
    for number, total in spent.items():
        identifier = f"local/s{number}"
        row = await store.read(
            lambda tx, i=identifier: tx.one("read_account", scope="session", id=i)
        )
        assert (row["spent_nano"], row["reserved_nano"]) == (total, 0)
        assert total <= SESSION_NANO[number]


async def check_waiting(works: Any, names: list[str]) -> None:
    """Some calls had to wait for others, some gave their slot back; nobody waits any more."""
    told: set[str] = set()
    for name in names:
        entries = await read_all(works.desk.store, Subject(name, "s"))
        told |= {entry.event.name for entry in entries}
        told |= {e.event.reason for e in entries if isinstance(e.event, TaskRequeued)}
    assert {"reservation_waited", "budget_contention", "drain", "retry_scheduled"} <= told
    assert works.desk.turns._lines == {}


async def test_the_mood_has_every_kind():
    """The moody provider really says everything: answers, tools, failures."""
    mood = Moody(1)
    said = []
    for _ in range(300):
        try:
            said.append((await mood.say(ModelRequest("m", 100, []))).stop_reason)
        except ModelFailure as failure:
            said.append(str(failure))
    assert len(set(said)) >= 6
    assert calls(tool_use("a")).stop_reason in said
