"""Who is let in: what the gate remembers, for how long, and what it does when it cannot look."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from app.api.gate import REMEMBERED_LIMIT, REMEMBERED_S, Gate
from app.budget.keys import Principal, create_key, revoke_key
from app.domain.errors import StoreUnavailable, Unauthorized
from app.domain.task import LOCAL_OWNER
from app.store.port import Operation, Store, T
from app.store.sqlite import SqliteStore
from tests.support.clock import FakeClock
from tests.support.failing_store import FailingStore

LOCAL = Principal(LOCAL_OWNER)


class CountingStore(FailingStore):
    """Counts its reads, those that fail too."""

    def __init__(self, inner: Store) -> None:
        super().__init__(inner)
        self.reads = True
        self.asked = 0

    async def read(self, op: Operation[T]) -> T:
        self.asked += 1
        return await super().read(op)


class Entrance:
    """A gate with its store and clock."""

    def __init__(self, store: Store, clock: FakeClock, *, required: bool = False) -> None:
        self.store = CountingStore(store)
        self.clock = clock
        self.gate = Gate(self.store, clock, required=required)

    async def key(self, owner: str = "acme") -> tuple[str, str]:
        """A new key: its id, and the header that carries it."""
        key_id, text = await self.store.write(lambda tx: create_key(tx, owner, ""))
        return key_id, f"Bearer {text}"

    async def closed(self, authorization: str | None) -> str:
        """What is said to who is not let in."""
        with pytest.raises(Unauthorized) as refused:
            await self.gate.principal(authorization)
        return str(refused.value)


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """An empty store."""
    opened = SqliteStore(tmp_path / "data", FakeClock())
    yield opened
    await opened.close()


@pytest.fixture
def entrance(store: SqliteStore) -> Entrance:
    """A gate that is open until there are keys."""
    return Entrance(store, FakeClock())


@pytest.mark.parametrize("header", [None, "", " ", "Basic dTpw", "Bearer", "Bearer x", "nonsense"])
async def test_open(entrance: Entrance, header: str | None) -> None:
    """Without keys everybody is the local owner, whatever a client or a proxy sends along."""
    assert await entrance.gate.principal(header) == LOCAL


@pytest.mark.parametrize(
    "header", [None, "", " ", "Basic dTpw", "Bearer", "Bearer  ", "Bearer x", "x", "Bearer ä"]
)
async def test_closed(entrance: Entrance, header: str | None) -> None:
    """With a key somewhere, all of these are refused, with a hint that names no key."""
    await entrance.key()
    assert "API key" in await entrance.closed(header)


async def test_required(store: SqliteStore) -> None:
    """Keys can be required before there are any."""
    entrance = Entrance(store, FakeClock(), required=True)
    for header in (None, "Bearer x"):
        await entrance.closed(header)
    key_id, header = await entrance.key()
    assert await entrance.gate.principal(header) == Principal("acme", key_id)


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "Bearer   ", "  Bearer "])
async def test_ways_to_write_it(entrance: Entrance, scheme: str) -> None:
    """The scheme's case and the spaces around the key do not matter."""
    key_id, header = await entrance.key()
    written = scheme + header.removeprefix("Bearer ") + " "
    assert await entrance.gate.principal(written) == Principal("acme", key_id)


async def test_owners(entrance: Entrance) -> None:
    """Each key is its owner's; two keys of one owner are told apart."""
    keys = {name: await entrance.key(name) for name in ("a", "b")}
    keys["a again"] = await entrance.key("a")
    found = {name: await entrance.gate.principal(header) for name, (_, header) in keys.items()}
    assert {name: who.owner for name, who in found.items()} == {"a": "a", "b": "b", "a again": "a"}
    assert {name: who.key_id for name, who in found.items()} == {n: k for n, (k, _) in keys.items()}


async def test_remembered_for_a_second(entrance: Entrance) -> None:
    """One look a second and key, however many requests come."""
    _, header = await entrance.key()
    for _ in range(100):
        await entrance.gate.principal(header)
    assert entrance.store.asked == 1
    entrance.clock.move(REMEMBERED_S)
    await entrance.gate.principal(header)
    assert entrance.store.asked == 2


async def test_open_is_remembered_for_a_second(entrance: Entrance) -> None:
    """The first key closes the door a second later at most."""
    for _ in range(100):
        await entrance.gate.principal(None)
    assert entrance.store.asked == 1
    await entrance.key()
    entrance.clock.move(REMEMBERED_S)
    await entrance.closed(None)


async def test_closed_stays_closed(entrance: Entrance) -> None:
    """A door found closed is not looked at again: keys are revoked, never deleted."""
    await entrance.key()
    for _ in range(3):
        await entrance.closed(None)
        entrance.clock.move(3_600)
    assert entrance.store.asked == 1


async def test_revoked_within_a_second(entrance: Entrance) -> None:
    """A revoked key may be remembered for a second, not longer; the last one leaves the door closed."""
    key_id, header = await entrance.key()
    await entrance.gate.principal(header)
    await entrance.store.write(lambda tx: revoke_key(tx, key_id))
    entrance.clock.move(REMEMBERED_S)
    assert "revoked" in await entrance.closed(header)
    await entrance.closed(None)


async def test_unknown_keys_are_remembered_too(entrance: Entrance) -> None:
    """Somebody who tries one wrong key all the time does not keep the store busy with looking for it."""
    await entrance.key()
    await entrance.closed("Bearer wrong")
    first = entrance.store.asked
    for _ in range(50):
        await entrance.closed("Bearer wrong")
    assert first == 2  # for the key, and whether there is any
    assert entrance.store.asked == first


async def test_memory_is_bounded(entrance: Entrance) -> None:
    """Guesses do not fill the memory, and a good key survives them."""
    _, header = await entrance.key()
    known = entrance.gate._known
    most = 0
    for number in range(REMEMBERED_LIMIT + 50):
        known[f"filler-{number}"] = (0.0, None)
        if number % 1_000 == 0 or number >= REMEMBERED_LIMIT:
            await entrance.closed(f"Bearer wrong-{number}")
            most = max(most, len(known))
    assert most <= REMEMBERED_LIMIT
    assert (await entrance.gate.principal(header)).owner == "acme"


@pytest.mark.parametrize("with_key", [False, True])
async def test_fails_closed(entrance: Entrance, *, with_key: bool) -> None:
    """When the store cannot be read nobody comes in, neither with a key nor, where it was open, without."""
    _, header = await entrance.key() if with_key else ("", None)
    assert (await entrance.gate.principal(header)).owner == ("acme" if with_key else LOCAL_OWNER)
    entrance.clock.move(REMEMBERED_S)
    entrance.store.error = StoreUnavailable("The disk is gone.")
    for _ in range(2):
        with pytest.raises(StoreUnavailable):
            await entrance.gate.principal(header)
    entrance.store.error = None
    await entrance.gate.principal(header)


async def test_the_key_is_not_kept(entrance: Entrance) -> None:
    """What is remembered is a hash, so that no dump of memory or log of it shows a key."""
    _, header = await entrance.key()
    await entrance.gate.principal(header)
    assert header.removeprefix("Bearer ") not in repr(vars(entrance.gate))
