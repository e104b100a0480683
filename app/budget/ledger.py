"""The lines of the ledger, and what they do to the accounts. Every function works inside the caller's transaction; amounts are nano-dollars.

At every committed instant `spent + reserved <= limit` on every scope of a call: a reservation takes all of
them or none, by one guarded statement a scope, with a CHECK in the schema as the second line.
"""

from collections.abc import Sequence
from dataclasses import fields
from enum import StrEnum

import orjson

from app.budget.scopes import Scope
from app.domain.record import record
from app.domain.task import Subject
from app.store.port import Row, Tx


class Kind(StrEnum):
    """How sure a settled amount is."""

    CONFIRMED = "confirmed"
    """The provider reported its usage."""
    ESTIMATED = "estimated"
    """Usage missing or unusable: booked at the reservation, an upper bound."""
    PRESUMED = "presumed"
    """The answer was lost: booked at the reservation."""


@record(frozen=True, slots=True)
class Attempt:
    """What a reservation is for."""

    subject: Subject
    step: int
    attempt: int
    model: str
    price_row: str
    key_id: str = ""
    agent: str = ""
    bound: str = "proved"
    """`estimate` when the prompt was counted by the provider's estimate, not proved."""

    @property
    def id(self) -> str:
        """Names the reservation, its settlement, and the request on the wire."""
        return f"{self.subject.task_id}/{self.step}/{self.attempt}"


@record(frozen=True, slots=True)
class Meters:
    """Tokens and fees of one settlement."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0
    usage_json: str | None = None
    """The exact usage, where the numbers above do not tell all of it."""
    cache_saved_nano: int = 0
    """What caching saved on it; negative where a write cost more than was read."""


@record(frozen=True, slots=True)
class Warned:
    """A budget that this settlement has brought above its soft threshold."""

    scope: Scope
    limit_nano: int
    spent_nano: int


@record(frozen=True, slots=True)
class Settled:
    """What a settlement booked."""

    charged_nano: int
    surplus_nano: int
    """How much of the charge was above the reservation; anything but 0 is an alarm."""
    task_spent_nano: int
    reserved_nano: int
    warnings: tuple[Warned, ...] = ()
    """Budgets of which a good part is spent by now, each told once."""


@record(frozen=True, slots=True)
class Confirmed:
    """What became of a presumed line when its answer came after all."""

    presumed_nano: int
    charged_nano: int
    surplus_nano: int
    """How much of the charge was above the reservation; anything but 0 is an alarm."""


NO_METERS = Meters()


def reserve(tx: Tx, attempt: Attempt, scopes: Sequence[Scope], amount_nano: int) -> Scope | None:
    """Hold `amount_nano` on every scope and write the line; None when done.

    Returns:
        The first scope on which it does not fit. The caller must then raise, so that nothing is kept.
    """
    wanted = [{"scope": scope.kind, "id": scope.id, "amount_nano": amount_nano} for scope in scopes]
    for scope, done in zip(scopes, tx.run_each("hold", wanted), strict=True):
        if done != 1:
            return scope
    subject = attempt.subject
    tx.later(
        "add_reservation",
        task_id=subject.task_id,
        step=attempt.step,
        attempt=attempt.attempt,
        owner=subject.owner,
        session_id=subject.session_id,
        run=subject.run,
        model=attempt.model,
        price_row=attempt.price_row,
        key_id=attempt.key_id,
        agent=attempt.agent,
        bound=attempt.bound,
        scopes=orjson.dumps([[scope.kind, scope.id] for scope in scopes]).decode(),
        amount_nano=amount_nano,
        at_us=tx.now_us,
    )
    return None


def settle(
    tx: Tx,
    attempt_id: str,
    kind: Kind,
    cost_nano: int | None = None,
    meters: Meters = NO_METERS,
    price_row: str | None = None,
) -> Settled | None:
    """End a reservation with what the attempt cost; without a cost, with all that was held.

    A cost above the reservation is booked in full, the surplus in a column of its own. `price_row` names what
    the cost was computed with, if that is not what the reservation was.

    Returns:
        What was booked; None when the reservation has already ended (or never was).
    """
    held = _open_reservation(tx, attempt_id)
    if held is None:
        return None
    reserved: int = held["amount_nano"]
    cost = reserved if cost_nano is None else cost_nano
    within = min(cost, reserved)
    task_spent, warnings = _book(tx, held, within, cost - within)
    _add_ending(
        tx,
        held,
        "settlement",
        kind=kind,
        amount_nano=within,
        surplus_nano=cost - within,
        meters=meters,
        price_row=price_row,
    )
    _count_in_session(tx, held, {kind: cost}, meters)
    return Settled(cost, cost - within, task_spent, reserved, warnings)


def confirm(
    tx: Tx, attempt: Attempt, cost_nano: int, meters: Meters, price_row: str
) -> Confirmed | None:
    """Turn the attempt's presumed line into a confirmed one, and the accounts with it. Facts are taken from anyone.

    The line keeps its instant, so that every sum over lines stays one, and says what it was before.

    Returns:
        None when there is no such line: nothing was presumed, or it is confirmed already.
    """
    key = {"step": attempt.step, "attempt": attempt.attempt, "run": attempt.subject.run}
    line = tx.one("presumed_line", task_id=attempt.subject.task_id, **key)
    if line is None:
        return None
    presumed: int = line["amount_nano"]
    within = min(cost_nano, presumed)
    for kind, identifier in orjson.loads(line["scopes"]):
        tx.one(
            "book",
            scope=kind,
            id=identifier,
            held_nano=0,
            spent_nano=within - presumed,
            surplus_nano=cost_nano - within,
        )
    tx.run(
        "confirm_line",
        task_id=line["task_id"],
        **key,
        now_us=tx.now_us,
        amount_nano=within,
        surplus_nano=cost_nano - within,
        price_row=price_row,
        **_columns(meters),
    )
    amounts = {Kind.CONFIRMED: cost_nano, Kind.PRESUMED: -presumed}
    _count_in_session(tx, line, amounts, meters, calls=0)
    return Confirmed(presumed, cost_nano, cost_nano - within)


def release(tx: Tx, attempt_id: str) -> Settled | None:
    """End a reservation with nothing spent: the request never left, or is known not to be billed."""
    held = _open_reservation(tx, attempt_id)
    if held is None:
        return None
    task_spent, _ = _book(tx, held, 0, 0)
    _add_ending(tx, held, "release")
    return Settled(0, 0, task_spent, held["amount_nano"])


def open_attempts(tx: Tx, subject: Subject) -> list[Attempt]:
    """The task's attempts whose reservation nothing has ended: a crash left them in flight."""
    rows = tx.all("open_reservations_of_task", task_id=subject.task_id)
    return [_attempt_of(row) for row in rows]


def _open_reservation(tx: Tx, attempt_id: str) -> Row | None:
    task_id, _, numbers = attempt_id.partition("/")
    step, _, attempt = numbers.partition("/")
    if not attempt:
        return None
    return tx.one("open_reservation", task_id=task_id, step=int(step), attempt=int(attempt))


def _book(tx: Tx, held: Row, spent_nano: int, surplus_nano: int) -> tuple[int, tuple[Warned, ...]]:
    """Book on the scopes of the reservation; returns what the task has spent by now, and what to warn of."""
    task_spent, warnings = 0, list[Warned]()
    charged = spent_nano + surplus_nano > 0
    scopes = orjson.loads(held["scopes"])
    amounts = {
        "held_nano": held["amount_nano"],
        "spent_nano": spent_nano,
        "surplus_nano": surplus_nano,
    }
    rows = tx.one_each("book", [{"scope": kind, "id": name, **amounts} for kind, name in scopes])
    for (kind, identifier), row in zip(scopes, rows, strict=True):
        assert row is not None, f"account {kind} {identifier} is gone"  # noqa: S101
        if identifier == held["task_id"]:
            task_spent = row["spent_nano"]
        warn_at_nano = row["warn_at_nano"]
        if warn_at_nano is not None and charged and row["spent_nano"] >= warn_at_nano:
            tx.later("warned", scope=kind, id=identifier)
            warnings.append(Warned(Scope(kind, identifier), row["limit_nano"], row["spent_nano"]))
    return task_spent, tuple(warnings)


def _count_in_session(
    tx: Tx, line: Row, amounts: dict[Kind, int], meters: Meters, calls: int = 1
) -> None:
    """Keep the session's sums in step with its lines: with many tasks they cannot be summed up each time."""
    tx.later(
        "count_in_session",
        owner=line["owner"],
        session_id=line["session_id"],
        model=line["model"],
        calls=calls,
        spent_nano=sum(amounts.values()),
        **{f"{kind}_nano": amounts.get(kind, 0) for kind in Kind},
        **{name: getattr(meters, name) for name in _COUNTED},
    )


def _attempt_of(row: Row) -> Attempt:
    subject = Subject(row["task_id"], row["session_id"], row["owner"], row["run"])
    return Attempt(
        subject,
        row["step"],
        row["attempt"],
        row["model"],
        row["price_row"],
        row["key_id"],
        row["agent"],
        row["bound"],
    )


def _add_ending(
    tx: Tx,
    held: Row,
    entry: str,
    *,
    kind: Kind | None = None,
    amount_nano: int = 0,
    surplus_nano: int = 0,
    meters: Meters = NO_METERS,
    price_row: str | None = None,
) -> None:
    """The line that ends the reservation `held`."""
    tx.later(
        "add_line",
        task_id=held["task_id"],
        step=held["step"],
        attempt=held["attempt"],
        ended=1,
        entry=entry,
        kind=kind,
        owner=held["owner"],
        session_id=held["session_id"],
        run=held["run"],
        model=held["model"],
        price_row=price_row or held["price_row"],
        key_id=held["key_id"],
        agent=held["agent"],
        bound=held["bound"],
        scopes=held["scopes"],
        amount_nano=amount_nano,
        surplus_nano=surplus_nano,
        **_columns(meters),
        at_us=tx.now_us,
    )


def _columns(meters: Meters) -> dict[str, object]:
    return {name: getattr(meters, name) for name in _METERS}


_METERS = tuple(field.name for field in fields(Meters))
_COUNTED = tuple(name for name in _METERS if name.endswith(("_tokens", "_nano")))
