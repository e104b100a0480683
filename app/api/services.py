"""What the endpoints work with; put together by `app.main`."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import Request

from app.agent.quote import QuoteLimits
from app.api.gate import Gate
from app.budget.accounts import ServiceLimits
from app.budget.keys import Principal
from app.budget.turns import Turns
from app.domain.clock import Clock
from app.domain.record import record
from app.domain.task import AskedComplexity, Complexity
from app.journal.feed import Feed
from app.llm.batching.port import SellsBatches
from app.llm.governor.governor import Governor
from app.llm.live import Live
from app.llm.pricing import PriceBook
from app.llm.provider import Provider, WarmsUp
from app.llm.routing.decide import Thresholds
from app.llm.routing.score import Weights
from app.observe.metrics import Metrics
from app.queue.port import Queue
from app.store.port import Store
from app.store.space import DiskSpace
from app.tools.registry import ToolRegistry

_WHO = "bursar.principal"
"""Where a request keeps what was found, for who asks again."""


@record(frozen=True, slots=True)
class Defaults:
    """What a submission gets that does not say otherwise."""

    routes: Mapping[Complexity, str]
    fallback: tuple[str, ...]
    """The service's chain of models, the first choice first."""
    complexity: AskedComplexity
    thresholds: Thresholds
    weights: Weights
    """What the router knows."""
    classify: bool
    task_budget_nano: int
    session_budget_nano: int
    service: ServiceLimits
    quote: QuoteLimits
    max_steps: int
    max_tokens: int
    deadline_s: float
    economy_deadline_s: float
    ageing_us: int
    """How much waiting is worth a level of priority."""


@dataclass(slots=True)
class Services:
    """One a process."""

    gate: Gate
    store: Store
    queue: Queue
    feed: Feed
    tools: ToolRegistry
    prices: PriceBook
    metrics: Metrics
    turns: Turns
    live: Live
    governor: Governor
    clock: Clock
    defaults: Defaults
    version: str
    simulated: bool
    space: DiskSpace
    provider: Provider
    stopping: bool = False
    reports: asyncio.Lock = field(default_factory=asyncio.Lock)
    """One long report at a time: those who read a task must not wait for all of the store's readers to be done."""

    @property
    def takes_batches(self) -> bool:
        """Tasks that can wait are sent at half price."""
        return isinstance(self.provider, SellsBatches)

    def upstream_failed(self) -> bool:
        """No call can be made: the client could not be opened, and the log says why. It is tried again, for who asks next."""
        if not isinstance(self.provider, WarmsUp) or not self.provider.failed:
            return False
        self.provider.warm_up()
        return True


def services_of(request: Request) -> Services:
    """The services of the running application.

    Called by the endpoints, not injected: an injected value costs more than the rest of a submission's HTTP.
    """
    services: Services = request.app.state.services
    return services


async def principal(request: Request) -> tuple[Services, Principal]:
    """The services, and who asks for them.

    Raises:
        Unauthorized: see `Gate.principal`.
    """
    services = services_of(request)
    who: Principal | None = request.scope.get(_WHO)
    if who is None:
        who = await services.gate.principal(request.headers.get("authorization"))
        request.scope[_WHO] = who
    return services, who
