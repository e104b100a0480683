"""python -m app keys create | list | revoke | budget | limit: the API keys of a data directory.

Works beside a running service, which hears of every change within a second.
"""

import argparse
import asyncio
import json
import re
import sys
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Any

from app.budget.keys import (
    Key,
    create_key,
    list_keys,
    read_key,
    revoke_key,
    set_key_concurrency,
    set_key_limits,
)
from app.domain.clock import rfc3339
from app.domain.money import format_usd, nano_from_usd, usd_from_nano
from app.domain.record import record
from app.store.port import Store, T, Tx

NAME_LIMIT = 128
AT_ONCE_LIMIT = 10_000
_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@-]{0,127}")
_NONE = "none"
_ONCE = (
    "The key is shown this once; only its hash is kept. Send it as 'Authorization: Bearer <key>'."
)


@record(frozen=True, slots=True)
class Opened:
    """What the command works on; the store is closed when it is done."""

    store: Store
    warn_percent: int
    """How much of a budget is spent when a warning is due."""


OpenStore = Callable[[bool], Opened]
"""Opens the store in force; called inside an event loop, with whether it may make a database."""


def add_parser(commands: Any, open_store: OpenStore) -> None:
    """Add the command to those of the program."""
    keys = commands.add_parser("keys", help="make, list and revoke API keys, set their budgets")
    verbs = keys.add_subparsers(required=True, metavar="verb")
    create = verbs.add_parser("create", help="make a key and print it, once")
    create.add_argument("--owner", required=True, type=_owner, help="whose tasks it sees")
    create.add_argument("--name", default="", type=_name, help="yours, to tell keys apart")
    listed = verbs.add_parser("list", help="print all keys, never their text")
    revoke = verbs.add_parser("revoke", help="let a key open nothing any more")
    budget = verbs.add_parser("budget", help="set or lift a key's budgets")
    limit = verbs.add_parser("limit", help="set or lift how many of a key's tasks run at once")
    for command, run in (
        (create, _create),
        (listed, _list),
        (revoke, _revoke),
        (budget, _budget),
        (limit, _limit),
    ):
        command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(run=run, open_store=open_store, parser=command)
    text = "tasks that run at once; none leaves it to BURSAR_KEY_CONCURRENCY"
    limit.add_argument("--at-once", required=True, type=_count_or_none, metavar="N", help=text)
    for command in (revoke, budget, limit):
        command.add_argument("id", help="the key's id, as `keys list` prints it")
    for command, amount, hint in ((create, _usd, ""), (budget, _usd_or_none, "; none lifts it")):
        for window in ("daily", "monthly"):
            text = f"USD it may cost, {window} (UTC){hint}"
            command.add_argument(f"--{window}-usd", type=amount, metavar="USD", help=text)


def _create(chosen: argparse.Namespace) -> int:
    def op(tx: Tx, _percent: int) -> tuple[Key, str]:
        key_id, text = create_key(
            tx,
            chosen.owner,
            chosen.name,
            day_limit_nano=chosen.daily_usd,
            month_limit_nano=chosen.monthly_usd,
        )
        return read_key(tx, key_id), text

    key, text = _write(chosen, op, make=True)
    if chosen.json:
        _print(json.dumps({**_shown(key), "key": text}, indent=2))
    else:
        _print(_described(key), f"key      {text}")
        sys.stderr.write(_ONCE + "\n")
    return 0


def _list(chosen: argparse.Namespace) -> int:
    keys = _write(chosen, lambda tx, _percent: list_keys(tx))
    if chosen.json:
        _print(json.dumps([_shown(key) for key in keys], indent=2))
        return 0
    rows = [("ID", "OWNER", "PREFIX", "STATE", "DAILY", "MONTHLY", "CREATED", "NAME")]
    rows += [
        (
            key.id,
            key.owner,
            key.prefix,
            "enabled" if key.enabled else "revoked",
            _amount(key.day_limit_nano),
            _amount(key.month_limit_nano),
            rfc3339(key.created_at_us),
            key.name,
        )
        for key in keys
    ]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True))
        _print("  ".join(cells).rstrip())
    return 0


def _revoke(chosen: argparse.Namespace) -> int:
    def op(tx: Tx, _percent: int) -> Key:
        revoke_key(tx, chosen.id)
        return read_key(tx, chosen.id)

    _show(_write(chosen, op), as_json=chosen.json)
    return 0


def _budget(chosen: argparse.Namespace) -> int:
    if chosen.daily_usd is None and chosen.monthly_usd is None:
        chosen.parser.error("give --daily-usd, --monthly-usd or both")

    def op(tx: Tx, warn_percent: int) -> Key:
        key = read_key(tx, chosen.id)
        set_key_limits(
            tx,
            key.id,
            day_limit_nano=_changed(chosen.daily_usd, key.day_limit_nano),
            month_limit_nano=_changed(chosen.monthly_usd, key.month_limit_nano),
            warn_percent=warn_percent,
        )
        return read_key(tx, key.id)

    _show(_write(chosen, op), as_json=chosen.json)
    return 0


def _limit(chosen: argparse.Namespace) -> int:
    def op(tx: Tx, _percent: int) -> Key:
        most = None if chosen.at_once == _NONE else chosen.at_once
        set_key_concurrency(tx, chosen.id, most)
        return read_key(tx, chosen.id)

    _show(_write(chosen, op), as_json=chosen.json)
    return 0


def _changed(wished: int | str | None, now_nano: int | None) -> int | None:
    """The limit as it is to be; not wished for is left as it is."""
    if wished is None:
        return now_nano
    return None if isinstance(wished, str) else wished


def _write(chosen: argparse.Namespace, op: Callable[[Tx, int], T], *, make: bool = False) -> T:
    """What `op` returns, once it is durable; it gets the percentage of `Opened`."""

    async def write() -> T:
        opened: Opened = chosen.open_store(make)
        try:
            return await opened.store.write(lambda tx: op(tx, opened.warn_percent))
        finally:
            await opened.store.close()

    return asyncio.run(write())


def _shown(key: Key) -> dict[str, object]:
    def usd(nano: int | None) -> float | None:
        return None if nano is None else usd_from_nano(nano)

    return {
        "id": key.id,
        "owner": key.owner,
        "name": key.name,
        "prefix": key.prefix,
        "enabled": key.enabled,
        "daily_budget_usd": usd(key.day_limit_nano),
        "monthly_budget_usd": usd(key.month_limit_nano),
        "at_once": key.concurrency_limit,
        "created_at": rfc3339(key.created_at_us),
        "revoked_at": None if key.revoked_at_us is None else rfc3339(key.revoked_at_us),
    }


def _show(key: Key, *, as_json: bool) -> None:
    _print(json.dumps(_shown(key), indent=2) if as_json else _described(key))


def _described(key: Key) -> str:
    lines = [
        f"id       {key.id}",
        f"owner    {key.owner}",
        f"name     {key.name or '-'}",
        f"prefix   {key.prefix}",
        f"daily    {_amount(key.day_limit_nano)}",
        f"monthly  {_amount(key.month_limit_nano)}",
        f"at once  {key.concurrency_limit or '-'}",
    ]
    if key.revoked_at_us is not None:
        lines.append(f"revoked  {rfc3339(key.revoked_at_us)}")
    return "\n".join(lines)


def _amount(nano: int | None) -> str:
    return _NONE if nano is None else f"{format_usd(nano)} USD"


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


def _owner(text: str) -> str:
    if not _OWNER.fullmatch(text):
        raise argparse.ArgumentTypeError(
            "an owner is 1 to 128 letters, digits and ._:@-, and begins with a letter or digit"
        )
    return text


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > NAME_LIMIT:
        raise argparse.ArgumentTypeError(
            f"a name is at most {NAME_LIMIT} printable characters on one line"
        )
    return text


def _usd(text: str) -> int:
    try:
        return nano_from_usd(Decimal(text))
    except InvalidOperation:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of USD") from None
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _usd_or_none(text: str) -> int | str:
    return text if text == _NONE else _usd(text)


def _count_or_none(text: str) -> int | str:
    if text == _NONE:
        return text
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= AT_ONCE_LIMIT:
        raise argparse.ArgumentTypeError(f"a whole number from 1 to {AT_ONCE_LIMIT}, or {_NONE}")
    return int(text)
