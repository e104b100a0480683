"""A process killed before and after every write and every call of an economy task: bought once, paid once, never lost."""

from pathlib import Path

import pytest

from app.domain.task import Urgency
from app.simulator.core import Simulator
from app.store.port import Store
from app.worker.batch_rows import BatchLimits
from app.worker.recovery import take_over
from tests.support.batching import Fuse, Killed, Process
from tests.support.clock import FakeClock
from tests.support.seeding import accepted, claim_now, drift, hold_lease, lines_of, row_of
from tests.support.stores import Embedded, MakeStore

ROUNDS = 60
LIMITS = BatchLimits(linger_s=10.0, poll_s=30.0)
IDS = ("one", "two")


async def live(process: Process, store: Store, clock: FakeClock) -> None:
    """One life: rescue, work, look after batches, until everything is settled."""
    await take_over(process.store, run_limit=1_000)
    await store.write(hold_lease)
    for _ in range(ROUNDS):
        for claim in await process.store.write(lambda tx: claim_now(tx, 4)):
            await process.work(claim)
        await process.keeper.look()
        if await settled(store):
            return
        clock.move(15)
    raise AssertionError("it never ends")


async def settled(store: Store) -> bool:
    """Every task has ended, and nothing is left of any batch."""
    rows = [await row_of(store, task_id) for task_id in IDS]
    left = await store.read(lambda tx: (tx.all("batch_state"), tx.one("next_due_batch")))
    due = left[1]
    no_batch = due is not None and due["due_at_us"] is None
    return all(row["outcome"] for row in rows) and not left[0] and no_batch


class World:
    """A store with two economy tasks, and an upstream that answers a minute after a batch was made."""

    def __init__(self, store: Store, clock: FakeClock) -> None:
        self.store = store
        self.clock = clock
        self.simulator = Simulator(clock)
        self.simulator.batches.delay_s = 60.0

    async def seed(self) -> None:
        """The tasks."""
        for task_id in IDS:
            await accepted(
                self.store,
                task_id,
                urgency=Urgency.ECONOMY,
                max_steps=1,
                deadline_s=90_000.0,
                text=f"Say hello to {task_id}.",
            )

    async def lives(self, target: int | None) -> list[str]:
        """The points of the first life, which ends at the `target`; further ones go to the end."""
        fuse = Fuse(target)
        process = Process.begin(self.store, self.clock, self.simulator, fuse, LIMITS)
        try:
            await live(process, self.store, self.clock)
        except Killed:
            again = Process.begin(self.store, self.clock, self.simulator, Fuse(), LIMITS)
            await live(again, self.store, self.clock)
        return fuse.passed

    async def check(self, reached: str) -> None:
        """Both are answered, each was bought once, and the ledger is the bill to the nano-dollar."""
        bill = self.simulator.bill
        assert len(bill.lines) == len(IDS), reached
        names = {line.client_reference for line in bill.lines}
        assert names == {f"{task_id}-1-1" for task_id in IDS}, reached
        for task_id in IDS:
            row = await row_of(self.store, task_id)
            assert (row["status"], row["outcome"]) == ("succeeded", "answered"), reached
            assert row["reserved_nano"] == 0, reached
            sums = await lines_of(self.store, task_id)
            (line,) = (one for one in bill.lines if one.client_reference == f"{task_id}-1-1")
            assert sums["confirmed_nano"] == line.nano == row["spent_nano"], reached
        assert await drift(self.store) == [], reached


async def world_in(folder: Path, make_store: MakeStore) -> World:
    """A fresh one."""
    clock = FakeClock()
    world = World(make_store(folder, clock), clock)
    await world.seed()
    return world


@pytest.mark.timeout(300)
async def test_killed_at_every_point(make_store: MakeStore, tmp_path: Path) -> None:
    """The next process goes on; what was sent is found in the provider's list and not sent again."""
    first = await world_in(tmp_path / "whole", make_store)
    points = await first.lives(None)
    await first.check("nothing")
    await first.store.close()
    assert any(point.startswith("after POST") for point in points)
    every = 1 if isinstance(make_store, Embedded) else 3
    for number, point in [*enumerate(points)][::every]:
        world = await world_in(tmp_path / str(number), make_store)
        await world.lives(number)
        await world.check(f"{number}: {point}")
        await world.store.close()
