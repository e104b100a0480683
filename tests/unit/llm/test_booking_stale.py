"""What a run books that no longer holds its task: never another run's money, and nothing that is told already."""

from dataclasses import replace
from typing import Any

import pytest

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.budget.scopes import task_scope
from app.domain.task import Subject
from app.journal.journal import read_all
from app.llm.booking import Late, book_failure, book_unsent
from app.llm.pricing import Cost
from app.llm.provider import ModelFailure, Phase
from app.llm.retry import Again
from app.queue import verbs
from app.store.port import Tx
from tests.support.desk import open_desk
from tests.support.provider import lost, status, unreachable
from tests.support.seeding import claim_now, claimed, drift, lines_of, row_of, scopes_of


def attempt_of(subject: Subject, run: int) -> Attempt:
    """The first attempt of the first step, as this run numbers it."""
    return Attempt(replace(subject, run=run), 1, 1, "m", "p")


async def test_what_was_never_sent_is_given_back_by_its_own_run_only(tmp_path):
    """A stale run was refused; the number is the new run's by now, and its call is on its way."""
    async with open_desk(tmp_path) as desk:
        subject = (await claimed(desk.store)).subject
        live, stale = attempt_of(subject, 2), attempt_of(subject, 1)

        def op(tx: Tx) -> int:
            assert reserve(tx, live, scopes_of(subject), 100) is None
            book_unsent(tx, stale)
            row = tx.one("read_account", scope="task", id=task_scope(subject.task_id).id)
            assert row is not None
            assert row["reserved_nano"] == 100
            booked = settle(tx, live.id, Kind.CONFIRMED, 60)
            return 0 if booked is None else booked.charged_nano

        assert await desk.store.write(op) == 60


async def test_its_own_is_given_back(tmp_path):
    """Nothing was sent: nothing stays held, and the journal says so."""
    async with open_desk(tmp_path) as desk:
        subject = (await claimed(desk.store)).subject
        mine = attempt_of(subject, subject.run)

        def op(tx: Tx) -> None:
            assert reserve(tx, mine, scopes_of(subject), 100) is None
            book_unsent(tx, mine)

        await desk.store.write(op)
        row = await desk.store.read(
            lambda tx: tx.one("read_account", scope="task", id=subject.task_id)
        )
        assert row is not None
        assert row["reserved_nano"] == row["spent_nano"] == 0
        assert (await read_all(desk.store, subject))[-1].event.name == "attempt_failed"


async def test_a_failure_that_comes_after_its_line_is_booked_tells_nothing(tmp_path):
    """The takeover has presumed it spent: the old run's failure adds neither money nor events."""
    failure = ModelFailure("timeout", "no answer", phase=Phase.LOST)
    async with open_desk(tmp_path) as desk:
        subject = (await claimed(desk.store)).subject
        late = attempt_of(subject, subject.run)

        def taken_over(tx: Tx) -> None:
            assert reserve(tx, late, scopes_of(subject), 100) is None
            assert settle(tx, late.id, Kind.PRESUMED) is not None

        await desk.store.write(taken_over)
        before = await read_all(desk.store, subject)
        await desk.store.write(
            lambda tx: book_failure(tx, late, failure, Again(1.0, "timeout"), 0.1)
        )
        assert await read_all(desk.store, subject) == before


BROKEN_OFF = Cost(40, "p")


@pytest.mark.parametrize("goes_on", [True, False])
@pytest.mark.parametrize(
    ("failure", "cost", "spent"),
    [
        (lost(), None, 100),
        (lost("stream_cut"), BROKEN_OFF, 40),
        (status(400), None, 0),
        (unreachable(), None, 0),
        (None, None, 0),
    ],
)
async def test_money_is_taken_from_a_run_that_has_no_say(
    tmp_path: Any, failure: ModelFailure | None, cost: Cost | None, spent: int, *, goes_on: bool
) -> None:
    """Even if its reservation were open still: it is booked, and the task and its journal stay as the others have them."""
    async with open_desk(tmp_path) as desk:
        subject = (await claimed(desk.store)).subject
        late = attempt_of(subject, subject.run)

        def taken(tx: Tx) -> None:
            assert reserve(tx, late, scopes_of(subject), 100) is None
            assert verbs.give_back(tx, subject, "drain", tx.now_us)
            if goes_on:
                claim_now(tx, 1, "w2")

        await desk.store.write(taken)
        before = await read_all(desk.store, subject), (await row_of(desk.store))["status"]

        def op(tx: Tx) -> Late | None:
            if failure is not None:
                return book_failure(tx, late, failure, Again(1.0, "x"), 0.1, cost)
            book_unsent(tx, late)
            return None

        found = await desk.store.write(op)
        assert isinstance(found, Late) == (failure is not None)
        row = await row_of(desk.store)
        assert (await read_all(desk.store, subject), row["status"]) == before
        assert (row["reserved_nano"], row["spent_nano"]) == (0, spent)
        assert (await lines_of(desk.store))["spent_nano"] == spent
        assert await drift(desk.store) == []
