"""Metrics as views of events."""

from dataclasses import replace
from typing import cast

import pytest

from app.domain.task import Subject
from app.journal.call_events import AttemptFailed, AttemptPresumed, ReservationExceeded
from app.journal.event import Event
from app.journal.events import ModelDowngraded, ModelEscalated, ModelRouted, TaskRequeued
from app.journal.journal import Recorded
from app.journal.views import MetricsView
from app.observe.metrics import Metrics
from tests.support.events import example

PRESUMED = AttemptPresumed(
    step=1,
    attempt=1,
    model="m",
    charged_nano=1_500_000_000,
    task_spent_nano=1_500_000_000,
    reason="restart",
)
EXCEEDED = ReservationExceeded(
    step=1, attempt=1, model="m", reserved_nano=1, actual_nano=3, surplus_nano=2
)


def _failed(charged_nano: int) -> AttemptFailed:
    return AttemptFailed(
        step=1,
        attempt=1,
        model="m",
        error_type="timeout",
        error_message="",
        http_status=None,
        phase="lost",
        decision="retry",
        charged_nano=charged_nano,
        kind="presumed" if charged_nano else None,
        task_spent_nano=charged_nano,
        duration_s=1.0,
        request_id=None,
    )


@pytest.mark.parametrize(
    ("event", "name", "labels", "value"),
    [
        (PRESUMED, "bursar_presumed_spent_usd_total", {}, 1.5),
        (PRESUMED, "bursar_spend_usd_total", {"model": "m"}, 1.5),
        (_failed(500_000_000), "bursar_presumed_spent_usd_total", {}, 0.5),
        (_failed(500_000_000), "bursar_spend_usd_total", {"model": "m"}, 0.5),
        (_failed(0), "bursar_presumed_spent_usd_total", {}, 0.0),
        (
            _failed(0),
            "bursar_upstream_requests_total",
            {"model": "m", "outcome": "timeout"},
            1.0,
        ),
        (EXCEEDED, "bursar_reservation_overage_total", {}, 1.0),
        (TaskRequeued("restart", 0), "bursar_orphans_rescued_total", {}, 1.0),
        (TaskRequeued("drain", 0), "bursar_orphans_rescued_total", {}, 0.0),
        (
            replace(cast("ModelRouted", example(ModelRouted)), by="router", complexity="simple"),
            "bursar_tasks_routed_total",
            {"by": "router", "complexity": "simple"},
            1.0,
        ),
        (
            ModelEscalated(1, "m", "n", "refused", 1, 10, 10),
            "bursar_model_switches_total",
            {"reason": "refused"},
            1.0,
        ),
        (
            ModelDowngraded(1, "m", "n", "task", 10),
            "bursar_model_switches_total",
            {"reason": "budget"},
            1.0,
        ),
    ],
    ids=range(12),
)
def test_counts(event: Event, name: str, labels: dict[str, str], value: float) -> None:
    """What the API's tests cannot bring about is counted as well."""
    metrics = Metrics("1.0")
    MetricsView(metrics)(Recorded(1, 0, Subject("t", "s"), event))
    assert metrics.registry.get_sample_value(name, labels) == pytest.approx(value)


def test_two_services() -> None:
    """Two services in one process do not share their counts."""
    one, other = Metrics("1.0"), Metrics("1.0")
    one.accepted.inc()
    assert other.registry.get_sample_value("bursar_tasks_accepted_total") == 0.0
    assert b"bursar_tasks_accepted_total 1.0" in one.render()
