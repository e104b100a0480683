"""A worker's row, which is its lease on all its tasks: taken, renewed, asked for, left. Inside a transaction."""

from app.domain.clock import US_PER_S
from app.domain.errors import LeaseLost
from app.store.port import Tx


def take(tx: Tx, worker: str, *, slots: int, lease_s: float, instead_of: str | None = None) -> None:
    """Enter a worker. `instead_of` is an id it had before: what that one held belongs to nobody now."""
    if instead_of is not None:
        tx.run("remove_worker", id=instead_of)
    if renew(tx, worker, lease_s):  # taken before by a write whose answer was lost
        return
    expires_at_us = tx.now_us + int(lease_s * US_PER_S)
    tx.run("add_worker", id=worker, slots=slots, now_us=tx.now_us, expires_at_us=expires_at_us)


def renew(tx: Tx, worker: str, lease_s: float) -> bool:
    """Push the worker's expiry on; False when its row is gone: it has lost its lease."""
    expires_at_us = tx.now_us + int(lease_s * US_PER_S)
    return tx.run("renew_worker", id=worker, expires_at_us=expires_at_us) == 1


def require(tx: Tx, worker: str) -> None:
    """Make sure that the worker may take tasks; call it in the transaction of every claim.

    Raises:
        LeaseLost: its row is gone or has expired; nothing of this transaction is kept.
    """
    if tx.one("worker_holds", id=worker, now_us=tx.now_us) is None:
        message = f"worker {worker} has no lease"
        raise LeaseLost(message)


def leave(tx: Tx, worker: str) -> None:
    """The worker is gone; what it still holds belongs to nobody now."""
    tx.run("remove_worker", id=worker)
