"""What an attempt's end writes: the settlement and the event that tells of it. Inside a transaction."""

import logging
from dataclasses import replace

import orjson

from app.budget.ledger import (
    NO_METERS,
    Attempt,
    Confirmed,
    Kind,
    Meters,
    Settled,
    confirm,
    open_attempts,
    release,
    settle,
)
from app.budget.scopes import shown_id
from app.domain.errors import StaleLease
from app.domain.money import usd_from_nano
from app.domain.record import record
from app.journal.call_events import (
    AttemptFailed,
    ModelAnswered,
    ReservationExceeded,
    RetryScheduled,
)
from app.journal.events import BudgetWarned
from app.journal.journal import append, fence, holds
from app.llm.call import Move
from app.llm.pricing import Cost
from app.llm.provider import ModelAnswer, ModelFailure, Phase
from app.llm.retry import Again, Decision, GiveUp, Wait, known_unbilled
from app.llm.usage import Usage
from app.store.port import Tx

_log = logging.getLogger(__name__)

_LATE_UNBILLED = "unbilled:failed-late"


@record(frozen=True, slots=True)
class Late:
    """The end of a call whose run had lost its task: it is not recorded, but what it cost is."""

    stale: StaleLease
    confirmed: Confirmed | None
    """Its presumed line, if that could be confirmed."""


def book_answer(
    tx: Tx,
    attempt: Attempt,
    answer: ModelAnswer,
    move: Move,
    *,
    cost: Cost | None,
    duration_s: float,
) -> Settled | Late:
    """Pay the answer, record it, and write the move it leads to. Without a cost: at the reservation.

    When this run no longer holds the task, only the truth about its money is taken down.
    """
    meters = meters_of(answer.usage, plain_model=attempt.model)
    if cost is not None and cost.cache_saved_nano:
        meters = replace(meters, cache_saved_nano=cost.cache_saved_nano)
    try:
        fence(tx, attempt.subject)
    except StaleLease as stale:
        confirmed = (
            None if cost is None else confirm(tx, attempt, cost.nano, meters, cost.price_row)
        )
        return Late(stale, confirmed)
    kind = Kind.ESTIMATED if cost is None else Kind.CONFIRMED
    if cost is None:
        settled = settle(tx, attempt.id, kind, None, meters)
    else:
        settled = settle(tx, attempt.id, kind, cost.nano, meters, cost.price_row)
    if settled is None:
        message = f"attempt {attempt.id} has been settled by another run"
        raise StaleLease(message)
    tx.later("record_step", id=attempt.subject.task_id, run=attempt.subject.run, step=attempt.step)
    append(
        tx,
        attempt.subject,
        ModelAnswered(
            step=attempt.step,
            attempt=attempt.attempt,
            model=answer.model,
            stop_reason=answer.stop_reason,
            move=move.name,
            input_tokens=meters.input_tokens,
            output_tokens=meters.output_tokens,
            cache_read_tokens=meters.cache_read_tokens,
            cache_write_5m_tokens=meters.cache_write_5m_tokens,
            cache_write_1h_tokens=meters.cache_write_1h_tokens,
            web_searches=meters.web_searches,
            cost_nano=settled.charged_nano,
            kind=kind,
            price_row=attempt.price_row if cost is None else cost.price_row,
            task_spent_nano=settled.task_spent_nano,
            duration_s=duration_s,
            request_id=answer.request_id,
        ),
        answer.raw,
    )
    tell(tx, attempt, settled)
    move.write(tx, settled)
    return settled


def book_unsent(tx: Tx, attempt: Attempt) -> None:
    """Give back a reservation whose request never left, and say so; free it if somebody took the call for lost.

    By run as well as by number: where this one was refused, a later run may hold the same number for a call of its own.
    """
    own = any(a == attempt for a in open_attempts(tx, attempt.subject))
    if own and release(tx, attempt.id) is not None:
        if not holds(tx, attempt.subject):
            return
        failure = ModelFailure("interrupted", "The call was never sent.", phase=Phase.CONNECT)
        append(tx, attempt.subject, _failed(attempt, failure, None, None, None, 0.0))
    else:
        confirm(tx, attempt, 0, NO_METERS, _LATE_UNBILLED)


def book_failure(
    tx: Tx,
    attempt: Attempt,
    failure: ModelFailure,
    decision: Decision | None,
    duration_s: float,
    cost: Cost | None = None,
) -> Late | None:
    """End the reservation of an attempt without an answer. Money is booked even by a stale run, and nothing else.

    `decision` is None when the run was interrupted. `cost` bounds what a stream cost that broke off after
    it had reported its prompt; without one the whole reservation is presumed spent.

    Returns:
        None when this run still holds the task.
    """
    if known_unbilled(failure):
        kind, settled = None, release(tx, attempt.id)
    elif cost is None:
        kind, settled = Kind.PRESUMED, settle(tx, attempt.id, Kind.PRESUMED)
    else:
        kind = Kind.ESTIMATED
        meters = meters_of(failure.usage_so_far)
        meters = replace(meters, cache_saved_nano=cost.cache_saved_nano)
        settled = settle(tx, attempt.id, kind, cost.nano, meters, cost.price_row)
    confirmed = None
    if settled is None and known_unbilled(failure):  # others have presumed it meanwhile
        confirmed = confirm(tx, attempt, 0, NO_METERS, _LATE_UNBILLED)
    try:
        fence(tx, attempt.subject)
    except StaleLease as stale:
        return Late(stale, confirmed)
    if settled is None:  # there is nothing to tell any more
        return None
    append(tx, attempt.subject, _failed(attempt, failure, decision, settled, kind, duration_s))
    tell(tx, attempt, settled)
    if isinstance(decision, Again | Wait):
        append(
            tx,
            attempt.subject,
            RetryScheduled(
                step=attempt.step,
                attempt=attempt.attempt + 1,
                wait_s=decision.wait_s,
                reason=decision.reason,
            ),
        )
    return None


def tell(tx: Tx, attempt: Attempt, settled: Settled) -> None:
    """Write what a settlement gives reason to say: a surplus, budgets that are running out."""
    if settled.surplus_nano:
        append(tx, attempt.subject, _exceeded(attempt, settled))
    for warned in settled.warnings:
        append(
            tx,
            attempt.subject,
            BudgetWarned(
                scope=warned.scope.kind,
                scope_id=shown_id(warned.scope),
                limit_nano=warned.limit_nano,
                spent_nano=warned.spent_nano,
            ),
        )


def _failed(
    attempt: Attempt,
    failure: ModelFailure,
    decision: Decision | None,
    settled: Settled | None,
    kind: Kind | None,
    duration_s: float,
) -> AttemptFailed:
    return AttemptFailed(
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        error_type=failure.error_type,
        error_message=failure.message,
        http_status=failure.status,
        phase=failure.phase,
        decision=_name(decision),
        charged_nano=settled.charged_nano if settled else 0,
        kind=kind,
        task_spent_nano=settled.task_spent_nano if settled else 0,
        duration_s=duration_s,
        request_id=failure.request_id,
    )


def _name(decision: Decision | None) -> str:
    match decision:
        case None:
            return "interrupted"
        case Again():
            return "retry"
        case Wait():
            return "wait"
        case GiveUp(outcome=outcome):
            return outcome


def _exceeded(attempt: Attempt, settled: Settled) -> ReservationExceeded:
    return ReservationExceeded(
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        reserved_nano=settled.reserved_nano,
        actual_nano=settled.charged_nano,
        surplus_nano=settled.surplus_nano,
    )


def meters_of(usage: Usage | None, *, plain_model: str | None = None) -> Meters:
    """The tokens of every part, summed by meter; the exact usage too, where the sums do not tell all of it.

    They do for one pass of `plain_model` at standard tier, speed and geography.
    """
    if usage is None:
        return Meters()
    parts = [tokens for _, tokens in usage.parts]
    plain = len(parts) == 1 and usage == Usage(
        ((plain_model or "", parts[0]),), web_searches=usage.web_searches
    )
    return Meters(
        input_tokens=sum(t.input for t in parts),
        output_tokens=sum(t.output for t in parts),
        cache_read_tokens=sum(t.cache_read for t in parts),
        cache_write_5m_tokens=sum(t.cache_write_5m for t in parts),
        cache_write_1h_tokens=sum(t.cache_write_1h for t in parts),
        web_searches=usage.web_searches,
        usage_json=None if plain else orjson.dumps(usage).decode(),
    )


def tell_late(attempt: Attempt, booked: Settled | Late | None) -> None:
    """What was booked late is logged: the journal of a task that others have taken over, or that has ended, is not ours.

    More than was reserved is an alarm here, too.
    """
    confirmed = booked.confirmed if isinstance(booked, Late) else None
    if confirmed is None:
        return
    amounts = {
        "presumed_usd": usd_from_nano(confirmed.presumed_nano),
        "cost_usd": usd_from_nano(confirmed.charged_nano),
        "surplus_usd": usd_from_nano(confirmed.surplus_nano),
    }
    named = {"task_id": attempt.subject.task_id, "attempt_id": attempt.id}
    if confirmed.surplus_nano:
        _log.error("late_answer", extra={**named, **amounts})
    else:
        _log.warning("late_answer", extra={**named, **amounts})
