"""What the keeper of batches reads and writes: one function a transaction."""

from collections.abc import Sequence

from app.domain.clock import US_PER_S
from app.domain.ids import new_id
from app.domain.record import record
from app.domain.task import Subject
from app.journal.call_events import AttemptBatched
from app.journal.journal import append
from app.llm.batching import items
from app.llm.pricing import PriceBook
from app.store.port import Row, Tx

SCAN_LIMIT = 10_000
"""Waiting items looked at together, at most."""


@record(frozen=True, slots=True)
class BatchLimits:
    """When a batch is sent, and how often one is asked after."""

    linger_s: float = 10.0
    """How long the first question waits for others."""
    items: int = 1_000
    size_bytes: int = 33_554_432
    poll_s: float = 30.0


@record(frozen=True, slots=True)
class Waiting:
    """What could be sent now: the items of the next batch, and when they are to go."""

    names: tuple[str, ...]
    due_in_s: float


@record(frozen=True, slots=True)
class Sealed:
    """A batch as it is written down, before it is sent."""

    id: str
    items: tuple[tuple[str, bytes], ...]


@record(frozen=True, slots=True)
class Batch:
    """A batch that somebody has to look after now."""

    id: str
    provider_id: str | None
    item_count: int
    cancelled: bool
    made_at_us: int
    age_s: float = 0.0


def next_batch(tx: Tx, limits: BatchLimits) -> Waiting | None:
    """The questions that go together next, the oldest first."""
    names, size, full = list[str](), 0, False
    rows = tx.all("waiting_batch_items", limit=SCAN_LIMIT)
    for row in rows:
        alone = bool(row["alone"])
        if names and (alone or size + row["size_bytes"] > limits.size_bytes):
            full = True
            break
        names.append(row["custom_id"])
        size += row["size_bytes"]
        full = alone or len(names) >= limits.items
        if full:
            break
    if not names:
        return None
    waited_s = (tx.now_us - rows[0]["made_at_us"]) / US_PER_S
    # A clock that was set back makes nobody wait longer.
    due_in_s = 0.0 if full or waited_s < 0 else limits.linger_s - waited_s
    return Waiting(tuple(names), due_in_s)


def seal(tx: Tx, names: Sequence[str], due_in_us: int) -> Sealed | None:
    """Write the batch down: from here on nobody else sends these items. None when none of them waits any more."""
    batch_id = new_id("batch", tx.now_us)
    asked = [{"batch_id": batch_id, "custom_id": name} for name in names]
    put = zip(names, tx.one_each("put_in_batch", asked), strict=True)
    taken = tuple((name, bytes(row["params"])) for name, row in put if row is not None)
    if not taken:
        return None
    tx.run(
        "add_batch",
        id=batch_id,
        item_count=len(taken),
        now_us=tx.now_us,
        due_at_us=tx.now_us + due_in_us,
    )
    return Sealed(batch_id, taken)


def unseal(tx: Tx, batch_id: str, *, alone: bool = False) -> None:
    """It was not made: its items wait again, and what was given up meanwhile has cost nothing."""
    if not tx.run("remove_batch", id=batch_id, made=0):
        return
    tx.run("take_out_of_batch", batch_id=batch_id, alone=int(alone))
    for row in tx.all("given_up_items_of_batch", batch_id=batch_id):
        unsent = items.item_of(row)
        items.confirm_unbilled(tx, unsent)


def made(tx: Tx, batch_id: str, provider_id: str, due_in_us: int) -> bool:
    """Take down under which name the provider has it; False when nobody waits for it any more."""
    due_at_us = tx.now_us + due_in_us
    if tx.run("batch_made", id=batch_id, provider_id=provider_id, due_at_us=due_at_us):
        return True
    known = tx.one("batch_of_provider", provider_id=provider_id)
    return known is not None and known["id"] == batch_id


def tell_made(tx: Tx, batch_id: str, after: int, limit: int) -> int:
    """Let the next tasks know that their question is in a batch; returns how many items were looked at."""
    found = tx.all("items_of_batch", batch_id=batch_id)
    part = found[after : after + limit]
    for row in part:
        if not row["given_up"] and not row["returned"]:
            event = AttemptBatched(
                step=row["step"],
                attempt=row["attempt"],
                model=row["model"],
                batch_id=row["provider_id"],
                items=len(found),
            )
            append(tx, _subject(row), event)
    return len(part)


def take_due(tx: Tx, limit: int, due_in_us: int, longest_us: int) -> list[Batch]:
    """Batches that are due; for `due_in_us` nobody else looks after them.

    One that is due in more than `longest_us` was put off by a clock that has been set back since: it is due.
    """
    rows = tx.all(
        "take_due_batches",
        now_us=tx.now_us,
        latest_us=tx.now_us + longest_us,
        due_at_us=tx.now_us + due_in_us,
        limit=limit,
    )
    return [
        Batch(
            row["id"],
            row["provider_id"],
            row["item_count"],
            bool(row["cancelled"]),
            row["made_at_us"],
            (tx.now_us - row["made_at_us"]) / US_PER_S,
        )
        for row in rows
    ]


def any_outstanding(tx: Tx) -> bool:
    """Whether there is any question on its way, or a batch."""
    return tx.one("any_batch_item") is not None or tx.one("any_batch") is not None


def any_due(tx: Tx, longest_us: int) -> bool:
    """Whether there is a batch to look after now: as `take_due` sees it."""
    row = tx.one("next_due_batch")
    if row is None or row["due_at_us"] is None:
        return False
    first_us, latest_us = int(row["due_at_us"]), int(row["latest_us"])
    return first_us <= tx.now_us or latest_us > tx.now_us + longest_us


def put_off(tx: Tx, batch_id: str, due_in_us: int) -> None:
    """Look after it again then."""
    tx.run("put_off_batch", id=batch_id, due_at_us=tx.now_us + due_in_us)


def names_of(tx: Tx, batch_id: str) -> list[str]:
    """The items that have no result yet."""
    rows = tx.all("items_of_batch", batch_id=batch_id)
    return [row["custom_id"] for row in rows if not row["returned"]]


def is_wanted(tx: Tx, batch_id: str) -> bool:
    """Some task still waits for an item of the batch."""
    return any(not row["given_up"] for row in tx.all("items_of_batch", batch_id=batch_id))


def take_results(
    tx: Tx, prices: PriceBook, batch: Batch, results: Sequence[tuple[str, bytes]], due_in_us: int
) -> int:
    """Store results of the batch; returns how many were new."""
    shown = batch.provider_id or batch.id
    count = sum(items.returned(tx, prices, name, result, shown) for name, result in results)
    put_off(tx, batch.id, due_in_us)
    return count


def close(tx: Tx, batch_id: str) -> None:
    """Every item has its result."""
    tx.run("remove_batch", id=batch_id, made=1)


def _subject(row: Row) -> Subject:
    return Subject(row["task_id"], row["session_id"], row["owner"], row["run"])
