"""The books held against themselves: every kind of mistake is found, and nothing else."""

import pytest

from app.budget.accounts import open_account
from app.budget.audit import Audit, Drift, audit
from app.budget.ledger import Attempt, Kind, release, reserve, settle
from app.budget.scopes import Scope, session_scope, task_scope
from app.domain.task import LOCAL_OWNER, Subject
from app.store.port import Store, Tx

SUBJECT = Subject("t", "s")
TASK, SESSION = task_scope("t"), session_scope(LOCAL_OWNER, "s")
NO_CHANGE = {"held_nano": 0, "spent_nano": 0, "surplus_nano": 0}


def _keep(tx: Tx) -> None:
    """Attempts that were settled (one above its reservation), released, and left open."""
    open_account(tx, TASK, LOCAL_OWNER, 1_000)
    open_account(tx, SESSION, LOCAL_OWNER, 1_000)
    for step, held in enumerate((10, 20, 30, 40), 1):
        assert reserve(tx, Attempt(SUBJECT, step, 1, "m", "p"), (TASK, SESSION), held) is None
    settle(tx, "t/1/1", Kind.CONFIRMED, 7)
    settle(tx, "t/2/1", Kind.CONFIRMED, 25)
    release(tx, "t/3/1")


@pytest.fixture
async def books(store: Store) -> Store:
    """Books in order: 27 spent and 5 above that, 40 held."""
    await store.write(_keep)
    return store


async def test_an_empty_store_has_nothing_to_find(store: Store) -> None:
    """No account, no line, no drift."""
    assert await store.read(audit) == Audit(0, 0, ())


async def test_books_in_order(books: Store) -> None:
    """Two accounts, four reservations, three endings; all of it agrees."""
    assert await books.read(audit) == Audit(2, 7, ())


async def test_an_account_without_lines_must_be_empty(books: Store) -> None:
    """A window that was opened and not used is counted, and in order."""
    day = Scope("service_day", "2026-11-22")
    await books.write(lambda tx: open_account(tx, day, "", 5))
    assert await books.read(audit) == Audit(3, 7, ())
    await books.write(lambda tx: tx.run("hold", scope=day.kind, id=day.id, amount_nano=4))
    assert (await books.read(audit)).drifts == (Drift(day, "reserved_nano", 4, 0),)


@pytest.mark.parametrize("scope", [TASK, SESSION])
@pytest.mark.parametrize(
    ("booked", "amount", "balance", "summed"),
    [
        ({"held_nano": 40}, "reserved_nano", 0, 40),
        ({"held_nano": -1}, "reserved_nano", 41, 40),
        ({"spent_nano": 3}, "spent_nano", 30, 27),
        ({"spent_nano": -27}, "spent_nano", 0, 27),
        ({"surplus_nano": 2}, "surplus_nano", 7, 5),
        ({"surplus_nano": -5}, "surplus_nano", 0, 5),
    ],
)
async def test_a_balance_beside_its_lines(
    books: Store, scope: Scope, booked: dict[str, int], amount: str, balance: int, summed: int
) -> None:
    """One amount of one account that is too high or too low is named, and only that."""
    await books.write(
        lambda tx: tx.one("book", scope=scope.kind, id=scope.id, **{**NO_CHANGE, **booked})
    )
    assert (await books.read(audit)).drifts == (Drift(scope, amount, balance, summed),)


async def test_several_drifts_stand_in_order(books: Store) -> None:
    """By account, then by amount."""

    def spoil(tx: Tx) -> None:
        for scope in (TASK, SESSION):
            tx.one("book", scope=scope.kind, id=scope.id, held_nano=1, spent_nano=1, surplus_nano=1)

    await books.write(spoil)
    found = [(one.scope, one.amount) for one in (await books.read(audit)).drifts]
    amounts = ("spent_nano", "reserved_nano", "surplus_nano")
    assert found == [(scope, amount) for scope in (SESSION, TASK) for amount in amounts]


async def test_lines_on_an_account_that_is_not_there(books: Store) -> None:
    """Money that was booked nowhere: the account counts as empty."""
    params = {"owner": LOCAL_OWNER, "session_id": "s", "run": 1, "model": "m", "price_row": "p"}
    line = {"task_id": "t", "step": 5, "attempt": 1, "key_id": "", "agent": "", "bound": "proved"}

    def stray(tx: Tx) -> None:
        scopes = '[["key_day","k/2026-11-22"]]'
        tx.run("add_reservation", **params, **line, scopes=scopes, amount_nano=9, at_us=1)

    await books.write(stray)
    missing = Scope("key_day", "k/2026-11-22")
    assert await books.read(audit) == Audit(2, 8, (Drift(missing, "reserved_nano", 0, 9),))
    await books.write(lambda tx: open_account(tx, missing, LOCAL_OWNER, 100))
    await books.write(lambda tx: tx.run("hold", scope=missing.kind, id=missing.id, amount_nano=9))
    assert await books.read(audit) == Audit(3, 8, ())
