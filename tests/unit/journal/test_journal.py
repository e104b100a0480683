"""The journal: numbered without gaps, read back as written, refused to runs that lost their task."""

import asyncio
from dataclasses import fields
from typing import Any

import orjson
import pytest

from app.domain.errors import StaleLease
from app.domain.task import LOCAL_OWNER, Subject
from app.journal import call_events, events
from app.journal.event import Event
from app.journal.events import (
    EVENTS,
    CancelRequested,
    ModelDowngraded,
    ModelEscalated,
    ModelFellBack,
    TaskClaimed,
)
from app.journal.journal import PAGE_LIMIT, Recorded, append, fence, read, read_all
from app.journal.views import public_fields
from app.queue import verbs
from app.store.port import Tx
from tests.support.events import example, examples
from tests.support.seeding import claimed

SUBJECT = Subject("t", "s", run=3)


async def test_every_event_comes_back_as_it_was(store):
    """What is read equals what was written, for every event and with every optional field absent."""
    told: list[Recorded] = []
    store.listener = told.extend
    all_kinds = examples()
    assert {type(event) for event in all_kinds} == set(EVENTS.values())
    for event in all_kinds:
        await store.write(lambda tx, e=event: append(tx, SUBJECT, e, b"\x00\xff{}"))
    found = await read_all(store, SUBJECT)
    assert [entry.event for entry in found] == all_kinds
    assert [entry.seq for entry in found] == list(range(1, len(all_kinds) + 1))
    assert {entry.body for entry in found} == {b"\x00\xff{}"}
    assert {entry.subject.run for entry in found} == {3}
    assert found == told


async def test_numbers_have_no_gaps_even_when_operations_fail(store):
    """A failed operation leaves no hole, and two subjects do not share numbers."""

    def op_of(subject: Subject, fails: bool) -> Any:
        def op(tx: Tx) -> None:
            append(tx, subject, CancelRequested())
            append(tx, subject, CancelRequested())
            if fails:
                raise KeyError

        return op

    subjects = [Subject(name, "s") for name in "ab"]
    await asyncio.gather(
        *(store.write(op_of(subjects[n % 2], n % 5 == 0)) for n in range(40)),
        return_exceptions=True,
    )
    for subject in subjects:
        numbers = [entry.seq for entry in await read_all(store, subject)]
        assert numbers == list(range(1, 33))


async def test_reading_goes_page_by_page(store):
    """A page begins after the number given and is bounded; all pages together are everything."""

    def many(tx: Tx) -> None:
        for _ in range(PAGE_LIMIT + 7):
            append(tx, SUBJECT, CancelRequested())

    await store.write(many)
    assert [e.seq for e in await read(store, SUBJECT, after=5, limit=3)] == [6, 7, 8]
    assert len(await read(store, SUBJECT)) == PAGE_LIMIT
    assert len(await read(store, SUBJECT, after=PAGE_LIMIT)) == 7
    assert await read(store, SUBJECT, after=PAGE_LIMIT + 7) == []
    assert [e.seq for e in await read_all(store, SUBJECT)] == list(range(1, PAGE_LIMIT + 8))
    assert await read_all(store, Subject("nobody", "s")) == []


async def test_fields_of_a_newer_version_are_ignored(store):
    """An event with fields this version does not know is read without them."""
    data = orjson.dumps({"worker": "w", "waited_s": 1.5, "mood": "good"}).decode()

    def op(tx: Tx) -> None:
        tx.one(
            "append_event", subject="t", type="task_claimed", at_us=1, run=1, data=data, body=None
        )

    await store.write(op)
    (entry,) = await read_all(store, SUBJECT)
    assert entry.event == TaskClaimed(worker="w", waited_s=1.5)


@pytest.mark.parametrize("kind", [ModelDowngraded, ModelEscalated, ModelFellBack])
async def test_a_change_of_the_model_of_an_older_version_is_read(store, kind):
    """Written when neither score nor alternatives were told: what there is comes back, the rest is empty."""
    added = {"score", "alternatives", "alternatives_worst_nano"}
    added |= {"next_worst_nano"} if kind is ModelDowngraded else set()
    full = example(kind)
    old = {f.name: getattr(full, f.name) for f in fields(kind) if f.name not in added}
    data = orjson.dumps(old).decode()

    def op(tx: Tx) -> None:
        tx.one("append_event", subject="t", type=kind.name, at_us=1, run=1, data=data, body=None)

    await store.write(op)
    (entry,) = await read_all(store, SUBJECT)
    assert entry.event == kind(**old)
    shown = public_fields(entry.event)
    assert "score" not in shown
    assert (shown["alternatives"], shown["alternatives_worst_usd"]) == ((), ())


async def test_fence_lets_the_holder_through_and_nobody_else(store):
    """Only the run that holds the task may write; who starts something new must not be cancelled."""
    claim = await claimed(store)
    subject = claim.subject
    stale = Subject(subject.task_id, subject.session_id, run=subject.run - 1)

    async def allowed(who: Subject, *, starting: bool = False) -> bool:
        try:
            await store.write(lambda tx: fence(tx, who, starting=starting))
        except StaleLease:
            return False
        return True

    assert await allowed(subject)
    assert await allowed(subject, starting=True)
    assert not await allowed(stale)
    assert not await allowed(Subject("nobody", "s", run=1))
    await store.write(lambda tx: verbs.cancel(tx, LOCAL_OWNER, "t"))
    assert await allowed(subject)
    assert not await allowed(subject, starting=True)
    await store.write(lambda tx: verbs.give_back(tx, subject, "drain", tx.now_us))
    await store.write(
        lambda tx: verbs.finish(tx, subject, verbs.DEADLINE_PASSED),
    )
    assert not await allowed(subject)


async def test_a_refused_operation_leaves_no_event(store):
    """What a stale run wanted to tell is not in the journal, and no view hears of it."""
    claim = await claimed(store)
    told: list[Recorded] = []
    store.listener = told.extend
    stale = Subject("t", "s", run=claim.subject.run + 1)

    def op(tx: Tx) -> None:
        append(tx, stale, CancelRequested())
        fence(tx, stale)

    before = await read_all(store, claim.subject)
    with pytest.raises(StaleLease):
        await store.write(op)
    assert await read_all(store, claim.subject) == before
    assert told == []


def test_names_of_events_are_their_own():
    """Every event has a name of its own, and stands in the closed set under it."""
    named = vars(events) | vars(call_events)
    found = [kind for kind in named.values() if isinstance(kind, type)]
    kinds = [kind for kind in found if issubclass(kind, Event) and kind is not Event]
    assert len(kinds) == len(EVENTS) > 10
    assert sorted(EVENTS) == sorted(kind.name for kind in kinds)
    for kind in kinds:
        assert EVENTS[kind.name] is kind
