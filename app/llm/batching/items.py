"""A batch's items as rows: what each step of an item's life writes. Every function works inside the caller's transaction.

    waits → in a batch → returned → taken in (the row is gone)

An item's reservation is open from the beginning to the end. When its task ends without it, the reservation is ended,
too: released if nothing was sent, else presumed spent, until the batch says what it really cost.
"""

import logging
from dataclasses import replace
from datetime import UTC, date, datetime

from app.budget.ledger import (
    NO_METERS,
    Attempt,
    Confirmed,
    Kind,
    confirm,
    open_attempts,
    release,
    settle,
)
from app.domain.clock import US_PER_S
from app.domain.record import record
from app.domain.task import Subject
from app.journal.call_events import AttemptFailed, AttemptPresumed, AttemptReturned
from app.journal.journal import append
from app.llm.batching.results import Returned, read_result
from app.llm.booking import meters_of, tell
from app.llm.call import Call
from app.llm.costs import answer_cost
from app.llm.pricing import Cost, PriceBook
from app.llm.provider import ModelAnswer
from app.llm.retry import known_unbilled
from app.store.port import Row, Tx

_log = logging.getLogger(__name__)
UNBILLED = "unbilled:batch"


@record(frozen=True, slots=True)
class Item:
    """One reservation that a batch is for."""

    subject: Subject
    """Its task; the run is the one that reserved."""
    step: int
    attempt: int
    model: str
    max_tokens: int
    made_at_us: int
    result: bytes | None = None

    @property
    def day(self) -> date:
        """The prices' day: it is settled by it, whenever it comes back."""
        return datetime.fromtimestamp(self.made_at_us // US_PER_S, UTC).date()

    @property
    def reservation(self) -> Attempt:
        """What the ledger knows it by."""
        return Attempt(self.subject, self.step, self.attempt, self.model, "")


def custom_id(attempt: Attempt) -> str:
    """The reservation's id in the letters that a batch takes."""
    return attempt.id.replace("/", "-")


def add(tx: Tx, call: Call, attempt: Attempt, max_tokens: int, params: bytes) -> None:
    """Write the item down beside its reservation: it waits to be sent."""
    subject = attempt.subject
    tx.later(
        "add_batch_item",
        task_id=subject.task_id,
        step=attempt.step,
        attempt=attempt.attempt,
        custom_id=custom_id(attempt),
        owner=subject.owner,
        session_id=subject.session_id,
        run=subject.run,
        model=call.request.model,
        max_tokens=max_tokens,
        size_bytes=len(params),
        now_us=tx.now_us,
        params=params,
    )


def find(tx: Tx, task_id: str, step: int) -> Item | None:
    """The item of this question, if there is one."""
    rows = tx.all("batch_items_of_task", task_id=task_id)
    found = [row for row in rows if row["step"] == step and not row["given_up"]]
    return item_of(found[-1]) if found else None


def has_returned(tx: Tx, task_id: str) -> bool:
    """Whether an answer waits for the task to take it in."""
    rows = tx.all("batch_items_of_task", task_id=task_id)
    return any(row["result"] is not None and not row["given_up"] for row in rows)


def held_back(tx: Tx, task_id: str) -> set[tuple[int, int]]:
    """Step and attempt of the reservations that are not lost: their batch is still to be had."""
    rows = tx.all("batch_items_of_task", task_id=task_id)
    return {(row["step"], row["attempt"]) for row in rows}


def remove(tx: Tx, item: Item) -> None:
    """It is settled."""
    key = {"step": item.step, "attempt": item.attempt}
    tx.later("remove_batch_item", task_id=item.subject.task_id, **key)


def give_up(tx: Tx, subject: Subject, reason: str) -> int:
    """The task ends without its items: call it before the end is written.

    Returns:
        How many reservations ended.
    """
    rows = tx.all("batch_items_of_task", task_id=subject.task_id)
    if not rows:
        return 0
    opened = {(a.step, a.attempt): a for a in open_attempts(tx, subject)}
    count = 0
    for row in rows:
        attempt = opened.get((row["step"], row["attempt"]))
        if attempt is None:
            continue
        count += 1
        if row["batch_id"] is None and row["result"] is None:
            _release(tx, subject, attempt)
            remove(tx, item_of(row))
        else:
            _presume(tx, subject, attempt, reason)
            key = {"step": attempt.step, "attempt": attempt.attempt}
            tx.later("give_up_batch_item", task_id=subject.task_id, **key)
    return count


def returned(tx: Tx, prices: PriceBook, name: str, result: bytes, batch_id: str) -> bool:
    """Take a result down; its task may go on. What a task has given up is only paid.

    Returns:
        False when it is known already, or is no item of ours.
    """
    row = tx.one("batch_item_returned", custom_id=name, result=result)
    if row is None:
        return False
    item = item_of(row, result)
    if row["given_up"]:
        confirm_given_up(tx, prices, item)
        return True
    event = AttemptReturned(
        step=item.step,
        attempt=item.attempt,
        model=item.model,
        batch_id=batch_id,
        result=read_result(result, item.model).kind,
        waited_s=max(tx.now_us - item.made_at_us, 0) / US_PER_S,
    )
    place = tx.one("task_place", id=item.subject.task_id)
    run = item.subject.run if place is None else place["run_count"]  # another may have begun since
    append(tx, replace(item.subject, run=run), event)
    tx.run("wake_batched", id=item.subject.task_id, now_us=tx.now_us)
    return True


def confirm_given_up(tx: Tx, prices: PriceBook, item: Item) -> Confirmed | None:
    """What an item really cost whose task had ended without it."""
    assert item.result is not None  # noqa: S101  (see `given_up`)
    found = read_result(item.result, item.model)
    cost = cost_of(prices, found, item)
    remove(tx, item)
    if cost is None:  # it stays presumed
        return None
    answer = found.outcome
    meters = meters_of(answer.usage) if isinstance(answer, ModelAnswer) else NO_METERS
    return confirm(tx, item.reservation, cost.nano, meters, cost.price_row)


def confirm_unbilled(tx: Tx, item: Item) -> Confirmed | None:
    """A given-up item turns out never to have been sent."""
    remove(tx, item)
    return confirm(tx, item.reservation, 0, NO_METERS, UNBILLED)


def given_up(tx: Tx, limit: int) -> list[Item]:
    """Items that had come back when their task gave them up."""
    return [item_of(row) for row in tx.all("given_up_and_returned", limit=limit)]


def cost_of(prices: PriceBook, found: Returned, item: Item) -> Cost | None:
    """The price of a result; None when it is not known: an answer that cannot be read may have been billed."""
    answer = found.outcome
    if not isinstance(answer, ModelAnswer):
        return Cost(0, UNBILLED) if known_unbilled(answer) else None
    return answer_cost(prices, answer, item.model, item.day, compacts=True)


def _release(tx: Tx, subject: Subject, attempt: Attempt) -> None:
    released = release(tx, attempt.id)
    failed = AttemptFailed(
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        error_type="interrupted",
        error_message="The question had not been sent.",
        http_status=None,
        phase="connect",
        decision="interrupted",
        charged_nano=0,
        kind=None,
        task_spent_nano=released.task_spent_nano if released else 0,
        duration_s=0.0,
        request_id=None,
    )
    append(tx, subject, failed)


def _presume(tx: Tx, subject: Subject, attempt: Attempt, reason: str) -> None:
    settled = settle(tx, attempt.id, Kind.PRESUMED)
    if settled is None:
        return
    tell(tx, attempt, settled)
    presumed = AttemptPresumed(
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        charged_nano=settled.charged_nano,
        task_spent_nano=settled.task_spent_nano,
        reason=reason,
    )
    append(tx, subject, presumed)


def item_of(row: Row, result: bytes | None = None) -> Item:
    """The item in a row."""
    subject = Subject(row["task_id"], row["session_id"], row["owner"], row["run"])
    return Item(
        subject,
        row["step"],
        row["attempt"],
        row["model"],
        row["max_tokens"],
        row["made_at_us"],
        row["result"] if result is None else result,
    )
