"""The port to who answers batches: what it takes, and how a batch stands."""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol, runtime_checkable

from app.domain.record import record
from app.llm.provider import ModelRequest


@record(frozen=True, slots=True)
class Standing:
    """A batch as the provider tells of it."""

    id: str
    ended: bool
    """Every item has a result."""
    item_count: int
    made_at_us: int


@record(frozen=True, slots=True)
class ItemResult:
    """One line of a batch's results: the item's id, and its `result` object as JSON."""

    custom_id: str
    result: bytes


class Batches(Protocol):
    """Message batches. Every method raises `ModelFailure`."""

    def params(self, request: ModelRequest, max_tokens: int) -> bytes:
        """The question as an item's `params`, with this bound of its output."""
        ...

    async def create(self, items: Sequence[tuple[str, bytes]]) -> Standing:
        """Make a batch of these items, each an id and its params; exactly one attempt."""
        ...

    async def find(self, batch_id: str) -> Standing:
        """How the batch stands."""
        ...

    def listed(self) -> AsyncIterator[Standing]:
        """The account's batches, newest first."""
        ...

    def results(self, batch_id: str) -> AsyncIterator[ItemResult]:
        """The results of a batch that has ended, in no order."""
        ...

    async def cancel(self, batch_id: str) -> None:
        """Ask that no more of its items are answered."""
        ...


@runtime_checkable
class SellsBatches(Protocol):
    """A provider that takes batches, too."""

    @property
    def batches(self) -> Batches:
        """Where they are taken."""
        ...
