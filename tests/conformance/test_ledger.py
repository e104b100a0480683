"""What the ledger's schema refuses on every store, whatever the code above it does."""

import pytest

from app.budget.accounts import balance, open_account
from app.budget.ledger import Attempt, Kind, reserve, settle
from app.budget.scopes import SERVICE, session_scope, task_scope
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import ListenedStore, Tx
from tests.support.seeding import drift

SUBJECT = Subject("t", "s")
SCOPES = (task_scope("t"), session_scope(LOCAL_OWNER, "s"), SERVICE)


def attempt_of(step: int) -> Attempt:
    """The task's attempt of that step."""
    return Attempt(SUBJECT, step, 1, "m", "p")


def opened(tx: Tx) -> None:
    """A budget of 100 on every scope, 50 on the last."""
    for scope, limit in zip(SCOPES, (100, 100, 50), strict=True):
        open_account(tx, scope, LOCAL_OWNER, limit)


async def held(store: ListenedStore) -> list[int]:
    """What is reserved on each scope."""
    return await store.read(lambda tx: [balance(tx, scope).reserved_nano for scope in SCOPES])


async def test_what_was_never_held_cannot_be_freed(store: ListenedStore) -> None:
    """The CHECK is the second line: a balance below zero cannot be written at all."""

    def op(tx: Tx) -> None:
        opened(tx)
        tx.run("book", scope="task", id="t", held_nano=1, spent_nano=0, surplus_nano=0)

    with pytest.raises(Exception, match=r"(?i)check constraint"):
        await store.write(op)


async def test_the_guard_lets_nothing_above_the_limit_through(store: ListenedStore) -> None:
    """The statement changes no row: 11 do not fit into what 90 of 100 leave, 10 do."""

    def op(tx: Tx) -> list[int]:
        opened(tx)
        return [
            tx.run("hold", scope="task", id="t", amount_nano=amount) for amount in (90, 11, 10, 1)
        ]

    assert await store.write(op) == [1, 0, 1, 0]


async def test_a_second_reservation_of_one_attempt_is_refused(store: ListenedStore) -> None:
    """An attempt has one reservation, whatever happens."""
    await store.write(opened)
    await store.write(lambda tx: reserve(tx, attempt_of(1), SCOPES, 10))
    with pytest.raises(Exception, match=r"(?i)unique constraint"):
        await store.write(lambda tx: reserve(tx, attempt_of(1), SCOPES, 10))
    assert await held(store) == [10, 10, 10]


async def test_a_reservation_that_fails_on_the_last_scope_is_on_none(store: ListenedStore) -> None:
    """The caller raises, and what the scopes before it held is undone with everything else."""
    await store.write(opened)

    def op(tx: Tx) -> None:
        short = reserve(tx, attempt_of(1), SCOPES, 51)
        raise LookupError(short)

    with pytest.raises(LookupError) as raised:
        await store.write(op)
    assert raised.value.args == (SERVICE,)
    assert await held(store) == [0, 0, 0]
    assert await drift(store) == []


async def test_a_surplus_counts_against_the_limit(store: ListenedStore) -> None:
    """What was spent above its reservation leaves less for the next, though no CHECK can refuse it."""
    await store.write(opened)
    await store.write(lambda tx: reserve(tx, attempt_of(1), SCOPES, 10))
    settled = await store.write(lambda tx: settle(tx, "t/1/1", Kind.CONFIRMED, 70))
    assert settled is not None
    assert (settled.charged_nano, settled.surplus_nano, settled.task_spent_nano) == (70, 60, 70)
    assert await store.write(lambda tx: reserve(tx, attempt_of(2), SCOPES[:2], 31)) == SCOPES[0]
    service = await store.read(lambda tx: balance(tx, SERVICE))
    assert (service.spent_nano, service.limit_nano, service.unspent_nano) == (70, 50, -20)
    assert await drift(store) == []
