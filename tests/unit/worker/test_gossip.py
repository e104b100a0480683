"""What is told to other processes while the store has troubles of its own."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from app.domain.errors import StoreUnavailable
from app.journal.hints import UpstreamHint
from app.llm.governor.governor import Governor
from app.llm.governor.lane import Reason, Told
from app.store.sqlite import SqliteStore
from app.worker.gossip import LONGEST_S, Gossip
from tests.support.clock import SteppedClock, yielded
from tests.support.failing_store import FailingStore


@dataclass
class Neighbourhood:
    """A process that tells, and what the others hear."""

    clock: SteppedClock
    store: FailingStore
    inner: SqliteStore
    governor: Governor
    gossip: Gossip
    heard: list[UpstreamHint]

    async def step(self, duration_s: float) -> None:
        """Let so much time pass, and what is said be heard."""
        await self.clock.step(duration_s)
        await self.settle()

    async def settle(self) -> None:
        """What is being written is written."""
        await yielded(3)
        await self.inner.write(lambda _tx: None)
        await yielded(3)

    def fail(self) -> None:
        """The store takes nothing from now on."""
        self.store.error = StoreUnavailable("away")


@pytest.fixture
async def here(tmp_path: Path) -> AsyncIterator[Neighbourhood]:
    """A governor whose word goes out through a store that can fail."""
    clock, heard = SteppedClock(), list[UpstreamHint]()
    inner, governor = SqliteStore(tmp_path, clock), Governor(clock)
    store = FailingStore(inner)
    inner.listener = heard.extend
    gossip = Gossip(store, governor, clock)
    yield Neighbourhood(clock, store, inner, governor, gossip, heard)
    await gossip.stop()
    await inner.close()


LIMITED = Told(Reason.RATE_LIMITED, 20.0)
OUTAGE = Told(Reason.OUTAGE, 2.0)


async def test_what_the_store_did_not_take_is_told_again(here: Neighbourhood) -> None:
    """Of the wait only what is left; once."""
    here.fail()
    here.governor.tell("p", LIMITED)
    for _ in range(5):
        await here.step(1.0)
    assert here.heard == []
    here.store.error = None
    await here.step(1.0)
    assert here.heard == [UpstreamHint("p", Reason.RATE_LIMITED, 14.0)]
    await here.step(10.0)
    assert len(here.heard) == 1


async def test_a_wait_that_is_over_is_told_to_nobody(here: Neighbourhood) -> None:
    """They would wait for nothing."""
    here.fail()
    here.governor.tell("p", LIMITED)
    for _ in range(21):
        await here.step(1.0)
    here.store.error = None
    await here.step(1.0)
    assert here.heard == []
    here.governor.tell("p", LIMITED)
    await here.settle()
    assert here.heard == [UpstreamHint("p", Reason.RATE_LIMITED, 20.0)], "the next one is"


async def test_an_outage_is_told_as_long_as_it_lasts(here: Neighbourhood) -> None:
    """Its first wait is short; whoever hears of it late asks with one call at a time, too."""
    here.fail()
    here.governor.hear("p", OUTAGE)
    here.governor.tell("p", OUTAGE)
    for _ in range(10):
        await here.step(1.0)
    here.store.error = None
    await here.step(1.0)
    (hint,) = here.heard
    assert (hint.pool, hint.reason) == ("p", Reason.OUTAGE)
    assert 0 < hint.wait_s < 1


async def test_an_outage_that_has_ended_is_told_to_nobody(here: Neighbourhood) -> None:
    """Its end was found out here before the store took a word of it."""
    here.fail()
    here.governor.hear("p", OUTAGE)
    here.governor.tell("p", OUTAGE)
    await here.step(3.0)
    (road,) = here.governor.roads()
    road.lane.answered(road.lane.take(here.clock.monotonic_s(), 1), 3.0, None, None)
    here.store.error = None
    await here.step(1.0)
    assert here.heard == []


async def test_what_is_learned_while_the_store_is_away_is_told_together(
    here: Neighbourhood,
) -> None:
    """One word for each pool and reason, however often it was met; the longest wait holds."""
    here.fail()
    for wait_s in (3.0, 1e9, 5.0):
        here.governor.tell("p", Told(Reason.RATE_LIMITED, wait_s))
        here.governor.tell("q", Told(Reason.RATE_LIMITED, wait_s))
    await here.step(1.0)
    here.store.error = None
    await here.step(1.0)
    assert sorted(here.heard, key=lambda hint: hint.pool) == [
        UpstreamHint(pool, Reason.RATE_LIMITED, LONGEST_S - 2) for pool in "pq"
    ]


async def test_what_is_learned_while_it_is_being_told_is_told_as_well(here: Neighbourhood) -> None:
    """The word that was under way said less."""
    here.governor.tell("p", LIMITED)
    await yielded()
    here.governor.tell("p", Told(Reason.RATE_LIMITED, 50.0))
    await here.settle()
    await here.settle()
    assert [hint.wait_s for hint in here.heard] == [20.0, 50.0]


async def test_who_stops_says_nothing_more(here: Neighbourhood) -> None:
    """Nor does a store that is closed keep it going."""
    here.fail()
    here.governor.tell("p", LIMITED)
    await here.step(1.0)
    await here.gossip.stop()
    here.store.error = None
    await here.step(1.0)
    assert here.heard == []
