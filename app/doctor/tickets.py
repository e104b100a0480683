"""The dispatcher's tickets, held against the tasks they are for. On PostgreSQL only.

Tickets carry no state, and the service mends what is missing or left over: it is a finding when it has not, although
a process lives that should have. The table is DBOS's, so its columns are looked at before anything else is.
"""

from collections.abc import Iterator

from app.doctor.findings import Finding
from app.domain.clock import US_PER_S
from app.queue import tickets
from app.store.port import Row, Tx

LINE_LIMIT = 256
"""How many of the first in line the sweep gives tickets to: see `app.queue.sweep`."""
LEFT_LIMIT = 500
"""How many that are left over are told of."""
MENDED_US = 60 * US_PER_S
"""The sweep looks every second, and again for the same ticket after 15."""
TIDIED_US = 600 * US_PER_S
"""What has ended is forgotten after a minute; all that is held has been looked at by then."""
_US_PER_MS = 1_000
_COLUMNS = {
    **dict.fromkeys(("workflow_uuid", "status", "name", "executor_id", "queue_name"), "text"),
    **dict.fromkeys(("application_version", "application_name"), "text"),
    **dict.fromkeys(("created_at", "updated_at", "started_at_epoch_ms", "completed_at"), "bigint"),
}


def look_at_tickets(tx: Tx) -> Iterator[Finding]:
    """What is wrong with them at this instant, while somebody lives who looks after them."""
    if not _lives(tx, MENDED_US):
        return
    columns = {row["name"]: row["type"] for row in tx.all("ticket_columns")}
    other = sorted(name for name, kind in _COLUMNS.items() if columns.get(name) != kind)
    if other:
        what = f"has other columns: {', '.join(other)}" if columns else "is missing"
        sentence = f"The dispatcher's table dbos.workflow_status {what}."
        yield Finding("tickets-unreadable", sentence, "dispatcher")
        return
    yield from _of_line(tx)
    if _lives(tx, TIDIED_US):
        yield from _left(tx)


def _lives(tx: Tx, for_us: int) -> bool:
    """A process lives, and has done so for that long."""
    return any(
        worker["expires_at_us"] > tx.now_us and worker["started_at_us"] <= tx.now_us - for_us
        for worker in tx.all("list_workers")
    )


def _of_line(tx: Tx) -> Iterator[Finding]:
    before_us = tx.now_us - MENDED_US
    for row in tx.all("tickets_of_line", limit=LINE_LIMIT, before_us=before_us):
        found = _wrong(row, tx.now_us)
        if found is not None:
            check, what = found
            ready_s = (tx.now_us - row["available_at_us"]) // US_PER_S
            yield Finding(
                check,
                f"Task {row['id']} has been ready for {ready_s} s, and its ticket {what}.",
                row["id"],
            )


def _wrong(ticket: Row, now_us: int) -> tuple[str, str] | None:
    """Why this ticket brings its task to no worker."""
    status = ticket["status"]
    if status is None:
        return "ticket-missing", "is missing"
    if status in tickets.ENDED:
        return "ticket-missing", f"has ended ({status})"
    if status == tickets.HELD:
        held_us = now_us - (ticket["started_at_epoch_ms"] or 0) * _US_PER_MS
        if held_us <= MENDED_US:
            return None
        return "ticket-stuck", f"is held by {ticket['executor_id']} for {held_us // US_PER_S} s"
    taken = {
        "name": (tickets.WORKFLOW,),
        "queue_name": (tickets.QUEUE,),
        "application_version": (tickets.VERSION, None),
        "application_name": (tickets.QUEUE, None),
        "status": (tickets.ENQUEUED,),
    }
    other = [f"{name} {ticket[name]}" for name, ours in taken.items() if ticket[name] not in ours]
    return ("ticket-stranded", f"is for nobody: {', '.join(other)}") if other else None


def _left(tx: Tx) -> Iterator[Finding]:
    for row in tx.all(
        "tickets_left",
        name=tickets.WORKFLOW,
        queue=tickets.QUEUE,
        version=tickets.VERSION,
        before_ms=(tx.now_us - TIDIED_US) // _US_PER_MS,
        limit=LEFT_LIMIT,
    ):
        ticket = row["workflow_uuid"]
        left_s = (tx.now_us - row["since_ms"] * _US_PER_MS) // US_PER_S
        sentence = f"Ticket {ticket} ({row['status']}) is of a run that is over, since {left_s} s."
        yield Finding("ticket-left", sentence, ticket)
