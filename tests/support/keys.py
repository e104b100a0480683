"""API keys for tests that run in the service's own process."""

from app.budget.keys import create_key, revoke_key, set_key_limits
from app.store.port import Tx
from tests.support.service import Running


async def made_key(
    bursar: Running, owner: str, *, day_nano: int | None = None, month_nano: int | None = None
) -> tuple[str, str]:
    """A new key of `owner`: its id and its text."""
    store = bursar.service.store
    limits = {"day_limit_nano": day_nano, "month_limit_nano": month_nano}
    return await store.write(lambda tx: create_key(tx, owner, "", **limits))


async def revoked(bursar: Running, key_id: str) -> None:
    """Revoke a key."""
    assert await bursar.service.store.write(lambda tx: revoke_key(tx, key_id))


async def limited(
    bursar: Running, key_id: str, *, day_nano: int | None = None, month_nano: int | None = None
) -> None:
    """Set a key's budgets, past the API, as the command line does."""

    def op(tx: Tx) -> None:
        set_key_limits(tx, key_id, day_limit_nano=day_nano, month_limit_nano=month_nano)

    await bursar.service.store.write(op)


def come_as(bursar: Running, text: str | None) -> None:
    """From now on the test's client sends this key; None: none."""
    bursar.client.headers.pop("authorization", None)
    if text is not None:
        bursar.client.headers["authorization"] = f"Bearer {text}"
