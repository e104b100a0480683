"""API keys: who uses the service, and on whose budget. Inside the caller's transaction.

A key's text is shown once, when it is made; what is stored is its SHA-256. The text has 256 random bits, so
a fast hash is safe: there is nothing to guess.
"""

import hashlib
import secrets

from app.budget.accounts import UNLIMITED_NANO, WARN_PERCENT, set_limit
from app.budget.scopes import key_windows
from app.domain.errors import NotFound
from app.domain.ids import new_id
from app.domain.record import record
from app.store.port import Row, Tx

TEXT_PREFIX = "bursar_"
_SHOWN_LENGTH = 12


@record(frozen=True, slots=True)
class Key:
    """An API key as it may be shown."""

    id: str
    owner: str
    name: str
    prefix: str
    """The first characters of its text, to tell keys apart."""
    enabled: bool
    day_limit_nano: int | None
    month_limit_nano: int | None
    concurrency_limit: int | None
    """Tasks of it that may run at once; None is what the service's setting says."""
    created_at_us: int
    revoked_at_us: int | None


@record(frozen=True, slots=True)
class Principal:
    """On whose behalf a request comes."""

    owner: str
    key_id: str | None = None
    """None while keys are off."""


def create_key(
    tx: Tx,
    owner: str,
    name: str,
    *,
    day_limit_nano: int | None = None,
    month_limit_nano: int | None = None,
) -> tuple[str, str]:
    """Make a key for `owner`; returns its id and its text, which nobody can read again."""
    text = TEXT_PREFIX + secrets.token_urlsafe(32)
    key_id = new_id("key", tx.now_us)
    tx.run(
        "add_key",
        id=key_id,
        owner=owner,
        name=name,
        prefix=text[:_SHOWN_LENGTH],
        hash=hash_of(text),
        day_limit_nano=day_limit_nano,
        month_limit_nano=month_limit_nano,
        now_us=tx.now_us,
    )
    return key_id, text


def list_keys(tx: Tx) -> list[Key]:
    """Every key, oldest first, revoked ones too."""
    return [_key(row) for row in tx.all("list_keys")]


def read_key(tx: Tx, key_id: str) -> Key:
    """One key.

    Raises:
        NotFound: there is none with this id.
    """
    row = tx.one("read_key", id=key_id)
    if row is None:
        raise NotFound("key", key_id)
    return _key(row)


def revoke_key(tx: Tx, key_id: str) -> bool:
    """Close the door to a key; its tasks that run go on. False when it was closed already.

    Raises:
        NotFound: there is none with this id.
    """
    read_key(tx, key_id)
    return tx.run("revoke_key", id=key_id, now_us=tx.now_us) == 1


def set_key_limits(
    tx: Tx,
    key_id: str,
    *,
    day_limit_nano: int | None,
    month_limit_nano: int | None,
    warn_percent: int = WARN_PERCENT,
) -> None:
    """Set both budgets of a key, from now on and for the windows that are open; None is no limit.

    Raises:
        NotFound: there is none with this id.
    """
    read_key(tx, key_id)
    limits = (day_limit_nano, month_limit_nano)
    tx.run("set_key_limits", id=key_id, day_limit_nano=limits[0], month_limit_nano=limits[1])
    for scope, limit in zip(key_windows(key_id, tx.now_us), limits, strict=True):
        # No limit any more: whoever waits for this window must be able to go on.
        set_limit(tx, scope, UNLIMITED_NANO if limit is None else limit, warn_percent)


def set_key_concurrency(tx: Tx, key_id: str, limit: int | None) -> None:
    """Set how many of a key's tasks may run at once; None leaves it to the service's setting.

    What runs already goes on; what waits behind a limit that is raised follows within a second.

    Raises:
        NotFound: there is none with this id.
    """
    read_key(tx, key_id)
    tx.run("set_key_concurrency", id=key_id, concurrency_limit=limit)


def hash_of(text: str) -> str:
    """What is stored of a key's text."""
    return hashlib.sha256(text.encode()).hexdigest()


def principal_of(tx: Tx, text: str) -> Principal | None:
    """Whose key this is; None for an unknown or revoked one."""
    row = tx.one("find_key", hash=hash_of(text))
    if row is None or not row["enabled"]:
        return None
    return Principal(row["owner"], row["id"])


def any_key(tx: Tx) -> bool:
    """Whether a key was ever made: then nobody comes in without one."""
    return tx.one("any_key") is not None


def _key(row: Row) -> Key:
    return Key(
        row["id"],
        row["owner"],
        row["name"],
        row["prefix"],
        bool(row["enabled"]),
        row["day_limit_nano"],
        row["month_limit_nano"],
        row["concurrency_limit"],
        row["created_at_us"],
        row["revoked_at_us"],
    )
