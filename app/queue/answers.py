"""How long the answers of idempotency keys count, and that they go afterwards. Inside a transaction."""

from app.domain.clock import US_PER_S
from app.store.port import Tx

KEPT_S = 86_400
FORGET_LIMIT = 500
"""Answers that one write forgets, at most."""


def expired_us(tx: Tx) -> int:
    """Answers of this instant and before do not count any more."""
    return tx.now_us - KEPT_S * US_PER_S


def forget(tx: Tx, limit: int = FORGET_LIMIT) -> int:
    """Delete answers that do not count any more, the oldest first; returns how many."""
    return tx.run("forget_answers", expired_us=expired_us(tx), limit=limit)
