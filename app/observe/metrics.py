"""Prometheus metrics. Names: base units, `_total` for counters; never a task, session or key as a label."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_TASK_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_STEP_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_NANO = 1e-9


LABEL_VALUES_LIMIT = 64
"""Values of one label that come from outside; those after that many count as `other`."""


class BoundedLabels:
    """The values of a label, bounded: an upstream that makes up names must not fill the memory."""

    def __init__(self) -> None:
        self._seen: set[str] = set()

    def of(self, value: str) -> str:
        """The value, or `other` once too many different ones were seen."""
        if value not in self._seen:
            if len(self._seen) >= LABEL_VALUES_LIMIT:
                return "other"
            self._seen.add(value)
        return value


class Metrics:
    """One registry a process, so that two services in one test do not share counts."""

    def __init__(self, version: str) -> None:
        self.registry = registry = CollectorRegistry()
        self.accepted = Counter("bursar_tasks_accepted", "Tasks accepted.", registry=registry)
        self.tasks = Counter(
            "bursar_tasks",
            "Tasks that ended, by status and outcome.",
            ["state", "outcome"],
            registry=registry,
        )
        self.task_seconds = Histogram(
            "bursar_task_duration_seconds",
            "From acceptance to the end.",
            buckets=_TASK_SECONDS,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "bursar_step_duration_seconds",
            "Model attempts and tool calls.",
            ["kind"],
            buckets=_STEP_SECONDS,
            registry=registry,
        )
        self.orphans = Counter(
            "bursar_orphans_rescued",
            "Tasks put back that a dead process was running.",
            registry=registry,
        )
        self.leases_lost = Counter(
            "bursar_leases_lost",
            "Times this process lost its lease and stopped its runs.",
            registry=registry,
        )
        self._define_calls()
        self._define_gauges(version)

    def _define_calls(self) -> None:
        registry = self.registry
        self.spend_usd = Counter(
            "bursar_spend_usd", "Settled, by model.", ["model"], registry=registry
        )
        self.presumed_usd = Counter(
            "bursar_presumed_spent_usd", "Settled for answers that were lost.", registry=registry
        )
        self.overage = Counter(
            "bursar_reservation_overage",
            "Answers that cost more than was reserved for them. Alert above 0.",
            registry=registry,
        )
        self.rejections = Counter(
            "bursar_budget_rejections",
            "Submissions refused by a spent budget.",
            ["scope"],
            registry=registry,
        )
        self.upstream = Counter(
            "bursar_upstream_requests",
            "Model attempts, by outcome.",
            ["model", "outcome"],
            registry=registry,
        )
        self.retries = Counter(
            "bursar_retries", "Attempts repeated, by reason.", ["reason"], registry=registry
        )
        self.routed = Counter(
            "bursar_tasks_routed",
            "Decisions of the router, by who made them and what they came to.",
            ["by", "complexity"],
            registry=registry,
        )
        self.switches = Counter(
            "bursar_model_switches",
            "Another model went on, by reason; budget: a cheaper one.",
            ["reason"],
            registry=registry,
        )
        self.batch_items = Counter(
            "bursar_batch_items_returned",
            "Economy questions that came back, by what the batch says of them.",
            ["outcome"],
            registry=registry,
        )
        self.tools = Counter(
            "bursar_tool_calls", "Tool calls, by outcome.", ["outcome"], registry=registry
        )
        self.tokens = Counter("bursar_tokens", "Tokens, by meter.", ["meter"], registry=registry)

    def _define_gauges(self, version: str) -> None:
        registry = self.registry
        self.queue_depth = Gauge(
            "bursar_queue_depth", "Tasks waiting.", ["priority"], registry=registry
        )
        self.queue_age = Gauge(
            "bursar_queue_oldest_age_seconds", "Age of the oldest waiting task.", registry=registry
        )
        self.batch_depth = Gauge(
            "bursar_batch_items",
            "Economy questions: waiting to be sent, in_batch, or returned and waiting for a worker.",
            ["state"],
            registry=registry,
        )
        self.running = Gauge("bursar_tasks_running", "Tasks in flight.", registry=registry)
        self.reserved_usd = Gauge(
            "bursar_reserved_usd", "Held for calls in flight.", registry=registry
        )
        self.sse_clients = Gauge("bursar_sse_clients", "Open event streams.", registry=registry)
        build = Gauge("bursar_build_info", "The running version.", ["version"], registry=registry)
        build.labels(version).set(1)

    def spent(self, model: str, nano: int) -> None:
        """Count settled money."""
        self.spend_usd.labels(model).inc(nano * _NANO)

    def render(self) -> bytes:
        """The metrics in Prometheus' text format."""
        return generate_latest(self.registry)
