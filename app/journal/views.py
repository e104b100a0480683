"""What an event looks like from outside: as public fields, as a log line, as metrics."""

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import Any

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
from app.observe.logs import EVENT_LOGGER
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
        record = self._logger.makeRecord(
            EVENT_LOGGER, event.level, "", 0, event.name, (), None, extra={"fields": line}
        )
        self._logger.handle(record)


class MetricsView:
    """Every committed event as counts. Words that come from upstream are bounded before they become labels."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._models = BoundedLabels()
        self._outcomes = BoundedLabels()

    def __call__(self, entry: Recorded) -> None:
        metrics = self._metrics
        match entry.event:
            case TaskAccepted():
                metrics.accepted.inc()
            case TaskRequeued(reason="restart" | "lease_expired"):
                metrics.orphans.inc()
            case TaskFinished(status=status, outcome=outcome, duration_s=duration_s):
                metrics.tasks.labels(status, outcome).inc()
                metrics.task_seconds.observe(duration_s)
            case ToolFinished(outcome=outcome, duration_s=duration_s):
                metrics.tools.labels(outcome).inc()
                metrics.step_seconds.labels("tool").observe(duration_s)
            case other:
                self._attempt(other)

    def _attempt(self, event: Event) -> None:
        metrics = self._metrics
        match event:
            case ModelAnswered():
                self._answered(event)
            case AttemptFailed(error_type=error_type, kind=kind):
                outcome = self._outcomes.of(error_type)
                metrics.upstream.labels(self._models.of(event.model), outcome).inc()
                self._lost(event.model, event.charged_nano, presumed=kind == "presumed")
            case AttemptPresumed():
                self._lost(event.model, event.charged_nano, presumed=True)
            case ReservationExceeded():
                metrics.overage.inc()
            case RetryScheduled(reason=reason):
                metrics.retries.labels(self._outcomes.of(reason)).inc()
            case other:
                self._route(other)

    def _route(self, event: Event) -> None:
        metrics = self._metrics
        match event:
            case ModelRouted(by=by, complexity=complexity):
                metrics.routed.labels(by, complexity).inc()
            case ModelEscalated(why=why):
                metrics.switches.labels(why).inc()
            case ModelFellBack():
                metrics.switches.labels("fallback").inc()
            case ModelDowngraded():
                metrics.switches.labels("budget").inc()
            case AttemptReturned(result=result):
                metrics.batch_items.labels(result).inc()
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
        metrics.upstream.labels(model, "answered").inc()
        metrics.step_seconds.labels("model").observe(event.duration_s)
        for meter, count in (
            ("input", event.input_tokens),
            ("output", event.output_tokens),
            ("cache_read", event.cache_read_tokens),
            ("cache_write", event.cache_write_5m_tokens + event.cache_write_1h_tokens),
        ):
            if count:
                metrics.tokens.labels(meter).inc(count)
