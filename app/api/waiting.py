"""`Prefer: wait=N`: hold the answer until the task has ended, N seconds at most (RFC 7240)."""

import re
from typing import Any

from fastapi import Request

from app.api import present
from app.api.services import Services
from app.budget.keys import Principal
from app.domain.errors import NotFound
from app.domain.task import TaskStatus
from app.store.port import Tx

WAIT_LIMIT_S = 60
"""The longest wait; a longer wish is shortened, and `Preference-Applied` says so."""
_WAIT = re.compile(r"(?:^|[,;\s])wait\s*=\s*\"?(\d{1,6})\"?(?:$|[,;\s])", re.IGNORECASE)


def wished_wait_s(request: Request) -> int:
    """Seconds of the `wait` preference; 0 without one. Read here: injecting a header costs more. See `spec`."""
    found = _WAIT.search(request.headers.get("prefer", ""))
    return min(int(found[1]), WAIT_LIMIT_S) if found else 0


async def read_task(services: Services, who: Principal, task_id: str) -> dict[str, Any]:
    """The task as the API shows it.

    Raises:
        NotFound: no such task of this owner.
    """

    return await services.store.read(lambda tx: shown(tx, services, who, task_id))


def shown(tx: Tx, services: Services, who: Principal, task_id: str) -> dict[str, Any]:
    """The same in a transaction."""
    row = tx.one("read_task", id=task_id, owner=who.owner)
    if row is None:
        raise NotFound("task", task_id)
    used = tx.one("usage_of_task", task_id=task_id, owner=who.owner) or present.NOTHING_USED
    item = present.batch_item(tx, row)
    return present.task(row, used, simulated=services.simulated, item=item)


async def await_end(
    services: Services, who: Principal, task_id: str, wait_s: float
) -> dict[str, Any]:
    """The task, at its end or after `wait_s` seconds."""
    until_s = services.clock.monotonic_s() + wait_s
    while True:
        # Watch before reading: an end between the two would be missed.
        with services.feed.watch(task_id) as woken:
            task = await read_task(services, who, task_id)
            left_s = until_s - services.clock.monotonic_s()
            if TaskStatus(task["status"]).terminal or left_s <= 0 or services.stopping:
                return task
            await services.feed.woken(woken, left_s)
