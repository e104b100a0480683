"""Many paused tasks: all that their budget can pay go on at once, and none is looked at twice for nothing."""

from app.budget.accounts import set_limit
from app.budget.scopes import session_scope
from app.domain.task import LOCAL_OWNER
from app.queue import verbs
from app.queue.embedded import CLAIM_LIMIT
from app.store.port import Tx
from tests.support.clock import yielded
from tests.support.seeding import accept, claim_now, spec
from tests.unit.queue.test_pausing import LIMIT, cause, spend

SESSION = session_scope(LOCAL_OWNER, "s")


async def test_more_than_one_transaction_resumes_go_on_in_one_go(office):
    """They do not wait for the next look, a second later, once for every few hundred."""
    count = 2 * CLAIM_LIMIT + 7

    def make(tx: Tx) -> None:
        for number in range(count):
            accept(tx, f"t{number:04}", spec(), session_nano=LIMIT)
        for claim in claim_now(tx, count):
            assert verbs.pause(tx, claim.subject, cause(SESSION))

    await office.store.write(make)
    await spend(office.store, SESSION)
    await office.queue.start()
    await office.store.write(lambda tx: set_limit(tx, SESSION, 10 * LIMIT))
    office.clock.move(1)  # the one look that finds the first of them
    office.queue.wake()
    while office.queue.depth < count:  # the clock stands still: no other look is due
        await yielded()
    assert await office.store.read(lambda tx: tx.all("paused_tasks")) == []
