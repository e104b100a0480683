"""The store's port: operations run inside a transaction, as plain functions.

An operation is `op(tx) -> value`: it cannot await, so nothing can come between what it reads and what it
writes. What must happen together goes into one operation. Queries are named; their text is in `sql/`.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import update_wrapper
from typing import Any, Generic, Protocol, TypeVar

T = TypeVar("T")
Params = Mapping[str, object]
"""A statement's parameters, by name."""


class Row(Protocol):
    """One row, by column name."""

    def __getitem__(self, column: str, /) -> Any: ...


class Tx(Protocol):
    """One operation's view of the database. Its writes are kept or undone as a whole."""

    now_us: int
    """The transaction's instant, in microseconds since the epoch."""

    def one(self, query: str, **params: object) -> Row | None:
        """The first row, or None."""
        ...

    def all(self, query: str, **params: object) -> Sequence[Row]:
        """Every row."""
        ...

    def run(self, query: str, **params: object) -> int:
        """How many rows the statement changed."""
        ...

    def one_each(self, query: str, many: Sequence[Params]) -> list[Row | None]:
        """`one` for each of `many`, in order; one way to the database and back, where it is far."""
        ...

    def run_each(self, query: str, many: Sequence[Params]) -> list[int]:
        """`run` for each of `many`, in order; likewise."""
        ...

    def later(self, query: str, **params: object) -> None:
        """`run`, with the next statement or at the operation's end: how many rows changed is of no interest."""
        ...

    def after_commit(self, fact: object) -> None:
        """Hand `fact` to the store's listener once this operation is durable; never before."""
        ...


Operation = Callable[[Tx], T]
"""May be run again before it is durable (a neighbour in its commit had to be undone): what it does to objects must
not depend on how often."""


class Urgent(Generic[T]):
    """An operation that is written before those that wait, in turn with others of its kind.

    For a heartbeat, which must not stand in line behind the work of a thousand tasks that it keeps alive.
    """

    def __init__(self, op: Operation[T]) -> None:
        self._op = op
        update_wrapper(self, op)

    def __call__(self, tx: Tx) -> T:
        return self._op(tx)


def place_for(op: Operation[Any], waiting: Sequence[tuple[Operation[Any], object]]) -> int:
    """Where `op` stands among those that wait to be written."""
    if not isinstance(op, Urgent):
        return len(waiting)
    calm = (place for place, (other, _) in enumerate(waiting) if not isinstance(other, Urgent))
    return next(calm, len(waiting))


def give_up(*waiting: Sequence[tuple[object, asyncio.Future[Any]]]) -> None:
    """Tell those who wait for a write that nobody will ever answer."""
    for batch in waiting:
        for _, future in batch:
            future.cancel()


CommitListener = Callable[[list[Any]], None]
"""Gets the facts of one commit, in order, on the event loop's thread."""


class Store(Protocol):
    """A durable store. Safe to use from any coroutine of its event loop."""

    async def write(self, op: Operation[T]) -> T:
        """Run `op` and return its value once it is durable.

        A caller that is cancelled while waiting may find its write committed. Writes queued one after
        the other are executed in that order, `Urgent` ones before them.

        Raises:
            StoreUnavailable, StoreFull, StoreCorrupt: nothing of this operation was kept.
            StoreClosed: after `close`.
            Exception: whatever `op` raised; nothing of it was kept.
        """
        ...

    def begin_write(self, op: Operation[T]) -> asyncio.Future[T]:
        """`write`, at once: what becomes of `op` does not depend on whoever waits for it, unless they cancel the future."""
        return asyncio.ensure_future(self.write(op))

    async def read(self, op: Operation[T]) -> T:
        """Run `op` on a snapshot; it must not write.

        Raises:
            StoreUnavailable, StoreCorrupt: the store could not answer.
        """
        ...

    async def close(self) -> None:
        """Finish what was asked for and close."""
        ...


class ListenedStore(Store, Protocol):
    """A store, and who hears of its commits."""

    listener: CommitListener

    @property
    def alone(self) -> bool:
        """Nobody else runs tasks from it: what is held when it is opened was left by a dead process."""
        ...
