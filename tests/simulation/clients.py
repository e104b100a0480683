"""What the clients of a simulated world ask for, and how they go about it."""

import asyncio
from random import Random
from typing import Any, Protocol

import orjson

from tests.simulation.now import Nature, pause
from tests.simulation.process import ConnectionLost

TERMINAL = {"succeeded", "failed", "cancelled"}
PLENTY_USD = 50
WISH = "wish"
"""The field of a task's metadata that names the wish it came of."""
_TRIES = 6
_MORE = {"max_steps": 20, "budget_usd": 1, "deadline_s": 1_800}
_TOOLS = ["calculator", "text_stats"]


class Service(Protocol):
    """Whatever answers at the service's address."""

    async def request(
        self, method: str, path: str, body: Any = None, key: str | None = None
    ) -> tuple[int, Any]:
        """Status and JSON; ConnectionLost when none came. `key` is the `Idempotency-Key`."""
        ...


def wish(draw: Random) -> dict[str, Any]:
    """The body of one submission."""
    sim: dict[str, Any] = {}
    body: dict[str, Any] = {"complexity": "simple", "priority": draw.randint(0, 9)}
    if draw.random() < 0.7:
        sim = {"steps": draw.randint(1, 4), "parallel": draw.randint(1, 2)}
        body["tools"] = _TOOLS
    match draw.randint(0, 7):
        case 0 | 1 | 2 | 3:
            body |= {"session_id": f"tight-{draw.randint(0, 1)}", "max_tokens": 4_000}
        case 4 | 5:
            body["budget_usd"] = draw.choice((0.0004, 0.0009, 0.003, 0.02))
        case 6:
            body |= {"max_tokens": 9_000}  # streamed
        case _:
            body["deadline_s"] = draw.choice((5, 60, 1_800))
    body["on_budget"] = draw.choice(("fail", "pause", "pause", "finalize"))
    number = draw.randint(1, 999)
    if number % 3 == 0 and not sim and body["on_budget"] != "finalize":
        body["urgency"] = "economy"
    directive = f" [[sim {orjson.dumps(sim).decode()}]]" if sim else ""
    return {**body, "task": f"Question {number}: why is the sky blue?{directive}"}


async def client(service: Service, nature: Nature, accepted: set[str], draw: Random) -> None:
    """Submit a few tasks, and meddle with some of them."""
    for _ in range(draw.randint(1, 4)):
        await pause(draw.choice((0, 0.01, 0.5, 3)))
        key = f"{draw.getrandbits(64):016x}"
        asked = {**wish(draw), "metadata": {WISH: key}}
        task_id = await _submit(service, nature, key, asked, draw)
        if task_id is None:
            continue
        accepted.add(task_id)
        try:
            await _meddle(service, nature, task_id, draw)
        except ConnectionLost:
            nature.reached["connection lost"] += 1
            await pause(1)


async def _submit(
    service: Service, nature: Nature, key: str, asked: dict[str, Any], draw: Random
) -> str | None:
    """Ask until there is an answer, sometimes twice at once; all that accept must name one task."""
    named: set[str] = set()
    for _ in range(_TRIES):
        at_once = 2 if draw.random() < 0.2 else 1
        posts = (service.request("POST", "/tasks", asked, key) for _ in range(at_once))
        answers = await asyncio.gather(*posts, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                if not isinstance(answer, ConnectionLost):
                    raise answer
                nature.reached["connection lost"] += 1
                continue
            named |= _accepted(nature, *answer)
        if not any(isinstance(answer, ConnectionLost) for answer in answers):
            break
        nature.reached["sent again"] += 1
        await pause(draw.choice((0.05, 1, 5)))
    if len(named) > 1:
        nature.violations.append(f"one Idempotency-Key was answered with {sorted(named)}")
    return min(named, default=None)


def _accepted(nature: Nature, status: int, shown: Any) -> set[str]:
    """The task, if one was accepted."""
    if status == 202:
        return {shown["id"]}
    nature.reached[f"refused {status}"] += 1
    if status >= 500 and status not in (503, 507):
        nature.violations.append(f"POST /tasks answered {status}: {shown}")
    return set()


async def _meddle(service: Service, nature: Nature, task_id: str, draw: Random) -> None:
    match draw.randint(0, 6):
        case 0:
            await pause(draw.choice((0, 0.005, 0.3, 2)))
            status, _ = await service.request("POST", f"/tasks/{task_id}/cancel")
            if status < 300:
                nature.called_off[task_id] = asyncio.get_running_loop().time()
        case 1:
            await pause(draw.uniform(0, 5))
            await service.request("PUT", f"/tasks/{task_id}/budget", {"budget_usd": 1})
        case 2:
            await service.request("GET", f"/tasks/{task_id}/events?limit=1000")
        case 3 | 4:
            await pause(draw.uniform(0, 30))
            await service.request("POST", f"/tasks/{task_id}/retry", _MORE)
        case _:
            pass


async def until_ended(service: Service, accepted: set[str], within_s: float) -> list[str]:
    """Raise the budgets of whatever is paused until every task has ended; returns what never did."""
    left = sorted(accepted)
    for _ in range(int(within_s)):
        left = [one for one in left if not await _ended(service, one)]
        if not left and not await _others(service):
            return []
        await pause(1)
    return left or await _others(service)


async def _ended(service: Service, task_id: str) -> bool:
    status, task = await service.request("GET", f"/tasks/{task_id}")
    if status == 200 and task["status"] == "paused":
        await _raise(service, task)
    return status == 200 and task["status"] in TERMINAL


async def _others(service: Service) -> list[str]:
    """Tasks that were taken although no client ever heard so."""
    _, page = await service.request("GET", "/tasks?limit=200")
    left = [task for task in page["tasks"] if task["status"] not in TERMINAL]
    for task in left:
        if task["status"] == "paused":
            await _raise(service, task)
    return sorted(task["id"] for task in left)


async def _raise(service: Service, task: dict[str, Any]) -> None:
    plenty = {"budget_usd": PLENTY_USD}
    await service.request("PUT", f"/tasks/{task['id']}/budget", plenty)
    await service.request("PUT", f"/sessions/{task['session_id']}/budget", plenty)
