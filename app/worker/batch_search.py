"""Was a batch made of which nobody knows? The provider's list says so: its items carry our reservations' names.

A list shows no items, and results come with a batch's end only. So every batch of that size that was made about then
is a candidate until it has ended and its results name none of ours. Without a candidate, once every request that was
under way must have arrived or failed, it was never made, and its items wait to be sent again.
"""

import logging
from contextlib import aclosing

from app.domain.clock import US_PER_S
from app.llm.batching.port import Batches, Standing
from app.llm.provider import ModelFailure
from app.store.port import Store, Tx
from app.worker import batch_rows as rows
from app.worker.batch_rows import Batch

SEND_WINDOW_S = 20.0
"""A batch leaves so soon after it was written down, or not at all."""
DOUBT_S = 180.0
"""After so long a request has arrived or has failed. Counted from the first look, by the monotonic clock: the wall
clock may be set meanwhile."""
CLOCKS_S = 3_600.0
"""How far the provider's clock and the store's may be apart."""
_log = logging.getLogger(__name__)


async def search(store: Store, batches: Batches, batch: Batch, doubted_s: float) -> bool:
    """Look for the batch, `doubted_s` after the first look; True when it was found, or known never to have been made.

    Raises:
        ModelFailure: the provider did not say which batches there are.
    """
    known = await store.read(_known)
    from_us = batch.made_at_us - int(CLOCKS_S * US_PER_S)
    candidates = list[Standing]()
    async for standing in batches.listed():
        if standing.made_at_us < from_us:
            break
        if standing.id not in known and standing.item_count == batch.item_count:
            candidates.append(standing)
    ours = set(await store.read(lambda tx: rows.names_of(tx, batch.id)))
    named, undecided = await _found_among(batches, candidates, ours)
    if named is not None:
        await store.write(lambda tx: rows.made(tx, batch.id, named, 0))
        _log.warning("batch_found", extra={"batch_id": named, "count": batch.item_count})
        return True
    if doubted_s < DOUBT_S or undecided:
        return False
    await store.write(lambda tx: rows.unseal(tx, batch.id))
    _log.warning("batch_never_made", extra={"batch_id": batch.id, "count": batch.item_count})
    return True


async def _found_among(
    batches: Batches, candidates: list[Standing], ours: set[str]
) -> tuple[str | None, bool]:
    """The one that is ours, and whether any may still turn out to be."""
    undecided = False
    for standing in candidates:
        names = await _names_one_of(batches, standing.id, ours) if standing.ended else None
        if names:
            return standing.id, False
        undecided = undecided or names is None
    return None, undecided


async def _names_one_of(batches: Batches, batch_id: str, ours: set[str]) -> bool | None:
    """The first result decides: nobody else's batch has our names in it. None: there is none to be read now."""
    try:
        return await _first_is_one_of(batches, batch_id, ours)
    except ModelFailure as failure:  # the others are looked at all the same
        reason = {"error_type": failure.error_type, "error_message": failure.message}
        _log.warning("batch_candidate_unread", extra={"batch_id": batch_id, **reason})
        return None


async def _first_is_one_of(batches: Batches, batch_id: str, ours: set[str]) -> bool | None:
    async with aclosing(batches.results(batch_id)) as results:  # type: ignore[type-var]
        async for result in results:
            return result.custom_id in ours
    return None


def _known(tx: Tx) -> set[str]:
    return {row["provider_id"] for row in tx.all("known_batches")}
