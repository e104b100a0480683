"""What a run books that no longer holds its task: never another run's money, and nothing that is told already."""

from dataclasses import replace

from app.budget.ledger import Attempt, Kind, reserve, settle
from app.budget.scopes import task_scope
from app.domain.task import Subject
from app.journal.journal import read_all
from app.llm.booking import book_failure, book_unsent
from app.llm.provider import ModelFailure, Phase
from app.llm.retry import Again
from app.store.port import Tx
from tests.support.desk import open_desk
from tests.support.seeding import claimed, scopes_of


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
