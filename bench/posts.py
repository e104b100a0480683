"""POST /tasks alone: one worker hangs in a call, so that the queue only fills."""

from dataclasses import dataclass
from time import monotonic

from bench.client import submit_all
from bench.noise import Spread
from bench.process import cpu_s
from bench.service import serving
from bench.workload import submission

CONNECTIONS = 32
_WARM_UP = 300


@dataclass(frozen=True, slots=True)
class Posts:
    """What accepting a task costs."""

    cpu_us: Spread
    per_s: Spread
    """Wall time, with the client on the same machine."""


async def measure(url: str, count: int, rounds: int) -> Posts:
    """`count` submissions a round, each round in a fresh service."""
    cpu_us, per_s, body = [], [], submission("w1")
    for _ in range(rounds):
        async with serving(f"{url}/hang", workers=1, BURSAR_QUEUE_LIMIT="1000000") as service:
            await submit_all(service.port, body, _WARM_UP, CONNECTIONS)
            await service.settle()
            used_s, began_s = cpu_s(service.pid), monotonic()
            await submit_all(service.port, body, count, CONNECTIONS)
            per_s.append(count / (monotonic() - began_s))
            cpu_us.append((cpu_s(service.pid) - used_s) / count * 1e6)
    return Posts(Spread.of(cpu_us), Spread.of(per_s))
