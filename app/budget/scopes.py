"""Whose money a call spends: the scopes of a task, in the fixed order in which they are taken."""

from datetime import UTC, datetime, timedelta
from functools import lru_cache

from app.domain.record import record

_US = timedelta(microseconds=1)
_DAY_US = timedelta(days=1) // _US
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@record(frozen=True, slots=True)
class Scope:
    """Something with a budget. `kind` is one of KINDS; of a window, `id` ends in its day or month (UTC)."""

    kind: str
    id: str


KINDS = ("task", "session", "key_day", "key_month", "service_day", "service_month", "service")
SERVICE = Scope("service", "service")
"""All that the service ever spends."""


def task_scope(task_id: str) -> Scope:
    """The scope of a task and of the sub-tasks it started."""
    return Scope("task", task_id)


def session_scope(owner: str, session_id: str) -> Scope:
    """The scope that all tasks of a session share."""
    return Scope("session", f"{owner}/{session_id}")


def key_windows(key_id: str, now_us: int) -> tuple[Scope, Scope]:
    """The day and the month of an API key."""
    day = _day(now_us)
    return Scope("key_day", f"{key_id}/{day}"), Scope("key_month", f"{key_id}/{day[:7]}")


def service_windows(now_us: int) -> tuple[Scope, Scope]:
    """The day and the month of the whole service."""
    day = _day(now_us)
    return Scope("service_day", day), Scope("service_month", day[:7])


def resets_at_us(scope: Scope) -> int | None:
    """The instant at which the window ends; None for a scope without windows."""
    window = scope.id.rpartition("/")[2]
    if scope.kind.endswith("_day"):
        end = datetime.fromisoformat(window).replace(tzinfo=UTC) + timedelta(days=1)
    elif scope.kind.endswith("_month"):
        begin = datetime.fromisoformat(f"{window}-01").replace(tzinfo=UTC)
        end = (begin + timedelta(days=31)).replace(day=1)
    else:
        return None
    return (end - _EPOCH) // _US


def shown_id(scope: Scope) -> str:
    """The id as the API knows it: of the task, the session or the key; the window itself for the service."""
    if scope.kind == "session":
        return scope.id.partition("/")[2]
    return scope.id.rpartition("/")[0] if scope.kind.startswith("key_") else scope.id


@record(frozen=True, slots=True)
class Payer:
    """Who pays for a task's calls."""

    task_id: str
    session_id: str
    owner: str
    ancestors: tuple[str, ...] = ()
    """The tasks it is a sub-task of, nearest first: it draws on their budgets, too."""
    key_id: str | None = None

    def scopes(self, now_us: int) -> tuple[Scope, ...]:
        """Every scope that may have a budget: task, its ancestors, session, key, service."""
        return (
            task_scope(self.task_id),
            *(task_scope(task_id) for task_id in self.ancestors),
            session_scope(self.owner, self.session_id),
            *(key_windows(self.key_id, now_us) if self.key_id else ()),
            *service_windows(now_us),
            SERVICE,
        )


def _day(now_us: int) -> str:
    return _date(now_us // _DAY_US)


@lru_cache(maxsize=8)
def _date(day: int) -> str:
    return (_EPOCH + timedelta(days=day)).date().isoformat()
