"""The parts that settings alone decide: what thinks, what lets calls leave, what a request may leave out."""

from decimal import Decimal

from app.agent.caching import Caching
from app.agent.escalation import Ladder
from app.agent.fallback import Fallback
from app.agent.job import HistoryLimits
from app.agent.loop import AgentLoop
from app.agent.quote import QuoteLimits
from app.api.services import Defaults
from app.budget.accounts import ServiceLimits
from app.budget.turns import Turns
from app.domain.clock import US_PER_S, Clock
from app.domain.lease import Lease
from app.domain.money import nano_from_usd
from app.llm.call import Drain
from app.llm.caller import Caller, CallLimits
from app.llm.governor.governor import Governor, GovernorLimits
from app.llm.live import Live
from app.llm.pricing import PriceBook
from app.llm.provider import Provider
from app.llm.retry import RetryLimits
from app.llm.retry_budget import RetryBudget, RetryTerms
from app.llm.router import Tiers
from app.llm.routing.decide import Thresholds
from app.llm.routing.score import shipped
from app.observe.logs import Redactor
from app.opening import (
    make_economy,
    today,
)
from app.settings import Settings
from app.store.port import ListenedStore
from app.tools.registry import ToolRegistry
from app.tools.run import ToolLimits


def agent_loop(  # noqa: PLR0917  (see `wire`)
    settings: Settings,
    clock: Clock,
    prices: PriceBook,
    tools: ToolRegistry,
    store: ListenedStore,
    provider: Provider,
    turns: Turns,
    lease: Lease,
    live: Live,
    governor: Governor,
) -> AgentLoop:
    """What thinks, and how it asks a model."""
    retry = RetryLimits(settings.retry_attempts, settings.retry_total_s)
    limits = CallLimits(settings.call_timeout_s, settings.park_after_s, retry)
    tiers = Tiers(settings.routes, prices, lambda: today(clock))
    drain, redactor = Drain(), Redactor(settings.secrets())
    terms = RetryTerms(settings.retry_budget_tokens, probe_s=settings.retry_probe_s)
    caller = Caller(
        store,
        provider,
        prices,
        turns,
        clock,
        limits,
        drain=drain,
        lease=lease,
        redactor=redactor,
        service=service_limits(settings),
        live=live,
        retries=RetryBudget(clock, terms, turns.call),
        governor=governor,
    )
    asks = store, provider, prices, turns, clock, drain, redactor
    return AgentLoop(
        store,
        caller,
        tools,
        clock,
        tool_limits=ToolLimits(
            result_limit_bytes=settings.tool_result_limit_bytes,
            timeout_limit_s=settings.tool_timeout_s,
        ),
        stream_above_tokens=settings.stream_above_tokens,
        economy=make_economy(settings, *asks, service_limits(settings)),
        cheaper=tiers.cheaper,
        ladder=Ladder(
            tiers.stronger,
            tiers.row,
            settings.escalation_limit,
            Fallback(store, caller, clock, tiers.row, settings.fallback_after_s),
        ),
        drain=drain,
        lease=lease,
        redactor=redactor,
        history_limits=HistoryLimits(settings.task_event_limit, settings.task_history_limit_bytes),
        caching=Caching(
            tiers.row if settings.prompt_caching else None, clock, wait_s=settings.cache_wait_s
        ),
    )


def make_governor(settings: Settings, clock: Clock, turns: Turns) -> Governor:
    """What lets model calls leave."""
    limits = GovernorLimits(
        settings.call_concurrency_start, settings.call_concurrency_limit, settings.park_after_s
    )
    governor = Governor(clock, limits)
    governor.on_turn = turns.call
    return governor


def service_limits(settings: Settings) -> ServiceLimits:
    """The budgets of the whole service."""

    def nano(usd: Decimal | None) -> int | None:
        return None if usd is None else nano_from_usd(usd)

    return ServiceLimits(
        nano(settings.service_daily_budget_usd),
        nano(settings.service_monthly_budget_usd),
        nano(settings.service_budget_usd),
        settings.budget_warning_percent,
    )


def defaults_of(settings: Settings) -> Defaults:
    return Defaults(
        routes=settings.routes,
        fallback=settings.fallback_models,
        complexity=settings.default_complexity,
        thresholds=Thresholds(settings.auto_medium_score, settings.auto_complex_score),
        weights=shipped(),
        classify=settings.auto_classifier,
        task_budget_nano=nano_from_usd(settings.task_budget_usd),
        session_budget_nano=nano_from_usd(settings.session_budget_usd),
        service=service_limits(settings),
        quote=QuoteLimits(
            settings.retry_attempts, settings.tool_result_limit_bytes, settings.prompt_caching
        ),
        max_steps=settings.max_steps,
        max_tokens=settings.max_tokens,
        deadline_s=settings.task_deadline_s,
        economy_deadline_s=settings.economy_deadline_s,
        ageing_us=int(settings.priority_ageing_s * US_PER_S),
    )
