"""Accounts and lines. Every function works inside the caller's transaction; amounts are nano-dollars.

At every committed instant `spent + reserved <= limit` on every scope of a call: a reservation takes all of
them or none, by one guarded statement a scope, with a CHECK in the schema as the second line.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import orjson

from app.domain.errors import NotFound
from app.domain.task import Subject
from app.store.port import Row, Tx


@dataclass(frozen=True, slots=True)
class Scope:
    """Something with a budget: a task, a session, the whole service."""

    kind: str
    id: str


SERVICE = Scope("service", "service")


def task_scope(subject: Subject) -> Scope:
    """The scope of the task alone."""
    return Scope("task", subject.task_id)


def session_scope(owner: str, session_id: str) -> Scope:
    """The scope that all tasks of a session share."""
    return Scope("session", f"{owner}/{session_id}")


class Kind(StrEnum):
    """How sure a settled amount is."""

    CONFIRMED = "confirmed"
    """The provider reported its usage."""
    ESTIMATED = "estimated"
    """Usage missing or unusable: booked at the reservation, an upper bound."""
    PRESUMED = "presumed"
    """The answer was lost: booked at the reservation."""


@dataclass(frozen=True, slots=True)
class Balance:
    """How an account stands."""

    scope: Scope
    limit_nano: int
    spent_nano: int
    """Settled, surplus included."""
    reserved_nano: int

    @property
    def unspent_nano(self) -> int:
        """What spent money leaves; other calls may hold parts of it."""
        return self.limit_nano - self.spent_nano

    @property
    def free_nano(self) -> int:
        """What can be reserved right now."""
        return self.unspent_nano - self.reserved_nano


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a reservation is for."""

    subject: Subject
    step: int
    attempt: int
    model: str
    price_row: str

    @property
    def id(self) -> str:
        """Names the reservation, its settlement, and the request on the wire."""
        return f"{self.subject.task_id}/{self.step}/{self.attempt}"


@dataclass(frozen=True, slots=True)
class Meters:
    """Tokens and fees of one settlement."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_5m_tokens: int = 0
    cache_write_1h_tokens: int = 0
    web_searches: int = 0


@dataclass(frozen=True, slots=True)
class Settled:
    """What a settlement booked."""

    charged_nano: int
    surplus_nano: int
    """How much of the charge was above the reservation; anything but 0 is an alarm."""
    task_spent_nano: int
    reserved_nano: int


_NO_METERS = Meters()


def open_account(tx: Tx, scope: Scope, owner: str, limit_nano: int) -> None:
    """Make the account if it is new; an existing one keeps its limit."""
    tx.run("open_account", scope=scope.kind, id=scope.id, owner=owner, limit_nano=limit_nano)


def set_limit(tx: Tx, scope: Scope, limit_nano: int) -> None:
    """Change a limit. One below what is spent is accepted: it blocks new calls."""
    tx.run("set_limit", scope=scope.kind, id=scope.id, limit_nano=limit_nano)


def balance(tx: Tx, scope: Scope) -> Balance:
    """How the account stands.

    Raises:
        NotFound: there is no such account.
    """
    row = tx.one("read_account", scope=scope.kind, id=scope.id)
    if row is None:
        raise NotFound(scope.kind, scope.id)
    spent = row["spent_nano"] + row["surplus_nano"]
    return Balance(scope, row["limit_nano"], spent, row["reserved_nano"])


def reserve(tx: Tx, attempt: Attempt, scopes: Sequence[Scope], amount_nano: int) -> Scope | None:
    """Hold `amount_nano` on every scope and write the line; None when done.

    Returns:
        The first scope on which it does not fit. The caller must then raise, so that nothing is kept.
    """
    for scope in scopes:
        if tx.run("hold", scope=scope.kind, id=scope.id, amount_nano=amount_nano) != 1:
            return scope
    pairs = orjson.dumps([[scope.kind, scope.id] for scope in scopes]).decode()
    _add_line(tx, attempt, "reservation", None, pairs, amount_nano)
    return None


def settle(
    tx: Tx, attempt_id: str, kind: Kind, cost_nano: int | None = None, meters: Meters = _NO_METERS
) -> Settled | None:
    """End a reservation with what the attempt cost; without a cost, with all that was held.

    A cost above the reservation is booked in full, the surplus in a column of its own.

    Returns:
        What was booked; None when the reservation has already ended (or never was).
    """
    held = _open_reservation(tx, attempt_id)
    if held is None:
        return None
    reserved: int = held["amount_nano"]
    cost = reserved if cost_nano is None else cost_nano
    within = min(cost, reserved)
    task_spent = _book(tx, held, within, cost - within)
    attempt = _attempt_of(held)
    _add_line(
        tx,
        attempt,
        "settlement",
        kind,
        held["scopes"],
        within,
        surplus_nano=cost - within,
        meters=meters,
    )
    return Settled(cost, cost - within, task_spent, reserved)


def release(tx: Tx, attempt_id: str) -> Settled | None:
    """End a reservation with nothing spent: the request never left, or is known not to be billed."""
    held = _open_reservation(tx, attempt_id)
    if held is None:
        return None
    task_spent = _book(tx, held, 0, 0)
    _add_line(tx, _attempt_of(held), "release", None, held["scopes"], 0)
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


def _book(tx: Tx, held: Row, spent_nano: int, surplus_nano: int) -> int:
    """Book on the scopes of the reservation; returns what the task has spent by now."""
    task_spent = 0
    for kind, identifier in orjson.loads(held["scopes"]):
        row = tx.one(
            "book",
            scope=kind,
            id=identifier,
            held_nano=held["amount_nano"],
            spent_nano=spent_nano,
            surplus_nano=surplus_nano,
        )
        assert row is not None, f"account {kind} {identifier} is gone"  # noqa: S101
        if kind == "task":
            task_spent = row["spent_nano"]
    return task_spent


def _attempt_of(row: Row) -> Attempt:
    subject = Subject(row["task_id"], row["session_id"], row["owner"], row["run"])
    return Attempt(subject, row["step"], row["attempt"], row["model"], row["price_row"])


def _add_line(
    tx: Tx,
    attempt: Attempt,
    entry: str,
    kind: Kind | None,
    scopes: str,
    amount_nano: int,
    *,
    surplus_nano: int = 0,
    meters: Meters = _NO_METERS,
) -> None:
    subject = attempt.subject
    tx.run(
        "add_line",
        ended=int(entry != "reservation"),
        entry=entry,
        kind=kind,
        owner=subject.owner,
        session_id=subject.session_id,
        task_id=subject.task_id,
        run=subject.run,
        step=attempt.step,
        attempt=attempt.attempt,
        model=attempt.model,
        price_row=attempt.price_row,
        scopes=scopes,
        amount_nano=amount_nano,
        surplus_nano=surplus_nano,
        input_tokens=meters.input_tokens,
        output_tokens=meters.output_tokens,
        cache_read_tokens=meters.cache_read_tokens,
        cache_write_5m_tokens=meters.cache_write_5m_tokens,
        cache_write_1h_tokens=meters.cache_write_1h_tokens,
        web_searches=meters.web_searches,
        at_us=tx.now_us,
    )
