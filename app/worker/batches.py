"""Batches of economy questions: sent, asked after, fetched. Every process that runs tasks has a keeper of them.

A batch is written down before it is sent; whoever looks after one puts off first when it is due again. So any process
goes on where another one died: with the next look, or, where nobody knows whether a batch was made, by looking for its
items in the provider's own list (`app.worker.batch_search`). A result is stored before its task goes on.
"""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

from app.domain.clock import US_PER_S, Clock
from app.domain.errors import StoreError
from app.journal.call_events import AttemptStarted
from app.journal.events import TaskFinished
from app.journal.journal import Recorded
from app.llm.batching import items
from app.llm.batching.items import Item
from app.llm.batching.port import Batches
from app.llm.batching.results import MISSING, refused
from app.llm.pricing import PriceBook
from app.llm.provider import ModelFailure, Phase
from app.llm.retry import is_spend_cap
from app.store.port import Store
from app.worker import batch_rows as rows
from app.worker.batch_rows import Batch, BatchLimits, Sealed
from app.worker.batch_search import SEND_WINDOW_S, search

IDLE_S = 5.0
"""How often it looks by itself: another process may have written something down."""
SEND_LEASE_S = 120.0
"""How long a batch may be on its way before others look for it."""
_SEND_LEASE_US = int(SEND_LEASE_S * US_PER_S)
LOOK_LEASE_S = 300.0
"""How long looking after a batch may take."""
BUSY_S = 30.0
"""How long nothing is sent after the provider said that it is too much."""
DUE_LIMIT = 8
GROUPS = 4
"""How many groups of due batches one look takes, at most: looking may take longer than they are put off for."""
SEND_LIMIT = 8
"""How many batches are sent before those that are due get their turn."""
STORED_TOGETHER = 50
"""Results stored in one transaction: nobody's write waits long behind it."""
GONE_AFTER_S = 26 * 3_600
"""A batch that the provider does not know by then is gone; they end after 24 hours."""
KEPT_S = 29 * 86_400
"""How long the provider keeps results."""
STOP_S = 2.0
_NOBODYS_ITEM = frozenset({401, 402, 403, 404, 405, 407})
"""What is said of the account or of the address, whatever is asked."""
_NOT_DONE = frozenset({501, 529})
"""Of the server's own errors, those that say that it has not begun: it never will, or has no room."""
_log = logging.getLogger(__name__)


class BatchKeeper:
    """One a process. Add `on_event` to the feed's views."""

    def __init__(
        self,
        store: Store,
        batches: Batches,
        prices: PriceBook,
        clock: Clock,
        limits: BatchLimits,
        *,
        alone: bool = False,
    ) -> None:
        self._store = store
        self._batches = batches
        self._prices = prices
        self._clock = clock
        self._limits = limits
        self._longest_us = int(max(SEND_LEASE_S, LOOK_LEASE_S, limits.poll_s) * US_PER_S)
        """Nobody puts a batch off for longer; another process that polls more seldom is no harm: this one looks, too."""
        self._alone = alone
        """Nobody else writes questions down: without any there is nothing to look for."""
        self._outstanding = True
        self._woken = asyncio.Event()
        self._stopping = False
        self._send_after_s = 0.0
        self._doubted: dict[str, float] = {}
        """Batches of which nobody knows whether they were made, and when this process first looked for them."""
        self._keeping: asyncio.Task[None] | None = None

    def on_event(self, entry: Recorded) -> None:
        """Hear of questions that are written down, and of tasks that end without their answer."""
        match entry.event:
            case AttemptStarted(tier="batch"):
                self._woken.set()
            case TaskFinished(outcome="cancelled" | "deadline") if self._outstanding:
                self._woken.set()
            case _:
                pass

    def start(self) -> None:
        """Begin to keep."""
        self._keeping = asyncio.create_task(self._keep(), name="batches")

    async def stop(self) -> None:
        """Send and fetch nothing more; what is on its way may arrive."""
        self._stopping = True
        self._woken.set()
        if self._keeping is None:
            return
        await asyncio.wait({self._keeping}, timeout=STOP_S)
        self._keeping.cancel()
        await asyncio.wait({self._keeping})

    async def look(self) -> float | None:
        """Do what is due; returns after how many seconds to look again. None: when a question is written down.

        Raises:
            StoreError: the next look finds what is left.
        """
        self._outstanding = await self._store.read(rows.any_outstanding)
        if not self._outstanding:
            return None if self._alone else IDLE_S
        await self._pay_given_up()
        again_s = IDLE_S
        for _ in range(GROUPS):  # what is to be sent waits behind one group, not behind all
            more = await self._look_after_due()
            again_s = await self._send()
            if not more:
                break
        else:
            again_s = 0.0
        return min(again_s, IDLE_S, self._limits.poll_s)

    async def _keep(self) -> None:
        while not self._stopping:
            self._woken.clear()
            wait_s: float | None = IDLE_S
            try:
                wait_s = await self.look()
            except StoreError as error:
                _log.warning("batches_postponed", extra={"error_message": str(error)})
            except Exception:  # noqa: BLE001  (a bug must not end the keeper in silence)
                _log.exception("batches_failed")
            if not self._stopping:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._woken.wait(), wait_s and max(wait_s, 0.01))

    async def _pay_given_up(self) -> None:
        """Items whose task ended after they had come back."""
        while found := await self._store.read(lambda tx: items.given_up(tx, STORED_TOGETHER)):
            for item in found:
                await self._pay(item)

    async def _pay(self, item: Item) -> None:
        await self._store.write(lambda tx: items.confirm_given_up(tx, self._prices, item))

    async def _send(self) -> float:
        """Send what has waited long enough, batch by batch; returns after how many seconds there is more."""
        for _ in range(SEND_LIMIT):
            if self._stopping:
                return IDLE_S
            waiting = await self._store.read(lambda tx: rows.next_batch(tx, self._limits))
            if waiting is None:
                return IDLE_S
            begun_s = self._clock.monotonic_s()
            left_s = max(waiting.due_in_s, self._send_after_s - begun_s)
            if left_s > 0:
                return left_s
            sealed = await self._sealed(waiting.names)
            if sealed is not None:
                await self._sent(sealed, begun_s)
        return 0.0

    async def _sealed(self, names: Sequence[str]) -> Sealed | None:
        return await self._store.write(lambda tx: rows.seal(tx, names, _SEND_LEASE_US))

    async def _sent(self, sealed: Sealed, begun_s: float) -> None:
        if self._clock.monotonic_s() - begun_s > SEND_WINDOW_S or self._stopping:
            # Others may look for it before long, and must find it, if it ever was made.
            await self._store.write(lambda tx: rows.unseal(tx, sealed.id))
            return
        try:
            standing = await self._batches.create(sealed.items)
        except ModelFailure as failure:
            await self._not_sent(sealed, failure)
            return
        poll_us = int(self._limits.poll_s * US_PER_S)
        if await self._store.write(lambda tx: rows.made(tx, sealed.id, standing.id, poll_us)):
            await self._tell_made(sealed.id)
        else:
            _log.error("batch_unwanted", extra={"batch_id": standing.id})
            with suppress(ModelFailure):  # the alarm above stands, cancelled or not
                await self._batches.cancel(standing.id)

    async def _tell_made(self, batch_id: str) -> None:
        told = 0
        while count := await self._tell_some(batch_id, told):
            told += count

    async def _tell_some(self, batch_id: str, told: int) -> int:
        return await self._store.write(
            lambda tx: rows.tell_made(tx, batch_id, told, STORED_TOGETHER)
        )

    async def _not_sent(self, sealed: Sealed, failure: ModelFailure) -> None:
        """What follows when no batch, or perhaps no batch, was made."""
        told = {"batch_id": sealed.id, "count": len(sealed.items)}
        reason = {"error_type": failure.error_type, "error_message": failure.message}
        _log.warning("batch_not_sent", extra={**told, **reason})
        if _perhaps_made(failure):
            return  # it is looked for when it is due
        if _may_help_later(failure):
            self._send_after_s = self._clock.monotonic_s() + (failure.retry_after_s or BUSY_S)
            await self._store.write(lambda tx: rows.unseal(tx, sealed.id))
        elif len(sealed.items) > 1 and _may_be_one_item(failure):
            await self._store.write(lambda tx: rows.unseal(tx, sealed.id, alone=True))
        else:
            batch = Batch(sealed.id, None, len(sealed.items), cancelled=False, made_at_us=0)
            await self._store_results(batch, [(name, refused(failure)) for name, _ in sealed.items])
            await self._store.write(lambda tx: rows.close(tx, sealed.id))

    async def _look_after_due(self) -> bool:
        """Look after one group of them; returns whether others may be due."""
        lease_us, longest_us = int(LOOK_LEASE_S * US_PER_S), self._longest_us
        if self._stopping or not await self._store.read(lambda tx: rows.any_due(tx, longest_us)):
            return False
        taken = await self._store.write(
            lambda tx: rows.take_due(tx, DUE_LIMIT, lease_us, longest_us)
        )
        for batch in taken:
            await self._look_after(batch)
        return bool(taken)

    async def _look_after(self, batch: Batch) -> None:
        try:
            ended = await self._has_ended(batch)
        except ModelFailure as failure:
            reason = {"error_type": failure.error_type, "error_message": failure.message}
            _log.warning("batch_not_reached", extra={"batch_id": batch.id, **reason})
            ended = await self._is_gone(batch, failure)
        if not ended:
            poll_us = int(self._limits.poll_s * US_PER_S)
            await self._store.write(lambda tx: rows.put_off(tx, batch.id, poll_us))

    async def _has_ended(self, batch: Batch) -> bool:
        """Whether nothing is left to do for it."""
        if batch.provider_id is None:
            return await self._search(batch)
        provider_id = batch.provider_id
        if not (await self._batches.find(provider_id)).ended:
            await self._cancel_unwanted(batch)
            return False
        await self._fetch(batch, provider_id)
        await self._close(batch)
        return True

    async def _fetch(self, batch: Batch, provider_id: str) -> None:
        """Store its results; where they break off, those that have come."""
        together: list[tuple[str, bytes]] = []
        try:
            async for result in self._batches.results(provider_id):
                together.append((result.custom_id, result.result))
                if len(together) >= STORED_TOGETHER:
                    await self._store_results(batch, together)
                    together = []
        except ModelFailure:
            await self._store_results(batch, together)
            raise
        await self._store_results(batch, together)

    async def _search(self, batch: Batch) -> bool:
        now_s = self._clock.monotonic_s()
        since_s = self._doubted.setdefault(batch.id, now_s)
        if not await search(self._store, self._batches, batch, now_s - since_s):
            return False
        del self._doubted[batch.id]
        return True

    async def _close(self, batch: Batch) -> None:
        """The batch has said what it has to say."""
        silent = await self._store.read(lambda tx: rows.names_of(tx, batch.id))
        await self._store_results(batch, [(name, MISSING) for name in silent])
        await self._store.write(lambda tx: rows.close(tx, batch.id))

    async def _store_results(self, batch: Batch, results: list[tuple[str, bytes]]) -> None:
        for at in range(0, len(results), STORED_TOGETHER):
            await self._store_part(batch, results[at : at + STORED_TOGETHER])

    async def _store_part(self, batch: Batch, part: list[tuple[str, bytes]]) -> None:
        lease_us = int(LOOK_LEASE_S * US_PER_S)
        await self._store.write(
            lambda tx: rows.take_results(tx, self._prices, batch, part, lease_us)
        )

    async def _cancel_unwanted(self, batch: Batch) -> None:
        """A batch is cancelled whole: when no task waits for any of its items any more."""
        if batch.cancelled or batch.provider_id is None:
            return
        if await self._store.read(lambda tx: rows.is_wanted(tx, batch.id)):
            return
        await self._batches.cancel(batch.provider_id)
        await self._store.write(lambda tx: tx.run("batch_cancelled", id=batch.id))

    async def _is_gone(self, batch: Batch, failure: ModelFailure) -> bool:
        """Nothing is to be had of it any more: what it cost stays presumed."""
        unknown = failure.status in {404, 410} and batch.age_s > GONE_AFTER_S
        if not unknown and batch.age_s <= KEPT_S:
            return False
        await self._close(batch)
        return True


def _perhaps_made(failure: ModelFailure) -> bool:
    if failure.phase is Phase.CONNECT:
        return False
    answered = failure.phase is Phase.RESPONSE and failure.status is not None
    return not answered or ((failure.status or 0) >= 500 and failure.status not in _NOT_DONE)


def _may_be_one_item(failure: ModelFailure) -> bool:
    """One question may be the cause: the others' tasks neither fail with it nor are told of it."""
    status = failure.status or 0
    return 400 <= status < 500 and status not in _NOBODYS_ITEM and not is_spend_cap(failure)


def _may_help_later(failure: ModelFailure) -> bool:
    if is_spend_cap(failure):
        return False
    return failure.phase is Phase.CONNECT or failure.status in {408, 409, 429, 529}
