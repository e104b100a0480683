"""The service without one of its safeguards, each as a store of its own: the simulation must catch them all.

Nothing in the service can be switched off: what a safeguard does in the database is undone on the way there.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from app.store.port import Operation, Params, Row, Store, T, Tx
from app.store.queries import load_queries
from app.store.sqlite_tx import load_statements, statement
from tests.simulation.process import MakeStore
from tests.simulation.store import SimulatedStore
from tests.simulation.world import simulate

_RESERVATION = "_reservation.<locals>.op"
_ANSWER = "Caller._record.<locals>.<lambda>"
_TAKE_OVER = "rescue_all.<locals>.<lambda>"
_GAP_S = 0.02
"""How long the second half of what belongs together stays behind."""


class _Through:
    """A transaction that passes everything on."""

    def __init__(self, tx: Tx) -> None:
        self._tx = tx
        self.now_us = tx.now_us

    @property
    def facts(self) -> list[object]:
        return cast("Any", self._tx).facts  # type: ignore[no-any-return]

    def one(self, query: str, **params: object) -> Row | None:
        return self._tx.one(query, **params)

    def all(self, query: str, **params: object) -> Sequence[Row]:
        return self._tx.all(query, **params)

    def run(self, query: str, **params: object) -> int:
        return self._tx.run(query, **params)

    def one_each(self, query: str, many: Sequence[Params]) -> list[Row | None]:
        return [self.one(query, **params) for params in many]

    def run_each(self, query: str, many: Sequence[Params]) -> list[int]:
        return [self.run(query, **params) for params in many]

    def later(self, query: str, **params: object) -> None:
        self.run(query, **params)

    def after_commit(self, fact: object) -> None:
        self._tx.after_commit(fact)


class _Later(_Through):
    """Puts off what `is_late` names, and makes up its answers."""

    def __init__(self, tx: Tx, is_late: Callable[[str], bool]) -> None:
        super().__init__(tx)
        self._is_late = is_late
        self.late: list[tuple[str, dict[str, object]]] = []

    def one(self, query: str, **params: object) -> Row | None:
        if not self._is_late(query):
            return super().one(query, **params)
        self.late.append((query, params))
        if query == "append_event":
            return {"seq": len(self.late)}
        return self._tx.one("read_account", scope=params["scope"], id=params["id"]) and {
            "spent_nano": 0,
            "limit_nano": 0,
            "warn_at_nano": None,
        }

    def run(self, query: str, **params: object) -> int:
        if not self._is_late(query):
            return super().run(query, **params)
        self.late.append((query, params))
        return 1


class _Split(SimulatedStore):
    """Writes what belongs into one transaction in two."""

    operation: str | None = None
    """The only one that is split, by name; None: all."""

    @staticmethod
    def is_late(query: str) -> bool:
        """What the second transaction gets."""
        raise NotImplementedError

    begin_write = Store.begin_write  # by way of `write`

    async def write(self, op: Operation[T]) -> T:
        if self.operation not in {None, op.__qualname__}:
            return await super().write(op)
        late: list[tuple[str, dict[str, object]]] = []

        def first(tx: Tx) -> T:
            half = _Later(tx, self.is_late)
            value = op(half)
            late.extend(half.late)
            return value

        def second(tx: Tx) -> None:
            for query, params in late:
                tx.one(query, **params)

        value = await super().write(first)
        if late:
            await super().write(second)
        return value


class NothingApart(_Split):
    """For comparison: goes the same way, and puts nothing off."""

    @staticmethod
    def is_late(query: str) -> bool:
        return query == "nothing"


class EventApart(_Split):
    """An event is written after what it tells of, in a transaction of its own."""

    @staticmethod
    def is_late(query: str) -> bool:
        return query == "append_event"


class PaymentApart(_Split):
    """An answer is recorded first and paid in a transaction of its own."""

    operation = _ANSWER

    @staticmethod
    def is_late(query: str) -> bool:
        return query in {"book", "add_line"}


class _Rewritten(SimulatedStore):
    """Some of the statements are others."""

    changes: dict[str, tuple[str, str]] = {}  # noqa: RUF012  (each class has its own)

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        changed = dict(load_statements())
        for name, (safe, unsafe) in self.changes.items():
            query = load_queries()[name]
            assert safe in query, f"{name} has no {safe!r} any more"
            changed[name] = statement(query.replace(safe, unsafe))
        self._statements = changed


_RUN = " AND run_count = :run"


class NoFence(_Rewritten):
    """A run writes without asking whether it still holds its task."""

    changes = {  # noqa: RUF012
        "lease_holds": (_RUN, ""),
        "lease_may_start": (_RUN, ""),
        "record_step": (_RUN, ""),
        "requeue_task": (_RUN, ""),
        "pause_task": (_RUN, ""),
        "finish_task": (_RUN, ""),
    }


class NoTakeOver(_Rewritten):
    """Nobody looks after what a dead process left."""

    changes = {"orphaned_tasks": ("WHERE lease_owner", "WHERE 0 AND lease_owner")}  # noqa: RUF012


class NoReaper(_Rewritten):
    """Whoever renews a lease no more keeps it."""

    changes = {"remove_silent_worker": ("WHERE", "WHERE 0 AND")}  # noqa: RUF012


class NoHeartbeat(_Rewritten):
    """A lease is taken and never renewed."""

    changes = {  # noqa: RUF012
        "renew_worker": (
            "expires_at_us = :expires_at_us, beat_count = beat_count + 1",
            "expires_at_us = CASE WHEN :expires_at_us > 0 THEN expires_at_us END",
        )
    }


class ClaimAnyway(_Rewritten):
    """A worker takes tasks whether or not it has a lease."""

    changes = {  # noqa: RUF012
        "worker_holds": (
            "id = :id AND expires_at_us > :now_us",
            ":id = :id AND :now_us = :now_us",
        )
    }


class StartAnyway(_Rewritten):
    """A run begins its next call or tool whether or not somebody asked to cancel its task."""

    changes = {"lease_may_start": ("= 'running'", "IN ('running', 'cancelling')")}  # noqa: RUF012


class CrashForEver(_Rewritten):
    """Nobody counts the crashes of a task."""

    changes = {"requeue_task": ("crash_count + :crashed", "0 * :crashed")}  # noqa: RUF012


class LateIsLost(_Rewritten):
    """What was presumed stays so, whatever comes."""

    changes = {"presumed_line": ("kind = 'presumed'", "kind = 'nothing'")}  # noqa: RUF012


class _Remembering(_Through):
    """Sees the accounts as they stood some time ago."""

    def __init__(self, tx: Tx, seen: dict[tuple[object, object], Row]) -> None:
        super().__init__(tx)
        self._seen = seen

    def one(self, query: str, **params: object) -> Row | None:
        if query == "read_account" and (params["scope"], params["id"]) in self._seen:
            return self._seen[params["scope"], params["id"]]
        return super().one(query, **params)


class CheckApart(_Rewritten):
    """Whether a budget pays is looked up first, and held afterwards without a condition or a CHECK."""

    changes = {  # noqa: RUF012
        "hold": (
            "AND spent_nano + surplus_nano + reserved_nano + :amount_nano <= limit_nano",
            "AND :amount_nano >= 0",
        ),
        "accounts_page": ("scope, id,", "scope, id, limit_nano,"),
    }

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self._connection.execute("PRAGMA ignore_check_constraints=ON")

    begin_write = Store.begin_write  # by way of `write`

    async def write(self, op: Operation[T]) -> T:
        if op.__qualname__ != _RESERVATION:
            return await super().write(op)
        rows = await self.read(lambda tx: tx.all("accounts_page", scope="", id="", limit=10_000))
        seen = {(row["scope"], row["id"]): row for row in rows}
        return await super().write(lambda tx: op(_Remembering(tx, seen)))


class SendFirst(SimulatedStore):
    """A call leaves before its reservation is durable."""

    begin_write = Store.begin_write  # by way of `write`

    async def write(self, op: Operation[T]) -> T:
        if op.__qualname__ != _RESERVATION:
            return await super().write(op)
        found: list[T] = []

        def tried(tx: Tx) -> None:
            found.append(op(tx))
            raise _UndoneError

        try:
            await super().write(tried)
        except _UndoneError:
            self._later = asyncio.get_running_loop().create_task(self._durable(op))
        return found[0]

    async def _durable(self, op: Operation[Any]) -> None:
        await asyncio.sleep(_GAP_S)  # noqa: TID251  (of the seeded loop)
        await super().write(op)


class _UndoneError(Exception):
    """Undoes what was tried."""


class _Void(_Through):
    """Frees the reservations it should book."""

    def one(self, query: str, **params: object) -> Row | None:
        return super().one(query, **{**params, "spent_nano": 0} if query == "book" else params)

    def run(self, query: str, **params: object) -> int:
        if query == "add_line":
            params = {**params, "entry": "release", "kind": None, "amount_nano": 0}
        return super().run(query, **params)


class VoidLost(SimulatedStore):
    """After a crash the calls in flight count as never made."""

    begin_write = Store.begin_write  # by way of `write`

    async def write(self, op: Operation[T]) -> T:
        if op.__qualname__ != _TAKE_OVER:
            return await super().write(op)
        return await super().write(lambda tx: op(_Void(tx)))


class AnswerApart(_Split):
    """An idempotency key is stored after its task, in a transaction of its own."""

    operation = "once.<locals>.op"

    @staticmethod
    def is_late(query: str) -> bool:
        return query == "remember_answer"


class KeyNotUnique(_Rewritten):
    """An idempotency key that is there already keeps nobody out."""

    changes = {  # noqa: RUF012
        "remember_answer": (
            "WHERE answers.created_at_us <= :expired_us",
            "WHERE :expired_us < :now_us",
        ),
    }


ABLATION_SEEDS = 1_000
"""Within so many seeds a missing safeguard must be noticed."""
ABLATIONS: dict[str, MakeStore] = {
    "fencing token": NoFence,
    "conditional update and CHECK": CheckApart,
    "reservation durable before the call": SendFirst,
    "lost calls presumed spent": VoidLost,
    "event in the transaction of its change": EventApart,
    "answer and payment in one transaction": PaymentApart,
    "takeover of what a dead process held": NoTakeOver,
    "idempotency row in the task's transaction": AnswerApart,
    "idempotency row unique": KeyNotUnique,
    "reaper": NoReaper,
    "heartbeat": NoHeartbeat,
    "claims under a lease only": ClaimAnyway,
    "nothing begun after a cancel": StartAnyway,
    "late answers confirmed": LateIsLost,
    "crashes counted": CrashForEver,
}
"""Each safeguard, and the store without it."""


def first_caught(name: str, within: int = ABLATION_SEEDS) -> tuple[int, str] | None:
    """The first seed that notices that the safeguard is missing, and what it says; None when none does."""
    for seed in range(within):
        run = simulate(seed, ABLATIONS[name])
        if run.violations:
            return seed, run.violations[0]
    return None
