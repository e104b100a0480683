"""API keys: what is kept of them, whom they let in, what they may spend."""

import hashlib
import re
from functools import partial
from pathlib import Path

import pytest

from app.budget.accounts import UNLIMITED_NANO, Balance, ServiceLimits, shared_balances
from app.budget.keys import (
    Principal,
    any_key,
    create_key,
    list_keys,
    principal_of,
    read_key,
    revoke_key,
    set_key_limits,
)
from app.budget.scopes import Scope, key_windows, resets_at_us
from app.domain.clock import US_PER_S, rfc3339
from app.domain.errors import NotFound
from app.store.port import Store, Tx
from tests.support.clock import START_US, FakeClock
from tests.support.seeding import USD
from tests.support.stores import MakeStore

DAY_S = 86_400
SERVICE = ServiceLimits()


async def _made(store: Store, owner: str = "acme", name: str = "", **limits: int) -> str:
    key_id, _ = await store.write(lambda tx: create_key(tx, owner, name, **limits))
    return key_id


async def _stands(store: Store, key_id: str) -> list[Balance]:
    """The key's windows as a reservation finds them, opened where new."""
    return await store.write(lambda tx: list(shared_balances(tx, "acme", key_id, SERVICE)))


async def _spent(store: Store, scope: Scope, nano: int) -> None:
    def op(tx: Tx) -> None:
        tx.run("hold", scope=scope.kind, id=scope.id, amount_nano=nano)
        params = {"held_nano": nano, "spent_nano": nano, "surplus_nano": 0}
        tx.one("book", scope=scope.kind, id=scope.id, **params)

    await store.write(op)


class TestText:
    """What a client sends, and what is kept of it."""

    async def test_form(self, store: Store) -> None:
        """A prefix of ours and 256 random bits; every key is another one."""
        made = await store.write(lambda tx: [create_key(tx, "acme", "n") for _ in range(20)])
        for key_id, text in made:
            assert re.fullmatch(r"bursar_[A-Za-z0-9_-]{43}", text)
            assert re.fullmatch(r"key_[0-9a-f]{32}", key_id)
        assert len({text for _, text in made}) == len({key_id for key_id, _ in made}) == 20

    async def test_at_rest(self, store: Store, make_store: MakeStore, tmp_path: Path) -> None:
        """The database has the hash and the first characters, nothing more."""
        key_id, text = await store.write(lambda tx: create_key(tx, "acme", "n"))
        key = await store.read(lambda tx: read_key(tx, key_id))
        assert key.prefix == text[:12]
        await store.close()
        kept = make_store.everything(tmp_path)
        assert hashlib.sha256(text.encode()).hexdigest().encode() in kept
        assert text[:16].encode() not in kept  # what follows the prefix in the file may look alike
        assert text[12:].encode() not in kept


class TestLife:
    """Made, listed, revoked."""

    async def test_as_made(self, store: Store) -> None:
        """Everything that was asked for, and when."""
        key_id = await _made(store, "acme", "nightly", day_limit_nano=5, month_limit_nano=70)
        key = await store.read(lambda tx: read_key(tx, key_id))
        assert (key.id, key.owner, key.name, key.enabled) == (key_id, "acme", "nightly", True)
        assert (key.day_limit_nano, key.month_limit_nano) == (5, 70)
        assert (key.created_at_us, key.revoked_at_us) == (START_US, None)

    async def test_list(self, store: Store, clock: FakeClock) -> None:
        """Oldest first; revoked ones stay in it."""
        made = []
        for number in range(3):
            made.append(await _made(store, f"owner-{number}"))
            clock.move(1)
        await store.write(lambda tx: revoke_key(tx, made[1]))
        listed = await store.read(list_keys)
        assert [key.id for key in listed] == made
        assert [key.enabled for key in listed] == [True, False, True]

    async def test_who(self, store: Store) -> None:
        """A key's text leads to its owner; anything else to nobody."""
        key_id, text = await store.write(lambda tx: create_key(tx, "acme", ""))
        await _made(store, "other")
        assert await store.read(lambda tx: principal_of(tx, text)) == Principal("acme", key_id)
        for wrong in ("", text[:-1], text + "x", text.upper(), key_id, text[:12]):
            assert await store.read(partial(principal_of, text=wrong)) is None

    async def test_revoked(self, store: Store, clock: FakeClock) -> None:
        """It opens nothing any more, but still counts as a key; again changes nothing."""
        key_id, text = await store.write(lambda tx: create_key(tx, "acme", ""))
        clock.move(60)
        assert await store.write(lambda tx: revoke_key(tx, key_id)) is True
        clock.move(60)
        assert await store.write(lambda tx: revoke_key(tx, key_id)) is False
        key = await store.read(lambda tx: read_key(tx, key_id))
        assert (key.enabled, key.revoked_at_us) == (False, START_US + 60 * US_PER_S)
        assert await store.read(lambda tx: principal_of(tx, text)) is None
        assert await store.read(any_key) is True

    async def test_none_yet(self, store: Store) -> None:
        """Without keys there are none."""
        assert await store.read(any_key) is False
        assert await store.read(list_keys) == []

    async def test_unknown(self, store: Store) -> None:
        """What is asked of a key that is none is refused by its name."""
        await _made(store)

        def limited(tx: Tx) -> None:
            set_key_limits(tx, "key_0", day_limit_nano=None, month_limit_nano=None)

        for op in (lambda tx: read_key(tx, "key_0"), lambda tx: revoke_key(tx, "key_0"), limited):
            with pytest.raises(NotFound, match="There is no key 'key_0'"):
                await store.write(op)


class TestLimits:
    """Budgets of a day and a month."""

    async def test_windows_open_with_the_limits(self, store: Store) -> None:
        """Each window begins empty, with the key's limit; one without a limit is no budget."""
        both = await _made(store, day_limit_nano=5, month_limit_nano=70)
        one = await _made(store, month_limit_nano=70)
        none = await _made(store)
        day, month = await _stands(store, both)
        assert (day.scope, month.scope) == key_windows(both, START_US)
        assert (day.limit_nano, month.limit_nano, day.spent_nano) == (5, 70, 0)
        assert [b.scope.kind for b in await _stands(store, one)] == ["key_month"]
        assert await _stands(store, none) == []

    async def test_changed(self, store: Store, clock: FakeClock) -> None:
        """A new limit counts in the window that is open and in the next; what was spent stays."""
        key_id = await _made(store, day_limit_nano=5 * USD, month_limit_nano=70 * USD)
        day, _ = await _stands(store, key_id)
        await _spent(store, day.scope, 4 * USD)
        await store.write(
            lambda tx: set_key_limits(
                tx, key_id, day_limit_nano=3 * USD, month_limit_nano=70 * USD, warn_percent=50
            )
        )
        day, month = await _stands(store, key_id)
        assert (day.limit_nano, day.spent_nano, day.unspent_nano) == (3 * USD, 4 * USD, -USD)
        assert month.limit_nano == 70 * USD
        clock.move(DAY_S)
        day, _ = await _stands(store, key_id)
        assert (day.limit_nano, day.spent_nano) == (3 * USD, 0)

    async def test_lifted(self, store: Store) -> None:
        """Who waits for the open window can go on; it goes on being counted."""
        key_id = await _made(store, day_limit_nano=5, month_limit_nano=70)
        day, _ = await _stands(store, key_id)

        def lifted(tx: Tx) -> int:
            set_key_limits(tx, key_id, day_limit_nano=None, month_limit_nano=70)
            row = tx.one("read_account", scope=day.scope.kind, id=day.scope.id)
            return row["limit_nano"] if row else 0

        assert await store.write(lifted) == UNLIMITED_NANO
        day, month = await _stands(store, key_id)  # what is spent counts when it is set again
        assert (day.limit_nano, month.limit_nano) == (UNLIMITED_NANO, 70)

    async def test_keys_do_not_share(self, store: Store) -> None:
        """Two keys of one owner have a budget each."""
        first, second = [await _made(store, day_limit_nano=USD) for _ in range(2)]
        (day,) = await _stands(store, first)
        await _spent(store, day.scope, USD)
        (other,) = await _stands(store, second)
        assert other.unspent_nano == USD


@pytest.mark.parametrize(
    ("now", "day", "month", "day_ends", "month_ends"),
    [
        ("2026-11-22T12:00:00", "2026-11-22", "2026-11", "2026-11-23", "2026-12-01"),
        ("2026-11-30T23:59:59.999999", "2026-11-30", "2026-11", "2026-12-01", "2026-12-01"),
        ("2026-12-31T23:59:59.999999", "2026-12-31", "2026-12", "2027-01-01", "2027-01-01"),
        ("2027-01-01T00:00:00", "2027-01-01", "2027-01", "2027-01-02", "2027-02-01"),
        ("2027-02-28T01:00:00", "2027-02-28", "2027-02", "2027-03-01", "2027-03-01"),
        ("2028-02-28T23:00:00", "2028-02-28", "2028-02", "2028-02-29", "2028-03-01"),
        ("2028-02-29T00:00:00", "2028-02-29", "2028-02", "2028-03-01", "2028-03-01"),
    ],
)
def test_windows_are_utc(now: str, day: str, month: str, day_ends: str, month_ends: str) -> None:
    """Days and months begin and end at midnight UTC, in years of every length."""
    instant_us = _us(now)
    windows = key_windows("key_1", instant_us)
    assert windows == (Scope("key_day", f"key_1/{day}"), Scope("key_month", f"key_1/{month}"))
    ends = [rfc3339(end) for end in map(resets_at_us, windows) if end is not None]
    assert ends == [f"{day_ends}T00:00:00.000000Z", f"{month_ends}T00:00:00.000000Z"]


def _us(instant: str) -> int:
    """Microseconds since 1970 of an instant in UTC, by counting days."""
    whole, _, fraction = instant.partition(".")
    year, month, day, hour, minute, second = map(int, re.findall(r"\d+", whole))
    days = sum(366 if _leap(y) else 365 for y in range(1970, year))
    lengths = (31, 29 if _leap(year) else 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
    days += sum(lengths[: month - 1]) + day - 1
    seconds = days * DAY_S + hour * 3_600 + minute * 60 + second
    return seconds * US_PER_S + int(fraction or 0)


def _leap(year: int) -> bool:
    return year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
