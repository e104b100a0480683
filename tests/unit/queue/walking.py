"""One task, moved by whatever verb comes."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from app.domain.errors import StaleLease, TaskFinished
from app.domain.task import LOCAL_OWNER, Conclusion, Outcome, Subject
from app.journal.events import TaskFinished as Finished
from app.journal.journal import read_all
from app.queue import verbs
from app.store.port import Tx
from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock
from tests.support.seeding import accepted, claim_now, row_of

ANSWERED = Conclusion(Outcome.ANSWERED, "x")


@dataclass
class Walk:
    """The task, its store, and the run that holds it last."""

    store: SqliteStore
    clock: FakeClock
    subject: Subject

    async def do(self, verb: str) -> None:
        """Ask for one verb; being refused is an answer, too."""
        with suppress(StaleLease, TaskFinished):
            await self.store.write(lambda tx: self._op(tx, verb))

    def _op(self, tx: Tx, verb: str) -> None:
        stale = Subject("t", "s", run=self.subject.run - 1)
        match verb:
            case "claim":
                for claim in claim_now(tx, 1):
                    self.subject = claim.subject
            case "give_back":
                verbs.give_back(tx, self.subject, "drain", tx.now_us)
            case "finish":
                if tx.one("lease_holds", task_id="t", run=self.subject.run) is not None:
                    verbs.finish(tx, self.subject, ANSWERED)
            case "cancel":
                verbs.cancel(tx, LOCAL_OWNER, "t")
            case "stale":
                verbs.finish(tx, stale, ANSWERED)
            case _:
                self.clock.move(400)
                verbs.expire(tx, 9)

    async def status(self) -> str:
        """Where the task is."""
        return str((await row_of(self.store))["status"])

    async def ends(self) -> int:
        """How many ends its journal tells of."""
        entries = await read_all(self.store, self.subject)
        return sum(isinstance(entry.event, Finished) for entry in entries)


@asynccontextmanager
async def open_walk() -> AsyncIterator[Walk]:
    """A waiting task in a store of its own."""
    with tempfile.TemporaryDirectory() as folder:
        clock = FakeClock()
        store = SqliteStore(Path(folder), clock)
        try:
            yield Walk(store, clock, await accepted(store))
        finally:
            await store.close()
