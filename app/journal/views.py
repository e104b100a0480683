"""What an event looks like from outside: as public fields, as a log line, as metrics."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar, cast

from prometheus_client import Counter, Histogram

from app.domain.clock import rfc3339
from app.domain.money import usd_from_nano
from app.journal.call_events import (
    AttemptFailed,
    AttemptPresumed,
    AttemptReturned,
    ModelAnswered,
    ReservationExceeded,
    RetryScheduled,
)
from app.journal.event import Event
from app.journal.events import (
    EVENTS,
    ModelDowngraded,
    ModelEscalated,
    ModelFellBack,
    ModelRouted,
    TaskAccepted,
    TaskFinished,
    TaskRequeued,
    ToolFinished,
)
from app.journal.journal import Recorded
from app.observe.logs import EVENT_LOGGER, EventRecord
from app.observe.metrics import BoundedLabels, Metrics


def _public(name: str) -> tuple[str, str, Callable[[Any], Any] | None]:
    """A field's name, its name outside, and how its value is shown there."""
    if name.endswith("_nano"):
        return name, name.removesuffix("_nano") + "_usd", _usd
    if name.endswith("_at_us"):
        return name, name.removesuffix("_us"), rfc3339
    if name.endswith("_s"):
        return name, name, _seconds
    return name, name, None


def _usd(nano: int | tuple[int, ...]) -> float | tuple[float, ...]:
    return tuple(map(usd_from_nano, nano)) if isinstance(nano, tuple) else usd_from_nano(nano)


def _seconds(value: float) -> float:
    """Never negative: the wall clock may be set back between two instants."""
    return max(round(value, 6), 0.0)


M = TypeVar("M", Counter, Histogram)

_FIELDS = {
    kind.name: tuple(_public(field.name) for field in fields(kind)) for kind in EVENTS.values()
}


def public_fields(event: Event) -> dict[str, Any]:
    """The event's fields for the outside: money in USD, instants as RFC 3339 text."""
    shown: dict[str, Any] = {}
    for name, public, convert in _FIELDS[event.name]:
        value = getattr(event, name)
        if value is not None:
            shown[public] = value if convert is None else convert(value)
    return shown


def public_entry(entry: Recorded) -> dict[str, Any]:
    """A journal entry as the events API shows it."""
    return {
        "seq": entry.seq,
        "type": entry.event.name,
        "at": rfc3339(entry.at_us),
        "run": entry.subject.run,
        "data": public_fields(entry.event),
    }


class LogView:
    """Every committed event as one log line."""

    def __init__(self, *, simulated: bool) -> None:
        self._logger = logging.getLogger(EVENT_LOGGER)
        self._simulated = simulated

    def __call__(self, entry: Recorded) -> None:
        event, subject = entry.event, entry.subject
        if not self._logger.isEnabledFor(event.level):
            return
        line = {
            "task_id": subject.task_id,
            "session_id": subject.session_id,
            "run": subject.run,
            "seq": entry.seq,
        }
        if self._simulated:
            line["simulated"] = True
        line.update(public_fields(event))
        self._logger.handle(EventRecord(event.level, event.name, line))


class MetricsView:
    """Every committed event as counts. Words that come from upstream are bounded before they become labels."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._models = BoundedLabels()
        self._outcomes = BoundedLabels()
        self._children: dict[tuple[object, ...], Any] = {}

    def _of(self, metric: M, *labels: str) -> M:
        """The metric of these labels; to ask itself costs four times as much."""
        key = (metric, *labels)
        child = self._children.get(key)
        if child is None:
            child = self._children[key] = metric.labels(*labels)
        return cast("M", child)

    def __call__(self, entry: Recorded) -> None:
        metrics = self._metrics
        match entry.event:
            case TaskAccepted():
                metrics.accepted.inc()
            case TaskRequeued(reason="restart" | "lease_expired"):
                metrics.orphans.inc()
            case TaskFinished(status=status, outcome=outcome, duration_s=duration_s):
                self._of(metrics.tasks, status, outcome).inc()
                metrics.task_seconds.observe(duration_s)
            case ToolFinished(outcome=outcome, duration_s=duration_s):
                self._of(metrics.tools, outcome).inc()
                self._of(metrics.step_seconds, "tool").observe(duration_s)
            case other:
                self._attempt(other)

    def _attempt(self, event: Event) -> None:
        metrics = self._metrics
        match event:
            case ModelAnswered():
                self._answered(event)
            case AttemptFailed(error_type=error_type, kind=kind):
                outcome = self._outcomes.of(error_type)
                self._of(metrics.upstream, self._models.of(event.model), outcome).inc()
                self._lost(event.model, event.charged_nano, presumed=kind == "presumed")
            case AttemptPresumed():
                self._lost(event.model, event.charged_nano, presumed=True)
            case ReservationExceeded():
                metrics.overage.inc()
            case RetryScheduled(reason=reason):
                self._of(metrics.retries, self._outcomes.of(reason)).inc()
            case other:
                self._route(other)

    def _route(self, event: Event) -> None:
        metrics = self._metrics
        match event:
            case ModelRouted(by=by, complexity=complexity):
                self._of(metrics.routed, by, complexity).inc()
            case ModelEscalated(why=why):
                self._of(metrics.switches, why).inc()
            case ModelFellBack():
                self._of(metrics.switches, "fallback").inc()
            case ModelDowngraded():
                self._of(metrics.switches, "budget").inc()
            case AttemptReturned(result=result):
                self._of(metrics.batch_items, result).inc()
            case _:
                pass

    def _lost(self, model: str, charged_nano: int, *, presumed: bool) -> None:
        if charged_nano:
            self._metrics.spent(self._models.of(model), charged_nano)
        if presumed:
            self._metrics.presumed_usd.inc(usd_from_nano(charged_nano))

    def _answered(self, event: ModelAnswered) -> None:
        metrics, model = self._metrics, self._models.of(event.model)
        metrics.spent(model, event.cost_nano)
        self._of(metrics.upstream, model, "answered").inc()
        self._of(metrics.step_seconds, "model").observe(event.duration_s)
        for meter, count in (
            ("input", event.input_tokens),
            ("output", event.output_tokens),
            ("cache_read", event.cache_read_tokens),
            ("cache_write", event.cache_write_5m_tokens + event.cache_write_1h_tokens),
        ):
            if count:
                self._of(metrics.tokens, meter).inc(count)
