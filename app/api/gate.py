"""Who asks: `Authorization: Bearer <key>`, checked as soon as there are keys."""

from app.budget.keys import Principal, any_key, hash_of, principal_of
from app.domain.clock import Clock
from app.domain.errors import Unauthorized
from app.domain.task import LOCAL_OWNER
from app.store.port import Store, Tx

REMEMBERED_S = 1.0
"""How long an answer of the key table is good for: a revoked key stops working within this time."""
REMEMBERED_LIMIT = 10_000
_SCHEME = "bearer"


class Gate:
    """Tells keys apart. One a process; what it found is remembered for a second, by the key's hash."""

    def __init__(self, store: Store, clock: Clock, *, required: bool) -> None:
        self._store = store
        self._clock = clock
        self._closed = required
        self._known: dict[str, tuple[float, Principal | None]] = {}
        self._open_until_s = 0.0

    async def principal(self, authorization: str | None) -> Principal:
        """On whose behalf a request with this header comes.

        Raises:
            Unauthorized: no key, where one is needed; or one that is unknown or revoked.
        """
        text = _key_in(authorization or "")
        found = await self._find(text) if text else None
        if found is not None:
            return found
        if await self._is_open():  # what a client sends out of habit does no harm then
            return Principal(LOCAL_OWNER)
        if text:
            raise Unauthorized("This API key is unknown or revoked.")
        raise Unauthorized("An API key is needed: send it as 'Authorization: Bearer <key>'.")

    async def _is_open(self) -> bool:
        if self._closed:
            return False
        now_s = self._clock.monotonic_s()
        if now_s < self._open_until_s:
            return True
        if await self._store.read(any_key):
            self._closed = True  # keys are never deleted: once there is one, there always is
            return False
        self._open_until_s = now_s + REMEMBERED_S
        return True

    async def _find(self, text: str) -> Principal | None:
        digest, now_s = hash_of(text), self._clock.monotonic_s()
        known = self._known.get(digest)
        if known is not None and now_s < known[0]:
            return known[1]

        def op(tx: Tx) -> Principal | None:
            return principal_of(tx, text)

        found = await self._store.read(op)
        if len(self._known) >= REMEMBERED_LIMIT:  # guesses come from outside: keep it bounded
            self._known.clear()
        self._known[digest] = (now_s + REMEMBERED_S, found)
        return found


def _key_in(authorization: str) -> str:
    """The key's text; empty without one."""
    scheme, _, text = authorization.strip().partition(" ")
    return text.strip() if scheme.lower() == _SCHEME else ""
