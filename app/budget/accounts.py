"""Accounts: the budget of each scope and what has become of it. Inside the caller's transaction, in nano-dollars."""

from collections.abc import Sequence

from app.budget.scopes import (
    SERVICE,
    Payer,
    Scope,
    key_windows,
    resets_at_us,
    service_windows,
    session_scope,
    shown_id,
    task_scope,
)
from app.domain.errors import BudgetExhausted, NotFound
from app.domain.money import MAX_USD, NANO_PER_USD
from app.domain.record import record
from app.store.port import Tx

UNLIMITED_NANO = MAX_USD * NANO_PER_USD
WARN_PERCENT = 80
"""How much of a budget is spent when a warning is due, unless the settings say otherwise."""


@record(frozen=True, slots=True)
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

    def exhausted(self, needed_nano: int) -> BudgetExhausted:
        """The error that says that this budget is spent, and what a minimal call would have needed."""
        return BudgetExhausted(
            scope=self.scope.kind,
            scope_id=self.scope.id,
            limit_nano=self.limit_nano,
            spent_nano=self.spent_nano,
            reserved_nano=self.reserved_nano,
            needed_nano=needed_nano,
            resets_at_us=resets_at_us(self.scope),
            shown_id=shown_id(self.scope),
        )


@record(frozen=True, slots=True)
class ServiceLimits:
    """The budgets of the whole service, in nano-dollars; None is no such budget."""

    day_nano: int | None = None
    month_nano: int | None = None
    ever_nano: int | None = None
    warn_percent: int = WARN_PERCENT


def open_account(
    tx: Tx, scope: Scope, owner: str, limit_nano: int, warn_percent: int = WARN_PERCENT
) -> None:
    """Make the account if it is new; an existing one keeps its limit."""
    tx.later(
        "open_account",
        scope=scope.kind,
        id=scope.id,
        owner=owner,
        limit_nano=limit_nano,
        warn_at_nano=_warn_at_nano(limit_nano, warn_percent),
    )


def open_blocked(tx: Tx, cause: BudgetExhausted, owner: str) -> None:
    """Whoever raises or lifts the budget that a task waits for must find it, though nobody has used it yet."""
    scope = Scope(cause.scope, cause.scope_id)
    open_account(tx, scope, "" if scope.kind.startswith("service") else owner, cause.limit_nano)


def set_limit(tx: Tx, scope: Scope, limit_nano: int, warn_percent: int = WARN_PERCENT) -> None:
    """Change a limit. One below what is spent is accepted: it blocks new calls."""
    tx.later(
        "set_limit",
        scope=scope.kind,
        id=scope.id,
        limit_nano=limit_nano,
        warn_at_nano=_warn_at_nano(limit_nano, warn_percent),
    )


def set_service_limits(tx: Tx, service: ServiceLimits) -> None:
    """Let the service's budgets count from now on, in the windows that are open, too."""
    day, month = service_windows(tx.now_us)
    limits = ((day, service.day_nano), (month, service.month_nano), (SERVICE, service.ever_nano))
    for scope, limit in limits:
        # No limit any more: whoever waits for this budget must be able to go on.
        set_limit(tx, scope, UNLIMITED_NANO if limit is None else limit, service.warn_percent)


def balance(tx: Tx, scope: Scope) -> Balance:
    """How the account stands.

    Raises:
        NotFound: there is no such account.
    """
    found = find_balance(tx, scope)
    if found is None:
        raise NotFound(scope.kind, scope.id)
    return found


def balances(tx: Tx, payer: Payer, service: ServiceLimits) -> list[Balance]:
    """How every budget stands that the payer's calls draw on, in the order in which they are taken.

    A window that nobody has used yet is opened with its limit.

    Raises:
        NotFound: the task's or the session's account is missing.
    """
    own = [task_scope(task_id) for task_id in (payer.task_id, *payer.ancestors)]
    own.append(session_scope(payer.owner, payer.session_id))
    shared = _shared_limits(tx, payer.owner, payer.key_id, service)
    found = find_balances(tx, [*own, *(limit.scope for limit in shared)])
    for scope, one in zip(own, found, strict=False):
        if one is None:
            raise NotFound(scope.kind, scope.id)
    stands = _with_new(tx, shared, found[len(own) :], service.warn_percent)
    return [one for one in (*found[: len(own)], *stands) if one is not None]


def shared_balances(
    tx: Tx, owner: str, key_id: str | None, service: ServiceLimits, *, opening: bool = True
) -> list[Balance]:
    """The budgets that a task shares with all others of its key and of the service.

    With `opening`, a window that nobody has used yet is opened; a transaction that only reads cannot do that.
    """
    shared = _shared_limits(tx, owner, key_id, service)
    found = find_balances(tx, [limit.scope for limit in shared])
    return _with_new(tx, shared, found, service.warn_percent if opening else None)


@record(frozen=True, slots=True)
class _SharedLimit:
    """A budget that many tasks share; without a limit it counts only if it was used before."""

    scope: Scope
    owner: str
    limit_nano: int | None


def _shared_limits(
    tx: Tx, owner: str, key_id: str | None, service: ServiceLimits
) -> list[_SharedLimit]:
    found = []
    if key_id:
        limits = tx.one("read_key_limits", id=key_id)
        if limits is None:
            raise NotFound("key", key_id)
        day, month = key_windows(key_id, tx.now_us)
        # A limit that was lifted: what is spent meanwhile counts when it is set again.
        found.append(_SharedLimit(day, owner, limits["day_limit_nano"]))
        found.append(_SharedLimit(month, owner, limits["month_limit_nano"]))
    day, month = service_windows(tx.now_us)
    limited = ((day, service.day_nano), (month, service.month_nano), (SERVICE, service.ever_nano))
    found += [_SharedLimit(scope, "", nano) for scope, nano in limited if nano is not None]
    return found


def _with_new(
    tx: Tx,
    shared: Sequence[_SharedLimit],
    found: Sequence[Balance | None],
    warn_percent: int | None,
) -> list[Balance]:
    """What was found, and with a percentage an account for each limit that had none."""
    stands = []
    for limit, one in zip(shared, found, strict=True):
        if one is not None:
            stands.append(one)
        elif limit.limit_nano is not None:
            if warn_percent is not None:
                open_account(tx, limit.scope, limit.owner, limit.limit_nano, warn_percent)
            stands.append(Balance(limit.scope, limit.limit_nano, 0, 0))
    return stands


def find_balances(tx: Tx, scopes: Sequence[Scope]) -> list[Balance | None]:
    """How each account stands; None where there is none."""
    rows = tx.one_each("read_account", [{"scope": one.kind, "id": one.id} for one in scopes])
    return [
        None
        if row is None
        else Balance(
            scope,
            row["limit_nano"],
            row["spent_nano"] + row["surplus_nano"],
            row["reserved_nano"],
        )
        for scope, row in zip(scopes, rows, strict=True)
    ]


def find_balance(tx: Tx, scope: Scope) -> Balance | None:
    """How the account stands; None when there is none."""
    return find_balances(tx, [scope])[0]


def _warn_at_nano(limit_nano: int, percent: int) -> int:
    return -(-limit_nano * percent // 100)
