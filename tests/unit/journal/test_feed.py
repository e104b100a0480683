"""The feed: views hear every event in order, followers get every entry once, nobody waits for ever."""

import asyncio
import contextlib
from typing import Any

import pytest

from app.domain.task import Subject
from app.journal.event import Event
from app.journal.events import CancelRequested, TaskClaimed, TaskFinished, TaskRetried
from app.journal.feed import Feed
from app.journal.hints import ANYTHING, Hint
from app.journal.journal import PAGE_LIMIT, Recorded, append
from tests.support.clock import yielded

SUBJECT = Subject("t", "s")
END = TaskFinished(
    status="succeeded",
    outcome="answered",
    steps=1,
    cost_nano=1,
    partial=False,
    result_bytes=1,
    duration_s=1.0,
)


RETRIED = TaskRetried(outcome="max_steps", steps=1, max_steps=2, deadline_at_us=0)


def recorded(number: int, subject: Subject = SUBJECT) -> Recorded:
    """An entry."""
    return Recorded(number, 1, subject, CancelRequested())


async def written(store: Any, *events: Event) -> None:
    """Events in the journal, one commit each."""
    for event in events:
        await store.write(lambda tx, e=event: append(tx, SUBJECT, e))


def test_views_hear_everything_in_order():
    """All views, also those added later, get each entry in commit order."""
    first: list[Recorded] = []
    second: list[Recorded] = []
    feed = Feed(first.append)
    feed.add_view(second.append)
    entries = [recorded(number) for number in range(1, 4)]
    feed.publish(entries)
    assert first == second == entries


def test_a_view_that_fails_hurts_no_other(log_lines):
    """A broken view is logged; the others still hear of everything."""
    heard: list[Recorded] = []

    def broken(_entry: Recorded) -> None:
        raise RuntimeError("view bug")

    Feed(broken, heard.append).publish([recorded(1), recorded(2)])
    assert [entry.seq for entry in heard] == [1, 2]
    assert len(log_lines.entries("view_failed")) == 2


async def test_following_gives_the_past_then_what_comes_then_ends(store):
    """A follower sees every entry exactly once, and its stream ends with the task."""
    feed = Feed()
    store.listener = feed.publish
    await written(store, TaskClaimed("w", 0.0), CancelRequested())
    seen: list[int] = []

    async def follow() -> None:
        async for page in feed.follow(store, SUBJECT):
            seen.extend(entry.seq for entry in page)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        while len(seen) < 2:
            await yielded()
        await written(store, CancelRequested(), CancelRequested(), END)
        await following
    assert seen == [1, 2, 3, 4, 5]
    assert feed._followers == {}


@pytest.mark.parametrize("after", [0, 1, 2])
async def test_following_resumes_exactly_after_a_number(store, after):
    """Whoever comes back with the last number it saw misses nothing and gets nothing twice."""
    feed = Feed()
    await written(store, CancelRequested(), CancelRequested(), END)
    pages = [page async for page in feed.follow(store, SUBJECT, after=after)]
    assert [entry.seq for page in pages for entry in page] == list(range(after + 1, 4))


async def test_silence_is_told(store):
    """When nothing happens for a while, an empty page says that the stream is alive."""
    feed = Feed()
    following: Any = feed.follow(store, SUBJECT, idle_s=0.01)
    async with contextlib.aclosing(following) as pages, asyncio.timeout(10):
        assert await anext(pages) == []
        feed.publish([recorded(1)])  # woken for nothing new: it goes on waiting, and says so
        assert await anext(pages) == []
        assert await anext(pages) == []


async def test_stopping_ends_every_follower(store):
    """A service that stops does not wait for its watchers."""
    feed = Feed()

    async def follow() -> int:
        return len([page async for page in feed.follow(store, SUBJECT)])

    following = [asyncio.create_task(follow()) for _ in range(3)]
    async with asyncio.timeout(10):
        while len(feed._followers.get("t", ())) < 3:
            await yielded()
        await yielded(20)
        feed.stop()
        assert await asyncio.gather(*following) == [0, 0, 0]


async def test_concurrent_followers_and_writers(store):
    """Many followers of a task that many write to: each sees all of it, in order."""
    feed = Feed()
    store.listener = feed.publish

    async def follow() -> list[int]:
        return [e.seq async for page in feed.follow(store, SUBJECT) for e in page]

    following = [asyncio.create_task(follow()) for _ in range(8)]
    await asyncio.gather(
        *(store.write(lambda tx: append(tx, SUBJECT, CancelRequested())) for _ in range(100))
    )
    await written(store, END)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*following) == [list(range(1, 102))] * 8


async def test_watching_wakes_for_its_own_task_only():
    """A watcher is woken by its task's entries and forgotten when it leaves."""
    feed = Feed()
    with feed.watch("t") as woken, feed.watch("other") as other:
        feed.publish([recorded(1)])
        assert await feed.woken(woken, 1.0)
        assert not await feed.woken(other, 0.001)
    assert feed._followers == {}


class CountingStore:
    """A store that counts its reads."""

    def __init__(self, store: Any) -> None:
        self._store = store
        self.read_count = 0

    async def read(self, op: Any) -> Any:
        self.read_count += 1
        return await self._store.read(op)


async def test_followers_at_the_same_place_share_a_read(store):
    """Two hundred followers of one stream cost the database what one costs."""
    feed, counted = Feed(), CountingStore(store)
    store.listener = feed.publish
    await written(store, TaskClaimed("w", 0.0))
    seen: list[list[int]] = [[] for _ in range(200)]

    async def follow(mine: list[int]) -> None:
        async for page in feed.follow(counted, SUBJECT):  # type: ignore[arg-type]
            mine.extend(entry.seq for entry in page)

    following = [asyncio.create_task(follow(mine)) for mine in seen]
    async with asyncio.timeout(20):
        while not all(seen):
            await yielded()
        await written(store, CancelRequested(), END)
        await asyncio.gather(*following)
    assert all(mine == [1, 2, 3] for mine in seen)
    assert counted.read_count <= 12, "a read or two for each thing that happened"
    assert feed._reads == {}


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t", "other"}))])
async def test_a_hint_of_another_process_wakes_followers(store, hint):
    """What another process committed is found in the journal as soon as its hint is heard."""
    feed = Feed()
    seen: list[int] = []

    async def follow() -> None:
        async for page in feed.follow(store, SUBJECT):
            seen.extend(entry.seq for entry in page)

    await written(store, TaskClaimed("w", 0.0))
    following = asyncio.create_task(follow())
    async with asyncio.timeout(10):
        while not seen:
            await yielded()
        await yielded(50)
        while feed._reads:  # it looks once more before it waits
            await yielded()
        await written(store, END)  # the feed does not hear of it
        await yielded(50)
        assert seen == [1]
        feed.hear(hint)
        await following
    assert seen == [1, 2]


async def test_hints_about_others_do_not_delay_the_sign_of_life(store):
    """A follower that is woken in vain, again and again, still gets its empty page in time."""
    feed = Feed()
    await written(store, TaskClaimed("w", 0.0))

    async def wake() -> None:
        while True:
            feed.hear(ANYTHING)
            await yielded(5)

    waking = asyncio.create_task(wake())
    async with asyncio.timeout(10):
        pages = feed.follow(store, SUBJECT, idle_s=0.05)
        assert len(await anext(pages)) == 1
        assert await anext(pages) == []
    waking.cancel()
    feed.stop()


async def test_a_retry_goes_on_in_the_same_stream(store):
    """The end of a run that was retried is not the end: the stream ends with the one after which nothing comes."""
    feed = Feed()
    await written(store, CancelRequested(), END, RETRIED, CancelRequested(), END)
    seen = [entry.seq async for page in feed.follow(store, SUBJECT) for entry in page]
    assert seen == [1, 2, 3, 4, 5]


async def test_an_end_at_the_edge_of_a_page(store):
    """A page that is full may end with an end that is none; and one that is, ends the stream."""
    feed = Feed()
    for end_at in (PAGE_LIMIT, 2 * PAGE_LIMIT):
        await written(store, *[CancelRequested()] * (PAGE_LIMIT - 2), RETRIED, END)
        async with asyncio.timeout(20):
            seen = [entry.seq async for page in feed.follow(store, SUBJECT) for entry in page]
        assert seen == list(range(1, end_at + 1))
