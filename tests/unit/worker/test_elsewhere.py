"""Tasks that wait here and go on in another process: nothing of them may stand in the way here."""

from typing import Any

import pytest

from app.budget.scopes import Scope
from app.domain.task import Conclusion, Outcome
from app.journal.hints import ANYTHING, Hint
from app.queue import verbs
from tests.support.seeding import claim_now

SCOPE = Scope("session", "s")


async def elsewhere(works: Any, task_id: str) -> Any:
    """The task runs under another worker; another one waits."""
    await works.accept(task_id)
    (claim,) = await works.desk.store.write(lambda tx: claim_now(tx, 1, "w2"))
    await works.accept("next")
    return claim


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_task_that_ended_elsewhere_is_forgotten(open_works: Any, hint: Hint) -> None:
    """Parked here at the head of a line, it went on elsewhere to its end: the line moves on."""
    async with open_works() as works:
        turns, ended = works.desk.turns, Conclusion(Outcome.CANCELLED)
        claim = await elsewhere(works, "t")
        await works.desk.store.write(lambda tx: verbs.finish(tx, claim.subject, ended))
        turns.join("t", SCOPE)  # of whose end nothing was heard
        turns.join("next", SCOPE).clear()
        assert turns.ahead_of("next", (SCOPE,)) == SCOPE
        await works.pool.hear(hint)
        assert turns.ahead_of("next", (SCOPE,)) is None
        assert turns.is_called("next")
        assert "t" not in turns.known()


@pytest.mark.parametrize("hint", [ANYTHING, Hint(frozenset({"t"}))])
async def test_a_task_that_runs_elsewhere_leaves_its_place(open_works: Any, hint: Hint) -> None:
    """Whether it gets its money is the other process's affair; its age it keeps."""
    async with open_works() as works:
        turns = works.desk.turns
        await elsewhere(works, "t")
        turns.join("t", SCOPE)
        turns.join("next", SCOPE).clear()
        await works.pool.hear(hint)
        assert turns.is_called("next")
        assert "t" in turns.known()


async def test_a_task_that_waits_in_the_queue_keeps_its_place(open_works: Any) -> None:
    """It has not gone on anywhere."""
    async with open_works() as works:
        turns = works.desk.turns
        await works.accept("t")
        await works.accept("next")
        turns.join("t", SCOPE)
        turns.join("next", SCOPE)
        await works.pool.hear(Hint(frozenset({"t"})))
        assert turns.ahead_of("next", (SCOPE,)) == SCOPE
