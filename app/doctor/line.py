"""Who waits in line, and who could take them: what only holds for a moment is looked at twice.

A busy service always has a task that is ready, and a slot that has just become free. It is a finding when nothing
has begun or ended for minutes, and when it is still so at the second look.
"""

from collections.abc import Iterator

from app.doctor.findings import Finding
from app.doctor.tickets import look_at_tickets
from app.domain.clock import US_PER_S
from app.store.port import Tx

STALL_US = 300 * US_PER_S
"""A task that is ready, and a free slot, have found each other long before."""
ROW_KEPT_US = 2 * 3_600 * US_PER_S
"""A dead worker's row is removed within a lease, and that is an hour at most."""
UNCLAIMED = "queue-unclaimed"


def look_at_line(tx: Tx, *, shared: bool) -> list[Finding]:
    """What is wrong with the line at this instant, if it is not over a moment later. `shared`: tickets, too."""
    return [*_unclaimed(tx), *(look_at_tickets(tx) if shared else ())]


def _unclaimed(tx: Tx) -> Iterator[Finding]:
    """The first in line waits although there is room; whether anything moves meanwhile, the journals say."""
    before_us = tx.now_us - STALL_US
    first = tx.one("checkup_next_task", before_us=before_us)
    room = tx.one("checkup_slots", now_us=tx.now_us, before_us=before_us)
    if first is None or room is None or not room["free_count"]:
        return
    ready_s = (tx.now_us - first["available_at_us"]) // US_PER_S
    yield Finding(
        UNCLAIMED,
        f"Task {first['id']} is the first in line and ready for {ready_s} s, {room['free_count']} of "
        f"{room['slot_count']} slots of {room['worker_count']} living workers are free, and no run has begun "
        f"or ended for {STALL_US // US_PER_S} s.",
        first["id"],
    )


def look_at_workers(tx: Tx) -> Iterator[Finding]:
    """Rows of workers that are dead for long; only while others live, who would remove them."""
    workers = tx.all("list_workers")
    long_ago_us = tx.now_us - ROW_KEPT_US
    if not any(
        w["expires_at_us"] > tx.now_us and w["started_at_us"] <= long_ago_us for w in workers
    ):
        return
    for worker in workers:
        silent_us = tx.now_us - worker["expires_at_us"]
        if silent_us > ROW_KEPT_US:
            sentence = f"The worker {worker['id']} is dead for {silent_us // US_PER_S} s, and its row is there."
            yield Finding("worker-left", sentence)
