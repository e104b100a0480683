"""Leases: who may claim, and what a lost row means."""

import asyncio

import pytest

from app.domain.errors import LeaseLost
from app.queue import leases, verbs
from app.store.port import Tx
from tests.support.seeding import accepted, hold_lease, row_of
from tests.unit.queue.conftest import Office

LEASE_S = 15.0


async def taken(office: Office, worker: str = "v") -> None:
    """A worker with an ordinary lease."""
    await office.store.write(lambda tx: leases.take(tx, worker, slots=4, lease_s=LEASE_S))


async def test_a_worker_without_a_lease_claims_nothing(office):
    """The claim is refused and the task waits on, unchanged."""
    await accepted(office.store)
    with pytest.raises(LeaseLost):
        await office.store.write(lambda tx: verbs.claim(tx, "nobody", 1))
    row = await row_of(office.store)
    assert (row["status"], row["run_count"]) == ("queued", 0)


async def test_a_lease_lasts_until_it_expires(office):
    """A moment before its end the worker may claim, at its end it may not; a renewal lets it again."""
    await accepted(office.store)
    await taken(office)
    office.clock.move(LEASE_S)
    with pytest.raises(LeaseLost):
        await office.store.write(lambda tx: verbs.claim(tx, "v", 1))
    assert await office.store.write(lambda tx: leases.renew(tx, "v", LEASE_S))
    office.clock.move(LEASE_S - 0.001)
    (claim,) = await office.store.write(lambda tx: verbs.claim(tx, "v", 1))
    assert claim.worker == "v"


async def test_a_fresh_lease_replaces_the_lost_one(office):
    """What the old id held is an orphan at once, and the old id cannot be renewed."""
    await accepted(office.store)
    await taken(office)
    await office.store.write(lambda tx: verbs.claim(tx, "v", 1))

    def orphans(tx: Tx) -> int:
        return len(tx.all("orphaned_tasks", limit=9))

    assert await office.store.read(orphans) == 0
    await office.store.write(
        lambda tx: leases.take(tx, "v2", slots=4, lease_s=LEASE_S, instead_of="v")
    )
    assert await office.store.read(orphans) == 1
    assert not await office.store.write(lambda tx: leases.renew(tx, "v", LEASE_S))


async def test_taking_twice_is_taking_once(office):
    """A lease whose commit was not heard of is asked for again."""
    await taken(office)
    office.clock.move(5)
    await taken(office)
    (row,) = [
        row
        for row in await office.store.read(lambda tx: tx.all("list_workers"))
        if row["id"] == "v"
    ]
    assert row["expires_at_us"] == office.clock.now_us() + int(LEASE_S * 1_000_000)


async def test_the_queue_waits_for_a_lease_and_asks_for_it(office):
    """Without one it hands out nothing, and wants a renewal; with one it goes on by itself."""
    await accepted(office.store)
    await office.store.write(lambda tx: leases.leave(tx, "w"))
    await office.queue.start()
    waiting = asyncio.create_task(office.queue.next())
    async with asyncio.timeout(10):
        await office.lease.wanted(10)
        assert not waiting.done()
        await office.store.write(hold_lease)
        office.queue.wake()
        claim = await waiting
    assert claim is not None
    assert claim.subject.run == 1
