"""Retention: tasks that ended long ago are taken away, a few rows at a time, so that nobody's write waits.

Prompts, answers, tool data, journal and the task's row go. Its ledger lines and its account stay: sums over them
are what they were.
"""

from collections.abc import AsyncIterator, Sequence

from app.domain.clock import Clock
from app.store.port import Row, Store, Tx

ENTRIES_LIMIT = 32
"""Journal entries that one write deletes, at most."""
PAGE_LIMIT = 200
"""Tasks looked at in one read."""


async def sweep(store: Store, clock: Clock, before_us: int, pause_s: float) -> int:
    """Take away every task that ended before that instant, with a pause after each write.

    A task with sub-tasks stays until they are gone.

    Returns:
        How many there were.

    Raises:
        StoreError: the rest is left for the next time.
    """
    taken = 0
    await _drop_leftovers(store, clock, pause_s)
    async for page in _due(store, before_us):
        left = page
        while left:
            seen, count = await _take_some(store, left, before_us)
            left, taken = left[seen:], taken + count
            await clock.sleep(pause_s)
        await _drop_leftovers(store, clock, pause_s)
    return taken


async def _take_some(store: Store, task_ids: list[str], before_us: int) -> tuple[int, int]:
    return await store.write(lambda tx: take_away(tx, task_ids, before_us))


def take_away(tx: Tx, task_ids: list[str], before_us: int) -> tuple[int, int]:
    """Take away as many of the tasks as one write may; returns how many were looked at, and taken.

    A journal that is too long for one write is finished by `drop_entries`.
    """
    room, seen, taken = ENTRIES_LIMIT, 0, 0
    for task_id in task_ids:
        if room <= 0:
            break
        seen += 1
        task = tx.one("prune_task", id=task_id, before_us=before_us)
        if task is None:  # it was retried, or has sub-tasks by now
            continue
        taken += 1
        owner, session_id = task["owner"], task["session_id"]
        tx.run("prune_answers", task_id=task_id)
        row = tx.one("add_pruned", owner=owner, session_id=session_id, id=task_id, now_us=tx.now_us)
        assert row is not None  # noqa: S101  (an INSERT … RETURNING returns)
        room -= 1 + _drop(tx, owner, session_id, task_id, row["events_left"], room)
    return seen, taken


def drop_entries(tx: Tx) -> bool:
    """Delete some of the journal entries that are left of tasks taken away; whether there were any."""
    task = tx.one("half_pruned", limit=1)
    if task is None:
        return False
    _drop(tx, task["owner"], task["session_id"], task["id"], task["events_left"], ENTRIES_LIMIT)
    return True


def _drop(tx: Tx, owner: str, session_id: str, task_id: str, last: int, room: int) -> int:
    left = max(last - room, 0)
    tx.run("prune_events", subject=task_id, left=left)
    tx.run("set_events_left", owner=owner, session_id=session_id, id=task_id, left=left)
    return last - left


async def _drop_leftovers(store: Store, clock: Clock, pause_s: float) -> None:
    while await store.write(drop_entries):
        await clock.sleep(pause_s)


async def _due(store: Store, before_us: int) -> AsyncIterator[list[str]]:
    """Tasks to take away, page by page; found by readers, owner by owner, the oldest first."""
    owner = ""
    while (found := await _owner_after(store, owner)) is not None:
        owner = found
        async for page in _due_of(store, owner, before_us):
            yield page


async def _owner_after(store: Store, owner: str) -> str | None:
    row = await store.read(lambda tx: tx.one("next_owner", after=owner))
    found: str | None = None if row is None else row["owner"]
    return found


async def _due_of(store: Store, owner: str, before_us: int) -> AsyncIterator[list[str]]:
    after_us, after_id = -1, ""
    while page := await _candidates(store, owner, before_us, after_us, after_id):
        after_us, after_id = page[-1]["created_at_us"], page[-1]["id"]
        yield [row["id"] for row in page if row["due"]]


async def _candidates(
    store: Store, owner: str, before_us: int, after_us: int, after_id: str
) -> Sequence[Row]:
    params = {"owner": owner, "before_us": before_us, "limit": PAGE_LIMIT}
    place = {"after_us": after_us, "after_id": after_id}
    return await store.read(lambda tx: tx.all("prune_candidates", **params, **place))
